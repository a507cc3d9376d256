"""Brings a database's tables up to date with Alembic, and refuses one that is not ours or is newer than we are."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from leyden.errors import BadConfig

__all__ = ["HEAD", "migrate"]

HEAD = "0004"


def migrate(engine: Engine, name: str) -> None:
    """Run what is missing, in one transaction.

    Raises:
        BadConfig: the database holds other tables, or a revision that this version does not know.
    """
    with engine.begin() as connection:
        revision = _revision(connection, name)
        if revision == HEAD:
            return
        from alembic import command  # a third of a second to import, and needed only now
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent))
        if revision is not None and revision not in {
            s.revision for s in ScriptDirectory.from_config(config).walk_revisions()
        }:
            raise BadConfig(f"{name} was written by a newer Leyden (schema {revision}, known: {HEAD}); upgrade leyden")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def _revision(connection: Connection, name: str) -> str | None:
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables and ("rollouts" in tables or len(tables) == 1):
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if tables:
        raise BadConfig(
            f"{name} holds other tables ({', '.join(sorted(tables)[:5])}); give Leyden a database of its own"
        )
    return None
