"""Samples many requests at once from one model: rows join and leave the batch between tokens.

Unlike a serving engine it shares its weights with a trainer in the same process: `pause` drains it before an update.
A row's tokens depend on its seed and the weights, and on other rows only by float noise.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from leyden.errors import BadInput, Unreachable
from leyden_trainer.local.draw import draw
from leyden_trainer.local.forward import common_prefix, extend, logits
from leyden_trainer.local.kept import KeptSequences, begin_cache, row_keys_values
from leyden_trainer.local.running import RunningRows

__all__ = ["Sample", "SampleRequest", "SampledToken", "Sampler"]

GATHER_S = 0.004
"""An idle sampler waits this long after each arrival for more: a batch costs little more than one row."""
GATHER_MAX_S = 0.05
MIN_SHARED_TOKENS = 8
MAX_PREFILL_TOKENS = 8192
"""Padded tokens of one prefill, which bounds its memory."""


@dataclass(frozen=True)
class SampledToken:
    """A token, its log probability under the distribution that it was drawn from, and the version of the weights."""

    id: int
    logprob: float
    version: int


@dataclass(frozen=True)
class SampleRequest:
    """One completion to sample. Ids in `stop_ids` end it and are part of it."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    stop_ids: frozenset[int]
    temperature: float = 1.0
    top_p: float = 1.0
    stops: Callable[[Sequence[int]], bool] | None = None
    """Called with the tokens so far; True ends the completion with finish reason "stop"."""
    on_token: Callable[[SampledToken], None] | None = None
    """Called with each token, on the sampler's thread."""


