"""`leyden serve`: the store and the gateway."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from leyden.types import RewardFrom

__all__ = ["serve"]


def serve(
    store: Annotated[str, typer.Option(help="A database file, made if there is none, or an SQLAlchemy URL.")] = (
        "leyden.sqlite"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 lets the system choose.")] = 4700,
    keys: Annotated[Path | None, typer.Option(help="Operators' keys, as `leyden keys add` writes them.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate with its chain, PEM; the server is https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
    unattributed: Annotated[
        Literal["refuse", "record"],
        typer.Option(help="Model calls under an operator's key, of no rollout: refuse, or record (tracing)."),
    ] = "refuse",
    reward_from: Annotated[
        RewardFrom, typer.Option(help="Whose rewards are taken: any, or grader (no agent's own).")
    ] = "any",
    body_mb: Annotated[int, typer.Option(min=1, help="Longest body of a request, in MiB.")] = 32,
    rate: Annotated[float, typer.Option(min=0, help="Requests per second of one rollout's key; 0: any number.")] = 500,
    call_limit: Annotated[float, typer.Option(min=1, help="Seconds that one model call may take in all.")] = 3600,
    redact: Annotated[
        str | None, typer.Option(help="Take secrets out of what is stored: builtin, or file.py:function (text → text).")
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="text, or json: with the ids of rollouts and calls.")
    ] = "text",
    log_calls: Annotated[bool, typer.Option("--log-calls", help="A line in the log for each model call.")] = False,
) -> None:
    """Serve store and gateway until stopped. The server's own key is $LEYDEN_KEY, else leyden.key beside the file.

    Example: leyden serve --store runs/team.sqlite --port 4700 --keys leyden.keys
    """
    from leyden.errors import BadConfig
    from leyden.key_file import KeyFile
    from leyden.redaction import builtin
    from leyden.runner.reference import load_function
    from leyden.server.limits import Limits
    from leyden.server.logs import set_up_logs
    from leyden.server.options import ServerOptions
    from leyden.server.serve import operator_key
    from leyden.server.serve import serve as serve_store
    from leyden.server.tls import Tls

    if (tls_cert is None) != (tls_key is None):
        raise BadConfig("--tls-cert and --tls-key belong together")
    key = os.environ.pop("LEYDEN_KEY", None)
    if keys is None:
        operator_key(store, key)
    set_up_logs(log_format, every_call=log_calls)
    limits = Limits(body_bytes=body_mb << 20, call_s=call_limit, requests_per_s=rate)
    function = builtin if redact == "builtin" else load_function(redact) if redact else None
    options = ServerOptions(unattributed=unattributed, reward_from=reward_from, redact=function, limits=limits)
    serve_store(
        store,
        host=host,
        port=port,
        key=key,
        key_file=KeyFile(keys) if keys else None,
        tls=Tls(tls_cert, tls_key) if tls_cert and tls_key else None,
        options=options,
        ready=lambda line: print("\n".join([line, *_where_keys_are(store, keys, key)]), flush=True),
    )


def _where_keys_are(store: str, keys: Path | None, key: str | None) -> list[str]:
    """A line, where it is not $LEYDEN_KEY, which its owner knows."""
    if keys is not None:
        return [f"leyden: operators' keys are in {keys}: leyden keys list --keys {keys}"]
    if key is not None:
        return []
    where = os.path.join(os.path.dirname(os.path.abspath(store)), "leyden.key")
    return [f"leyden: the operator's key is in {where}"]
