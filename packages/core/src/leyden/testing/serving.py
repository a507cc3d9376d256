"""Serve any ASGI app on 127.0.0.1, on a port that the operating system chose, in a thread of this process.

Unlike an in-process transport, requests cross a real socket: connections drop, chunks arrive cut, clients vanish.
"""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["serve"]


@contextmanager
def serve(app: Any) -> Generator[str]:
    """Run `app` (and its lifespan) while the block runs; gives its base URL, `http://127.0.0.1:PORT`."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, interface="asgi3", log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="serve", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError(f"the server of {app!r} ended while starting; its log has the reason")
            time.sleep(0.001)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
