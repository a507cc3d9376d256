import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a store can be opened: a file, or a database of a PostgreSQL server."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("tmp_path") / "store.sqlite")
    return request.getfixturevalue("database")
