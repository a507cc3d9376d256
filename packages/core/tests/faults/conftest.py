"""How much is to be survived, and the line that says what was. `make faults` asks for more than a test run does."""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

_SURVIVED = pytest.StashKey[Counter[str]]()


class Kills:
    """Numbers, one for each kill of a test: as many as were asked for, or as the time allows."""

    def __init__(self) -> None:
        self.most = int(os.environ.get("LEYDEN_FAULT_KILLS", "2"))
        self._time_s = float(os.environ.get("LEYDEN_FAULT_SECONDS", "600"))

    def __iter__(self) -> Iterator[int]:
        ends = time.monotonic() + self._time_s
        for number in range(self.most):
            if time.monotonic() > ends:
                return
            yield number


@pytest.fixture
def kills() -> Kills:
    return Kills()


@pytest.fixture(scope="session")
def survived(request: pytest.FixtureRequest) -> Counter[str]:
    """What the tests of this run survived, and what they found wrong."""
    return request.config.stash.setdefault(_SURVIVED, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = terminalreporter.config.stash.get(_SURVIVED, Counter())
    if counts:
        wrong = ("lost", "twice", "stuck")
        done = ", ".join(f"{count} {what}" for what, count in counts.items() if what not in wrong)
        terminalreporter.write_line(f"survived: {done}; " + ", ".join(f"{counts[what]} {what}" for what in wrong))
