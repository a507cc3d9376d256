"""A database file has one server; what only reads it needs no lock, and a killed server leaves none."""

from pathlib import Path

import pytest

from leyden.errors import BadConfig
from leyden.server.serve import BackgroundServer
from leyden.server.sole import sole_server
from leyden.store import SqlStore
from leyden.testing.server_process import ServerProcess


def test_a_second_server_of_a_file_is_refused_by_whatever_name(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    (tmp_path / "link.sqlite").symlink_to(place)
    with BackgroundServer(place):
        for name in (place, tmp_path / "link.sqlite", f"sqlite:///{place}"):
            with pytest.raises(BadConfig, match="use that one, or stop it first"):
                sole_server(name, patience_s=0)
    sole_server(place, patience_s=0).close()


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="is its folder there"):
        sole_server(tmp_path / "none" / "store.sqlite")


def test_a_server_that_could_not_start_holds_no_lock(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    place.write_text("no database")
    with pytest.raises(BadConfig, match="is it a Leyden store"):
        BackgroundServer(place)
    sole_server(place, patience_s=0).close()


async def test_a_served_file_can_be_read(tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "store.sqlite"):
        store = SqlStore.open(tmp_path / "store.sqlite")
        assert (await store.rollouts()).rollouts == ()
        await store.close()


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    with ServerProcess(str(place)) as server:
        with pytest.raises(BadConfig, match="another server"):
            sole_server(place, patience_s=0)
        server.kill()
        sole_server(place, patience_s=0).close()


def test_servers_may_share_a_database_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "postgresql://leyden@127.0.0.1/leyden"
    with sole_server(url, patience_s=0), sole_server(url, patience_s=0):
        assert list(tmp_path.iterdir()) == []
