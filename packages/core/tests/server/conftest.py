from collections.abc import Iterator
from pathlib import Path

import pytest

from leyden.server.serve import BackgroundServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackgroundServer]:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        yield server
