"""The supervised warm start: a few passes over demonstrations before RL, for a model that never succeeds by itself.

Turns are rendered as the policy server would have rendered them, and end as the sampler would have ended them, so what
is warmed is what is sampled. Only the tokens of learnt turns carry loss; each update takes their mean.
"""

import json
import math
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leyden.errors import BadInput, TrainingStopped
from leyden_trainer.demonstrations import Demonstration
from leyden_trainer.local.continuation import Conversations
from leyden_trainer.local.rendering import Renderer, text_of
from leyden_trainer.local.score import micro_batches, score
from leyden_trainer.rows import TrainingRow

__all__ = ["WarmStart", "demonstrated_rows", "learn"]

RISING = 0.1
"""The share of the updates over which the learning rate rises; then it falls, linearly, to 0."""


@dataclass(frozen=True)
class WarmStart:
    """How to learn."""

    epochs: int
    batch: int
    """Conversations in an update."""
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    micro_batch_tokens: int
    seed: int
    """Orders the conversations."""


def demonstrated_rows(
    demonstrations: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    context_length: int,
) -> list[list[TrainingRow]]:
    """For each conversation one row a learnt turn: its prompt, and the turn's tokens up to its end, trained.

    Raises:
        BadInput: naming the line: the template refuses it or does not end the turn, or it is too long.
    """
    renderer = Renderer(tokenizer)
    found: list[list[TrainingRow]] = []
    for demonstration in demonstrations:
        try:
            found.append(_rows(demonstration, renderer, stop_ids, context_length))
        except BadInput as error:
            raise BadInput(f"{demonstration.where}: {error}") from error
    return found


def _rows(
    demonstration: Demonstration, renderer: Renderer, stop_ids: frozenset[int], context_length: int
) -> list[TrainingRow]:
    conversations = Conversations(renderer, stop_ids)  # its own: another line may begin alike and go on otherwise
    messages, tools = demonstration.messages, demonstration.tools
    rows: list[TrainingRow] = []
    for place in demonstration.learnt:
        turn = conversations.turn(demonstration.where, messages[:place], tools, {})
        end = conversations.end_of_turn(messages[:place], tools, {})
        if end is None:
            raise BadInput("the model's chat template does not end an answer by a token at which sampling stops")
        answer = (*renderer.tokens(_spoken(messages[place])), end)
        turn.remember(messages[place], answer)
        rows.append(_row(f"{demonstration.where}, message {place}", turn.prompt_ids, answer))
        if len(rows[-1].token_ids) > context_length:
            raise BadInput(
                f"message {place} ends after {len(rows[-1].token_ids)} tokens, more than the context length of "
                f"{context_length}; leave it out, or raise model.context_length"
            )
    return rows


def _row(name: str, prompt: tuple[int, ...], answer: tuple[int, ...]) -> TrainingRow:
    length = len(prompt) + len(answer)
    nothing = (0.0,) * length
    mask = (*(False,) * len(prompt), *(True,) * len(answer))
    return TrainingRow(name, (*prompt, *answer), mask, nothing, nothing, nothing, ((len(prompt), length),))


def _spoken(message: Mapping[str, Any]) -> str:
    """What the model has to say for the policy server to read this message from it."""
    parts = [text_of(message.get("content"))]
    for call in message.get("tool_calls", ()):
        try:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise BadInput(f"a tool call needs function.name and function.arguments, got {str(call)[:120]}") from error
        spoken = json.dumps({"name": name, "arguments": decoded}, ensure_ascii=False)
        parts.append(f"<tool_call>\n{spoken}\n</tool_call>")
    return "\n".join(part for part in parts if part)


def learn(
    model: PreTrainedModel,
    parameters: Mapping[str, nn.Parameter],
    conversations: Sequence[Sequence[TrainingRow]],
    how: WarmStart,
    *,
    stopping: threading.Event | None = None,
) -> list[float]:
    """Train `parameters` in place, the same for the same seed; returns the mean loss of each update, in nats a token.

    Raises:
        TrainingStopped: a gradient is not finite, or `stopping` was set.
    """
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=how.learning_rate, betas=(0.9, 0.99), weight_decay=how.weight_decay, fused=True
    )
    batches = _batches(len(conversations), how)
    losses: list[float] = []
    for number, batch in enumerate(batches):
        if stopping is not None and stopping.is_set():
            raise TrainingStopped(f"stopped after {number} of {len(batches)} updates of the warm start")
        rows = [row for place in batch for row in conversations[place]]
        num_tokens = sum(sum(row.mask) for row in rows)
        optimizer.zero_grad()
        total = 0.0
        for part in micro_batches(rows, how.micro_batch_tokens):
            loss = -score(model, part, temperature=1.0).logprobs_N.sum() / num_tokens
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), how.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingStopped(
                f"the gradient's norm is {norm} in update {number + 1} of the warm start; lower its learning rate"
            )
        optimizer.param_groups[0]["lr"] = how.learning_rate * _rate(number, len(batches))
        optimizer.step()
        losses.append(total)
    optimizer.zero_grad()
    return losses


def _batches(count: int, how: WarmStart) -> list[list[int]]:
    """Each epoch in an order of its own, cut into batches."""
    found: list[list[int]] = []
    for epoch in range(how.epochs):
        order = list(range(count))
        random.Random(f"{how.seed} {epoch}").shuffle(order)
        found += [order[start : start + how.batch] for start in range(0, count, how.batch)]
    return found


def _rate(number: int, count: int) -> float:
    """The share of the learning rate in update `number`, from 0, of `count`."""
    return min((number + 1) / max(1.0, RISING * count), (count - number) / count)
