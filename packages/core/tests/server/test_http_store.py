from collections.abc import AsyncIterator

import pytest

from leyden.client import HttpStore
from leyden.errors import Forbidden, Unreachable
from leyden.server.serve import BackgroundServer
from leyden.testing.store_contract import StoreContract


class TestHttpStore(StoreContract):
    @pytest.fixture
    async def store(self, server: BackgroundServer) -> AsyncIterator[HttpStore]:
        store = HttpStore(server.url, server.key)
        yield store
        await store.close()


async def test_a_wrong_key_and_a_server_that_is_away_are_told_apart(server: BackgroundServer) -> None:
    stranger = HttpStore(server.url, "wrong")
    with pytest.raises(Forbidden, match="set LEYDEN_KEY"):
        await stranger.endpoints()
    await stranger.close()
    nobody = HttpStore("http://127.0.0.1:9", "key")
    with pytest.raises(Unreachable, match="start it with `leyden serve`"):
        await nobody.health()
    await nobody.close()
