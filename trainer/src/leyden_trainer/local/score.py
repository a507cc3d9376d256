"""Log probabilities of trained tokens, differentiable, with every shared beginning of rows computed once.

A micro-batch runs in three stages: the tokens that all its rows begin with; the rest of each different prompt (what is
before a row's first trained token); each row from there on. Gradients of shared stages add up by themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from leyden.errors import BadInput
from leyden_trainer.local.forward import common_prefix, extend, logits
from leyden_trainer.rows import TrainingRow

__all__ = ["Scores", "micro_batches", "score"]

MIN_SHARED_TOKENS = 8


@dataclass(frozen=True)
class Scores:
    """Over the N trained tokens of some rows, in the rows' order."""

    logprobs_N: Tensor
    entropies_N: Tensor
    """Detached; nats."""
    computed_tokens: int


@dataclass(frozen=True)
class _Parts:
    """A row up to its last trained token, which is predicted but never read."""

    prompt: tuple[int, ...]
    read: tuple[int, ...]
    """From the first trained token on."""
    predicted: tuple[int, ...]
    mask: tuple[bool, ...]
    """Which of `predicted` are trained; one longer than `read`."""


def _parts(row: TrainingRow) -> _Parts:
    if True not in row.mask:
        raise BadInput(f"a row of rollout {row.rollout_id} has no trained token; leave it out")
    first = row.mask.index(True)
    end = len(row.mask) - row.mask[::-1].index(True)
    if first == 0:
        raise BadInput(f"a row of rollout {row.rollout_id} trains its first token, which nothing predicts")
    tokens = row.token_ids
    return _Parts(tokens[:first], tokens[first : end - 1], tokens[first:end], row.mask[first:end])


def micro_batches(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[TrainingRow]]:
    """The rows in pieces of at most `max_tokens` padded tokens, or of one row; rows that begin alike stay together."""
    ordered = sorted(((row, _parts(row)) for row in rows), key=lambda pair: (pair[1].prompt, len(pair[1].read)))
    batch: list[tuple[TrainingRow, _Parts]] = []
    for pair in ordered:
        if batch and _padded_tokens([parts for _, parts in [*batch, pair]]) > max_tokens:
            yield [row for row, _ in batch]
            batch = []
        batch.append(pair)
    if batch:
        yield [row for row, _ in batch]


def _padded_tokens(rows: Sequence[_Parts]) -> int:
    prompts = list({row.prompt for row in rows})
    shared = _shared(prompts)
    rest = max(len(prompt) for prompt in prompts) - shared
    return shared + len(prompts) * rest + len(rows) * max(len(row.read) for row in rows)


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """How much of the prompts' common beginning to compute apart; every prompt keeps at least one token."""
    if len(prompts) == 1:
        return 0
    shared = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    return shared if shared >= MIN_SHARED_TOKENS else 0


def score(model: PreTrainedModel, rows: Sequence[TrainingRow], *, temperature: float) -> Scores:
    """Run one micro-batch. Logits are computed for trained tokens alone, and divided by `temperature`."""
    split = [_parts(row) for row in rows]
    prompts = list(dict.fromkeys(parts.prompt for parts in split))
    place = {prompt: index for index, prompt in enumerate(prompts)}
    device = model.device
    select_B = torch.tensor([place[parts.prompt] for parts in split], device=device)

    cache = DynamicCache()
    positions = torch.empty(1, 0, dtype=torch.int64, device=device)
    shared = _shared(prompts)
    if shared:
        positions, _ = extend(model, cache, positions, [prompts[0][:shared]])
        cache.batch_select_indices(torch.zeros(len(prompts), dtype=torch.int64, device=device))
    rest = [prompt[shared:] for prompt in prompts]
    positions, hidden_U_T_D = extend(model, cache, positions.expand(len(prompts), -1), rest)
    last_U_D = hidden_U_T_D[range(len(prompts)), [len(tokens) - 1 for tokens in rest]]
    hidden_B_T_D = last_U_D[select_B][:, None]
    if any(parts.read for parts in split):
        cache.batch_select_indices(select_B)
        _, read_B_T_D = extend(model, cache, positions[select_B], [parts.read for parts in split])
        hidden_B_T_D = torch.cat([hidden_B_T_D, read_B_T_D], dim=1)

    trained = [(b, t) for b, parts in enumerate(split) for t, chosen in enumerate(parts.mask) if chosen]
    row_N, column_N = torch.tensor(trained, device=device).T
    target_N = torch.tensor([split[b].predicted[t] for b, t in trained], device=device)
    logprobs_N_V = torch.log_softmax(logits(model, hidden_B_T_D[row_N, column_N]) / temperature, dim=-1)
    computed = shared + sum(map(len, rest)) + sum(len(parts.read) for parts in split)
    return Scores(logprobs_N_V.gather(1, target_N[:, None])[:, 0], _entropy(logprobs_N_V.detach()), computed)


def _entropy(logprobs_N_V: Tensor) -> Tensor:
    return -(logprobs_N_V.exp() * logprobs_N_V).sum(-1)
