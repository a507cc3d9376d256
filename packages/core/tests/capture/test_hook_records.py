"""What comes of a call that the hook saw, in the store of a real server."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

import leyden
from leyden.capture import install_capture, uninstall_capture
from leyden.scope import Routing, enter_scope
from leyden.testing.capture_trial import CaptureTrial, nowhere
from leyden.testing.fake_server import FakeServer, Reply

HELLO = [{"role": "user", "content": "hello"}]
SECRET = "sk-secret-of-the-user"
ADAPTER = """
class Broken:
    name = "broken"

    def install(self): ...

    def uninstall(self): ...

    def structure(self):
        raise RuntimeError("a fault of the adapter")
"""


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[CaptureTrial]:
    install_capture(require_scope=True)
    async with CaptureTrial(tmp_path, lambda body, headers: Reply("of the policy")) as trial:
        yield trial
    uninstall_capture()


@pytest.fixture
def broken_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as any adapter is: by its distribution's entry point."""
    about = tmp_path / "site" / "broken-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[leyden.adapters]\nbroken = broken_adapter:Broken\n")
    (tmp_path / "site" / "broken_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(tmp_path / "site")


async def test_the_call_of_a_broken_adapter_still_goes_to_the_gateway_and_the_rollout_says_so(
    broken_adapter: None, trial: CaptureTrial
) -> None:
    with FakeServer([Reply("paid for")]) as provider:

        async def agent(task: str, url: str) -> str | None:
            async with openai.AsyncOpenAI(base_url=provider.url, api_key=SECRET) as client:
                answer = await client.chat.completions.create(model="m", messages=HELLO)
            return answer.choices[0].message.content

        seen = await trial.captured(agent, "a")
        assert provider.requests == []
    assert (seen.result, seen.error) == ("of the policy", None)
    (call,) = seen.calls
    assert (call.structure, call.status) == (None, "ok")
    reason = f"the adapter broken failed at call {call.id}: RuntimeError: a fault of the adapter"
    assert (seen.rollout.status, seen.rollout.incomplete) == ("incomplete", (reason,))


async def test_a_judge_and_an_embedding_are_on_record_as_context_with_what_they_were_asked(trial: CaptureTrial) -> None:
    scope = replace(await trial.claimed("a"), routing=Routing(passthrough=("judge",)))
    with FakeServer([Reply("well said")]) as provider, enter_scope(scope):
        async with openai.AsyncOpenAI(base_url=provider.url, api_key=SECRET, max_retries=0) as client:
            await client.chat.completions.create(model="judge", messages=HELLO, temperature=0)
            with pytest.raises(openai.NotFoundError):  # it has no such door: the agent's own affair
                await client.embeddings.create(model="m", input=["one", "two"])
        assert [request.headers["authorization"] for request in provider.requests] == [f"Bearer {SECRET}"]
    seen = await trial.finished(scope, "done", None)
    judged, embedded = seen.calls
    assert [call.context for call in seen.calls] == [True, True]
    assert judged.request is not None
    assert embedded.request is not None
    assert (judged.request.messages, judged.request.asked) == (tuple(HELLO), {"model": "judge", "temperature": 0})
    assert (embedded.request.path, embedded.request.messages) == (
        "/v1/embeddings",
        ({"role": "prompt", "content": ["one", "two"]},),
    )
    assert (seen.rollout.status, seen.requests, scope.call_ids) == ("succeeded", (), [])


async def test_an_agent_may_reward_its_rollout_and_one_of_its_agents(trial: CaptureTrial) -> None:
    async def agent(task: str, url: str) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key=SECRET) as client:
            await client.chat.completions.create(model="m", messages=HELLO)
        rollout = leyden.current()
        assert rollout is not None
        leyden.reward(0.5)
        leyden.reward(True, agent="writer", name="form")
        return rollout.rollout_id

    seen = await trial.captured(agent, "a", url=nowhere())
    assert (seen.result, seen.rollout.status) == ("a", "succeeded")
    given = [reward for reward in await trial.store.rewards(["a"]) if reward.source == "agent"]
    assert sorted((reward.value, reward.agent, reward.name) for reward in given) == [
        (0.5, None, "reward"),
        (1.0, "writer", "form"),
    ]
