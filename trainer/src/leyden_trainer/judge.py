"""Relative rewards of a group by a language model that reads all its rollouts at once; after RULER (OpenPipe, 2025).

Any OpenAI-compatible endpoint may judge. A valid answer is kept on disk under the hash of the question, so that the
same rollouts are paid for once. An answer that cannot be used is an error, and never becomes a score.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, Field, JsonValue, ValidationError

from leyden.errors import LeydenError
from leyden.types import Call, Rollout
from leyden_trainer.config import JudgeConfig

__all__ = ["Judge", "JudgeCost", "JudgeFailed", "Verdict"]

RUBRIC = """\
- A run that reaches the goal always scores clearly higher than one that does not.
- Of two runs that reach it, the one that took fewer detours scores higher.
- A small difference between runs is a small difference in score, a large one a large difference.
- A run that made progress without reaching the goal may get part of the score."""
QUESTION = """\
Below are several runs of an agent, all on the same task. Judge how well each one did, compared with the others: give
each a score from 0 to 1.

{rubric}

Answer with one JSON object: {{"scores": [{{"run": 1, "reason": "one sentence", "score": 0.5}}, ...]}}, with each of
the runs 1 to {count} exactly once."""
ATTEMPTS = 3


class JudgeFailed(LeydenError):
    """The judge did not answer, or its answer cannot be used; the group is incomplete."""


@dataclass(frozen=True)
class JudgeCost:
    """What was asked, in tokens as the endpoint reports them."""

    requests: int = 0
    cached: int = 0
    """Questions whose answer was on disk."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "JudgeCost") -> "JudgeCost":
        return JudgeCost(
            self.requests + other.requests,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Verdict:
    """The scores of a group, in its order, from 0 to 1, and what they cost."""

    scores: tuple[float, ...]
    cost: JudgeCost


class _Score(BaseModel):
    run: int
    reason: str = ""
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class _Answer(BaseModel):
    scores: tuple[_Score, ...]


@dataclass(frozen=True)
class Judge:
    """Asks `config.model` at `config.url` about groups; answers are kept in `cache`."""

    config: JudgeConfig
    cache: Path
    key: str | None = None
    retry_wait_s: float = 1.0

    async def score(self, group: Sequence[tuple[Rollout, Sequence[Call]]]) -> Verdict:
        """Judge the rollouts of one task. Runs that said the same are shown once and get the same score.

        Raises:
            JudgeFailed: with the reason.
        """
        runs = [_run(rollout, calls) for rollout, calls in group]
        shown = list(dict.fromkeys(runs))
        body = {
            "model": self.config.model,
            "messages": [
                {"role": "system", "content": QUESTION.format(rubric=self.config.rubric or RUBRIC, count=len(shown))},
                {"role": "user", "content": _listed(group[0][0].task, shown)},
            ],
            "response_format": {"type": "json_object"},
        }
        kept = self.cache / f"{hashlib.sha256(json.dumps([self.config.url, body]).encode()).hexdigest()}.json"
        if kept.exists():
            text, cost = json.loads(kept.read_text(encoding="utf-8"))["answer"], JudgeCost(cached=1)
        else:
            text, cost = await self._ask(body)
        scores = _scores(text, len(shown))
        if not cost.cached:
            _keep(kept, {"answer": text, "question": body})
        return Verdict(tuple(scores[shown.index(run)] for run in runs), cost)

    async def _ask(self, body: dict[str, Any]) -> tuple[str, JudgeCost]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.config.url.rstrip('/')}/chat/completions"
        problem = ""
        async with httpx.AsyncClient(headers=headers, timeout=self.config.timeout_s) as client:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(self.retry_wait_s * 2 ** (attempt - 1))
                try:
                    response = await client.post(url, json=body)
                except httpx.HTTPError as error:
                    problem = f"{type(error).__name__}: {error}"
                    continue
                if response.status_code == 200:
                    return _content(response)
                problem = f"HTTP {response.status_code}: {response.text[:200]}"
                if response.status_code != 429 and response.status_code < 500:
                    break
        raise JudgeFailed(f"the judge {self.config.model} at {url} gave no answer: {problem}")


def _content(response: httpx.Response) -> tuple[str, JudgeCost]:
    try:
        body = response.json()
        text, usage = body["choices"][0]["message"]["content"], body.get("usage") or {}
        cost = JudgeCost(1, 0, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise JudgeFailed(f"the judge's response is not that of a chat completion: {response.text[:200]}") from error
    if not isinstance(text, str):
        raise JudgeFailed(f"the judge answered without text: {response.text[:200]}")
    return text, cost


def _scores(text: str, count: int) -> list[float]:
    try:
        answer = _Answer.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise JudgeFailed(
            f"the judge's answer cannot be used: {where}: {problem['msg']}; it was {text[:200]!r}"
        ) from error
    found = {score.run: score.score for score in answer.scores}
    if len(answer.scores) != count or set(found) != set(range(1, count + 1)):
        named = [score.run for score in answer.scores]
        raise JudgeFailed(
            f"the judge scored the runs {named}, expected each of 1 to {count} once; it said {text[:200]!r}"
        )
    return [found[number] for number in range(1, count + 1)]


def _listed(task: JsonValue, runs: Sequence[str]) -> str:
    parts = [f"<task>\n{json.dumps(task, ensure_ascii=False)}\n</task>"]
    parts += [f'<run number="{number}">\n{run}\n</run>' for number, run in enumerate(runs, 1)]
    return "\n\n".join(parts)


def _run(rollout: Rollout, calls: Sequence[Call]) -> str:
    """What happened, a line for each message that the judge has not seen in this run yet, and how it ended."""
    lines: dict[str, None] = {}
    for call in sorted(calls, key=lambda call: (call.started_at, call.id)):
        if call.answer is None or call.context:
            continue
        who = "/".join(call.structure.agent) if call.structure else ""
        messages = [*(call.request.messages if call.request else ()), *(c.message for c in call.answer.choices)]
        for message in messages:
            line = json.dumps(_without_ids(message), ensure_ascii=False, sort_keys=True)
            lines.setdefault(f"{who}: {line}" if who else line)
    failure = rollout.failure
    ending = f"failed: {failure.message}" if failure else f"result: {json.dumps(rollout.result, ensure_ascii=False)}"
    return "\n".join([*lines, ending])


def _without_ids(value: Any) -> Any:
    """Ids of tool calls are drawn anew in each run: they say nothing, and would make equal runs differ."""
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if k not in ("id", "tool_call_id") and v is not None}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _keep(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: another run may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    part.replace(path)