@dataclass(frozen=True)
class Sample:
    """A finished completion. `version` is the weights' that sampled all of it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    """stop or length."""
    version: int


@dataclass
class _Row:
    request: SampleRequest
    future: "Future[Sample]"
    random: random.Random
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])

    @property
    def finish_reason(self) -> str | None:
        request = self.request
        if self.token_ids[-1] in request.stop_ids or (request.stops is not None and request.stops(self.token_ids)):
            return "stop"
        return "length" if len(self.token_ids) >= request.max_new_tokens else None

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_ids) + len(self.token_ids)


class Sampler:
    """Owns the model while it samples, on a thread of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_length: int,
        max_rows: int = 64,
        kept_bytes: int = 2**29,
        version: int = 0,
    ) -> None:
        self.model = model
        self.context_length = context_length
        self.max_rows = max_rows
        self.version = version
        self._kept = KeptSequences(kept_bytes)
        self._running = RunningRows(model.device)
        self._rows: list[_Row] = []
        self._joining: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._paused = False
        self._idle = True
        self._closed = False
        self._fault: BaseException | None = None
        self.num_prefilled = 0
        """Prompt tokens computed so far; those that were found kept do not count."""
        self.num_sampled = 0
        self._thread = threading.Thread(target=self._run, name="leyden-sampler", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[SampleRequest]) -> "list[Future[Sample]]":
        """Queue completions, together; cancelling a future drops its row before the next token.

        Raises:
            BadInput: a prompt is empty, or does not fit into the context with its new tokens.
            Unreachable: the sampler was closed, or has failed.
        """
        for request in requests:
            self._check(request)
        rows = [_Row(request, Future(), random.Random(request.seed)) for request in requests]
        with self._changed:
            if self._closed or self._fault:
                raise Unreachable(f"the sampler has stopped: {self._fault or 'it was closed'}")
            self._waiting.extend(rows)
            self._changed.notify_all()
        return [row.future for row in rows]

    def pause(self) -> None:
        """Finish the rows that have begun, and begin no other until `resume`; the model is then free for an update."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: self._idle or self._fault is not None or self._closed)

    def resume(self, version: int) -> None:
        """Go on with the weights of `version`. What was computed with other weights is forgotten."""
        with self._changed:
            if version != self.version:
                self._kept.clear()
            self.version = version
            self._paused = False
            self._changed.notify_all()

    def close(self) -> None:
        """Stop after the token at hand; unfinished futures fail with `Unreachable`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _check(self, request: SampleRequest) -> None:
        total = len(request.prompt_ids) + request.max_new_tokens
        if not request.prompt_ids or request.max_new_tokens < 1 or total > self.context_length:
            raise BadInput(
                f"got a prompt of {len(request.prompt_ids)} tokens and max_new_tokens = {request.max_new_tokens}; both "
                f"must be at least 1, and together at most the context length of {self.context_length}"
            )

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait_for_work():
                    self._admit()
                    self._step()
        except BaseException as error:
            self._fault = error
            raise
        finally:
            self._fail_all()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to sample; False when closed."""
        with self._changed:
            if not self._rows:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or (self._waiting and not self._paused))
                self._gather()
            # Between here and the end of this token, pause() has to wait.
            self._idle = False
            return not self._closed

    def _gather(self) -> None:
        waited_s, seen = 0.0, 0
        while seen != len(self._waiting) and waited_s < GATHER_MAX_S and not self._closed:
            seen = len(self._waiting)
            self._changed.wait(GATHER_S)
            waited_s += GATHER_S

    def _admit(self) -> None:
        """Prefill as many waiting rows as may run and give each its first token."""
        with self._changed:
            while self._waiting and not self._paused and len(self._rows) + len(self._joining) < self.max_rows:
                row = self._waiting.popleft()
                if not row.future.cancelled():
                    self._joining.append(row)
        while self._joining:
            prompts, rows = _prefill_batch(self._joining)
            self._join(prompts, rows)
            del self._joining[: len(rows)]

    def _join(self, prompts: list[tuple[int, ...]], rows: list[_Row]) -> None:
        cache, positions_U_L, logits_U_V = self._prefill(prompts)
        place = {prompt: index for index, prompt in enumerate(prompts)}
        select = [place[row.request.prompt_ids] for row in rows]
        self._draw(rows, logits_U_V[select])
        going = [(row, unique) for row, unique in zip(rows, select, strict=True) if not self._finish(row)]
        self._running.join(cache, positions_U_L, [unique for _, unique in going])
        self._rows += [row for row, _ in going]

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Cache, Tensor, Tensor]:
        """The cache, its positions and the next token's logits for different prompts."""
        shared = common_prefix(prompts)
        if len(prompts) > 1 and shared >= MIN_SHARED_TOKENS and self._kept.match(prompts[0][:shared])[0] < shared:
            self._prefill([prompts[0][:shared]])
        matched = [self._kept.match(prompt) for prompt in prompts]
        # At least the last token is computed: its hidden state gives the first new token.
        begun = [(min(n, len(p) - 1), kept) for (n, kept), p in zip(matched, prompts, strict=True)]
        rest = [prompt[length:] for (length, _), prompt in zip(begun, prompts, strict=True)]
        cache, positions = begin_cache(begun, max(map(len, rest)), self.model.device)
        positions, hidden_U_T_D = extend(self.model, cache, positions, rest)
        self.num_prefilled += sum(map(len, rest))
        for index, prompt in enumerate(prompts):
            if matched[index][0] < len(prompt):
                self._kept.keep(prompt, row_keys_values(cache, index, positions[index]))
        last = [len(tokens) - 1 for tokens in rest]
        return cache, positions, logits(self.model, hidden_U_T_D[range(len(prompts)), last])

    def _step(self) -> None:
        """One token for every running row."""
        for index in reversed([i for i, row in enumerate(self._rows) if row.future.cancelled()]):
            self._remove(index)
        if not self._rows:
            return
        tokens = [row.token_ids[-1] for row in self._rows]
        hidden = self._running.step(self.model, tokens, [row.num_tokens - 1 for row in self._rows])
        self._draw(self._rows, logits(self.model, hidden))
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if self._finish(row):
                # All but the last token, whose keys and values nothing has computed.
                sequence = (*row.request.prompt_ids, *row.token_ids[:-1])
                self._kept.keep(sequence, self._running.row(index))
                self._remove(index)

    def _draw(self, rows: list[_Row], logits_B_V: Tensor) -> None:
        requests = [row.request for row in rows]
        uniforms = [row.random.random() for row in rows]
        tokens, logprobs = draw(logits_B_V, [r.temperature for r in requests], [r.top_p for r in requests], uniforms)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            if row.request.on_token is not None:
                row.request.on_token(SampledToken(token, logprob, self.version))
        self.num_sampled += len(rows)

    def _finish(self, row: _Row) -> bool:
        reason = row.finish_reason
        if reason is None:
            return False
        if row.future.set_running_or_notify_cancel():
            row.future.set_result(Sample(tuple(row.token_ids), tuple(row.logprobs), reason, self.version))
        return True

    def _remove(self, index: int) -> None:
        """Drop a row as `RunningRows.remove` does: the last takes its place."""
        self._running.remove(index)
        last = self._rows.pop()
        if index < len(self._rows):
            self._rows[index] = last

    def _fail_all(self) -> None:
        with self._changed:
            self._closed, self._idle = True, True
            rows = [*self._rows, *self._joining, *self._waiting]
            self._changed.notify_all()
        for row in rows:
            if not row.future.done() and row.future.set_running_or_notify_cancel():
                row.future.set_exception(Unreachable(f"the sampler has stopped: {self._fault or 'it was closed'}"))


def _prefill_batch(rows: list[_Row]) -> tuple[list[tuple[int, ...]], list[_Row]]:
    """The different prompts of the first rows, as many as one prefill may hold, and those rows."""
    prompts: dict[tuple[int, ...], None] = {}
    longest = 0
    for index, row in enumerate(rows):
        prompt = row.request.prompt_ids
        longest = max(longest, len(prompt))
        if prompts and prompt not in prompts and (len(prompts) + 1) * longest > MAX_PREFILL_TOKENS:
            return list(prompts), rows[:index]
        prompts[prompt] = None
    return list(prompts), rows
