"""CrewAI, which has no adapter. `make test-frameworks` runs it in an environment of its own."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from leyden.testing.fake_server import Reply

if importlib.util.find_spec("crewai") is None:
    pytest.skip("not in this environment: make test-frameworks", allow_module_level=True)

# CrewAI's own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ImportWarning")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI tells nobody anything, and keeps its database here."""
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CREWAI_TRACING_ENABLED", "false")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_crew_with_a_tool_is_trainable_and_unstructured(trained_calls: Any) -> None:
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    @tool
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    def agent(url: str) -> str:
        llm = LLM(model="openai/m", base_url=url, api_key="sk-x")
        solver = Agent(role="solver", goal="solve", backstory="solves", llm=llm, tools=[double])
        task = Task(description="2 x 21?", expected_output="a number", agent=solver)
        return str(Crew(agents=[solver], tasks=[task]).kickoff())

    calls, said = trained_calls([Reply(tool_calls=[("double", {"number": 21})]), Reply("42")], agent)
    assert said == "42"
    assert any("42" in str(message["content"]) for message in calls[1].request.messages)
