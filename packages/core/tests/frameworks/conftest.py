"""Agents of frameworks that have no adapter, in a rollout behind a real gateway; the policy is scripted."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leyden.capture import install_capture, uninstall_capture
from leyden.testing.capture_trial import CaptureTrial
from leyden.testing.fake_server import Reply
from leyden.types import Call


@pytest.fixture(autouse=True)
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


@pytest.fixture
def trained_calls(tmp_path: Path) -> Callable[..., tuple[list[Call], Any]]:
    """Run an agent, a sync function of the model's base URL: the calls, which can be trained on, and its result."""

    def run(replies: list[Reply], agent: Callable[[str], Any]) -> tuple[list[Call], Any]:
        left = iter(replies)

        async def trial() -> Any:
            async with CaptureTrial(tmp_path, lambda body, headers: next(left)) as trial:
                return await trial.captured(lambda task, url: asyncio.to_thread(agent, url), "a")

        came = asyncio.run(trial())
        if came.error is not None:
            raise came.error
        assert (came.rollout.status, came.rollout.incomplete) == ("succeeded", ())
        assert came.scope.call_ids == [call.id for call in came.calls]
        for call in came.calls:
            assert call.structure is None
            assert call.answer is not None
            assert call.answer.prompt_token_ids
            assert call.answer.choices[0].token_ids
            assert call.answer.choices[0].logprobs
        return list(came.calls), came.result

    return run
