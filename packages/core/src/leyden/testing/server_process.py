"""`leyden serve` as a process that can be killed and started again at the same URL. For fault tests."""

import os
import subprocess
import sys
from typing import Self

__all__ = ["ServerProcess"]


class ServerProcess:
    """`with ServerProcess(store) as server:` serves a store (a file or a URL) under `KEY` until the block ends."""

    KEY = "a key of the fault tests"

    def __init__(self, store: str) -> None:
        self._store = store
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Without /v1."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until the port is open; the second time at the port of the first."""
        command = [sys.executable, "-m", "leyden", "serve", "--store", self._store, "--port", str(self.port)]
        environment = {**os.environ, "LEYDEN_KEY": self.KEY}
        process = self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("leyden: serving on http://"):
            raise RuntimeError(f"the server of {self._store} did not start: {line!r}, exit status {process.wait()}")
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        self._end("kill")

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self._end("terminate")

    def _end(self, way: str) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdout is not None
        getattr(process, way)()
        process.wait()
        process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
