"""`leyden serve`: the store and the gateway."""

import os
from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    store: Annotated[str, typer.Option(help="A database file, made if there is none, or an SQLAlchemy URL.")] = (
        "leyden.sqlite"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 lets the system choose.")] = 4700,
    unattributed: Annotated[
        str, typer.Option(help="Model calls under the operator's key, of no rollout: refuse, or record (tracing).")
    ] = "refuse",
) -> None:
    """Serve store and gateway until stopped. The operator's key is $LEYDEN_KEY, else leyden.key beside the file.

    Example: leyden serve --store runs/team.sqlite --port 4700
    """
    from leyden.errors import BadConfig
    from leyden.server.serve import operator_key
    from leyden.server.serve import serve as serve_store

    if unattributed not in ("refuse", "record"):
        raise BadConfig(f"--unattributed is {unattributed!r}; expected refuse or record")
    key = os.environ.pop("LEYDEN_KEY", None)
    operator_key(store, key)

    def ready(line: str) -> None:
        print(line, flush=True)
        if key is None:
            where = os.path.join(os.path.dirname(os.path.abspath(store)), "leyden.key")
            print(f"leyden: the operator's key is in {where}", flush=True)

    serve_store(store, host=host, port=port, key=key, unattributed=unattributed, ready=ready)
