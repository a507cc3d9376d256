import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.testing.demo_store import fill_demo, word_tokenizer

STEPS = 8


def filled(folder: Path) -> Path:
    async def fill() -> None:
        store = SqlStore.open(folder / "store.sqlite")
        await fill_demo(store, tokenizer=str(folder / "tokenizer.json"), steps=STEPS)
        await store.close()

    asyncio.run(fill())
    word_tokenizer(str(folder / "tokenizer.json"))
    return folder / "store.sqlite"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    with BackgroundServer(filled(tmp_path_factory.mktemp("demo"))) as server:
        yield server


@pytest.fixture
def operator(demo: BackgroundServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {demo.key}"}
    with httpx.Client(base_url=demo.url, headers=headers) as client:
        yield client
