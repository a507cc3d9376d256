"""Runs the server: in the foreground for `leyden serve`, or in a thread for a command that needs one for a while."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from leyden.dashboard.access import Doorkeeper
from leyden.errors import BadConfig
from leyden.key_file import KeyFile
from leyden.keys import Keys, new_operator_key
from leyden.server.app import create_app
from leyden.server.listening import is_loopback, listen, url_of
from leyden.server.options import DEFAULTS, ServerOptions
from leyden.server.sole import sole_server
from leyden.server.tls import Tls
from leyden.store import SqlStore
from leyden.store.redacting import open_store

__all__ = ["BackgroundServer", "operator_key", "serve"]

GRACE_S = 5
_GC_THRESHOLD = (20_000, 20, 20)  # an answer of 200 tokens is 400 objects, and none of them is in a cycle


def operator_key(store: str, given: str | None) -> str:
    """The key given, else the one kept beside the database file, made at first use and readable to its owner only."""
    if given:
        return given
    if "://" in store:
        raise BadConfig("a store on a database server needs an operator key of yours: set LEYDEN_KEY")
    path = Path(store).absolute().parent / "leyden.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another server was quicker
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(new_operator_key())
    return path.read_text().strip()


def _load(config: uvicorn.Config, tls: Tls) -> None:
    try:
        config.load()
    except (OSError, ValueError) as error:
        raise BadConfig(f"cannot use --tls-cert {tls.certificate} with --tls-key {tls.key}: {error}") from error


class _Server(uvicorn.Server):
    """Sends those away who wait for the store to change, before it waits for the requests under way."""

    def __init__(self, app: FastAPI, tls: Tls | None = None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=75,  # longer than clients keep an idle connection, so that none is cut under a request
            ssl_certfile=tls and tls.certificate,
            ssl_keyfile=tls and tls.key,
        )
        if tls is not None:
            _load(config, tls)
        super().__init__(config)
        self._stopping: asyncio.Event = app.state.stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order; the second time at once. uvicorn would repeat the signal, and so end before the store does."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        self._stopping.set()
        await super().shutdown(sockets)


def serve(
    store: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    key_file: KeyFile | None = None,
    tls: Tls | None = None,
    options: ServerOptions = DEFAULTS,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT; once the port is open, `ready` gets two lines, `leyden: serving on URL` and
    `leyden: dashboard on LINK`.

    Raises:
        BadConfig: the port is in use, another server has the database file, the store or a TLS file cannot be opened,
            there is no operator's key, or the host is not loopback and nobody chose a key.
    """
    if not is_loopback(host) and not key and key_file is None:
        raise BadConfig(
            f"refusing to listen on {host} with a key that nobody chose: give --keys FILE (`leyden keys add` "
            "writes it), or set LEYDEN_KEY to a long random one"
        )
    keys = Keys(key or (operator_key(store, key) if key_file is None else None), file=key_file)
    if "://" not in store:
        Path(store).absolute().parent.mkdir(parents=True, exist_ok=True)
    with listen(host, port) as listener, sole_server(store):
        _let_agents_finish()
        opened = open_store(store, options.redact)
        # What is loaded now stays: the collector need not look at it again each time that many answers were parsed.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)
        url = url_of(listener, secure=tls is not None)
        ready(f"leyden: serving on {url}\nleyden: dashboard on {Doorkeeper(keys).link(url)}")
        server = _Server(create_app(opened, keys, options), tls)
        _run(server, listener, opened)


def _let_agents_finish() -> None:
    """Be scheduled as a batch process on Linux, which this thread's threads inherit.

    Agents often share the server's cores. Woken for each packet it would drive out the agent that has just sent one; so
    it runs when they wait, and finds several calls to take at once. Where a core is idle nothing changes.
    """
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and then all is as it was
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _run(server: uvicorn.Server, listener: socket.socket, store: SqlStore) -> None:
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve_then_close(server, listener, store))


async def _serve_then_close(server: uvicorn.Server, listener: socket.socket, store: SqlStore) -> None:
    try:
        await server.serve([listener])
    finally:
        await store.close()


class BackgroundServer:
    """A server in a thread of this process, on a port that the system chose: `with BackgroundServer(path) as s`."""

    def __init__(self, store: str | Path, options: ServerOptions = DEFAULTS) -> None:
        self.key = new_operator_key()
        with sole_server(store) as held:
            self._store = open_store(store, options.redact)
            self._sole = held.pop_all()
        self._listener = listen("127.0.0.1", 0)
        self.url = url_of(self._listener)
        self.dashboard = Doorkeeper(Keys(self.key)).link(self.url)
        """Its address, with which a browser is let in."""
        self._server = _Server(create_app(self._store, Keys(self.key), options))
        self._thread = threading.Thread(target=self._run, name="leyden-server", daemon=True)

    def _run(self) -> None:
        _run(self._server, self._listener, self._store)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self._sole.close()
