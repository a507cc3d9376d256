"""A pytest plugin: writes every test's outcome to a file, and with --hooks runs all of them under Leyden's capture.

Unlike an agent's, the tests' rollout has no server unless one is named: what the hooks capture is counted, and goes
nowhere.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from leyden.adapters import installed_adapters
from leyden.capture import flush, install_capture
from leyden.scope import Scope, scope_variable, set_process_scope

__all__ = ["pytest_addoption", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options with which the suites are run."""
    parser.addoption("--hooks", action="store_true", help="install Leyden's capture")
    parser.addoption("--rollout", nargs=3, metavar=("ID", "SERVER", "KEY"), help="train this one; else it is tracing")
    parser.addoption("--outcomes", type=Path, required=True, help="the file for the outcomes")


def pytest_configure(config: pytest.Config) -> None:
    """Install the hooks before any test module is imported, in a scope that every thread and event loop is in."""
    rollout_id, server_url, key = config.option.rollout or ("sdk-suites", None, None)
    attempt = 0 if server_url is None else 1
    scope = Scope(rollout_id, attempt, server_url, key, gateway=server_url is not None)
    if config.option.hooks:
        install_capture()
        scope_variable.set(scope)
        set_process_scope(scope)
    config.pluginmanager.register(_Outcomes(config.option.outcomes, scope))


class _Outcomes:
    """What became of each test: the worst of its setup, call and teardown."""

    def __init__(self, path: Path, scope: Scope) -> None:
        self._path = path
        self._scope = scope
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A setup or teardown that went well says nothing; one that did not says more than the call."""
        if report.when == "call" or not report.passed:
            xfail = "as expected, " if hasattr(report, "wasxfail") else ""
            part = "" if report.when == "call" or report.skipped else f" in {report.when}"
            self._outcomes[report.nodeid] = f"{xfail}{report.outcome}{part}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read has no tests, and is one that failed."""
        if report.failed:
            self._outcomes[report.nodeid] = "failed in collection"

    def pytest_sessionfinish(self) -> None:
        """Write it all, with the calls that the hooks captured and the captures that failed."""
        flush(self._scope, timeout_s=60.0)
        written: dict[str, Any] = {
            "outcomes": self._outcomes,
            "call_ids": self._scope.call_ids,
            "losses": self._scope.losses,
            "adapters": installed_adapters(),
        }
        self._path.write_text(json.dumps(written))
