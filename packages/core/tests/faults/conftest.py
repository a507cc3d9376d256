"""How much is to be survived, and the line that says what was. `make faults` asks for more than a test run does."""

import os
from collections import Counter

import pytest

_SURVIVED = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def kills() -> int:
    """How often each test kills something."""
    return int(os.environ.get("LEYDEN_FAULT_KILLS", "3"))


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
