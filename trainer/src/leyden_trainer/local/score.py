"""Log probabilities and values of trained tokens, differentiable, with whatever rows begin alike computed once.

A micro-batch is one tree of tokens: rows are its paths, and each node is computed once and sees its ancestors alone. So
nothing is padded or copied, and the gradients of shared nodes add up by themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.errors import BadInput
from leyden_trainer.local.critic import Critic
from leyden_trainer.local.forward import common_prefix, decoder, logits, masked
from leyden_trainer.rows import TrainingRow

__all__ = ["Scores", "micro_batches", "score"]


@dataclass(frozen=True)
class Scores:
    """Over the N trained tokens of some rows, in the rows' order."""

    logprobs_N: Tensor
    entropies_N: Tensor
    """Nats; detached unless their gradient was asked for."""
    values_N_H: Tensor | None
    """The critic's, before each token, by head; float32. None without a critic."""
    computed_tokens: int
    """Nodes of the policy's tree."""


@dataclass(frozen=True)
class _Tree:
    """Tokens of Q nodes with their depths, and for each row the nodes of the tokens that it reads."""

    token_ids: list[int]
    depths: list[int]
    paths: list[list[int]]


def micro_batches(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[TrainingRow]]:
    """The rows in pieces of one row, or whose trees have at most `max_tokens` nodes; rows that begin alike meet."""
    batch: list[TrainingRow] = []
    size = 0
    for row in sorted(rows, key=lambda row: row.token_ids):
        new = len(_read(row)) - (common_prefix([_read(batch[-1]), _read(row)]) if batch else 0)
        if batch and size + new > max_tokens:
            yield batch
            batch, size, new = [], 0, len(_read(row))
        batch.append(row)
        size += new
    if batch:
        yield batch


def score(
    model: PreTrainedModel,
    rows: Sequence[TrainingRow],
    *,
    temperature: float,
    critic: Critic | None = None,
    entropy_gradient: bool = False,
) -> Scores:
    """Run one micro-batch. Logits are computed where a trained token follows, and divided by `temperature`."""
    tree = _tree(rows)
    hidden_Q_D = _hidden(model, tree)
    trained = [
        (path[t - 1], row.token_ids[t])
        for row, path in zip(rows, tree.paths, strict=True)
        for t, chosen in enumerate(row.mask)
        if chosen
    ]
    node_N, token_N = torch.tensor(trained, device=model.device).T
    node_U, place_N = node_N.unique(return_inverse=True)
    logprobs_U_V = torch.log_softmax(logits(model, hidden_Q_D[node_U]) / temperature, dim=-1)
    seen_U_V = logprobs_U_V if entropy_gradient else logprobs_U_V.detach()
    entropy_U = -(seen_U_V.exp() * seen_U_V).sum(-1)
    values_N_H = None
    if critic is not None:
        states_Q_D = hidden_Q_D if critic.model is None else _hidden(critic.model, tree)
        values_N_H = critic.values(states_Q_D[node_U])[place_N]
    return Scores(logprobs_U_V[place_N, token_N], entropy_U[place_N], values_N_H, len(tree.token_ids))


def _hidden(model: PreTrainedModel, tree: _Tree) -> Tensor:
    """The last hidden states of the tree's nodes, [Q, D]."""
    device = model.device
    output = decoder(model)(
        input_ids=torch.tensor([tree.token_ids], device=device),
        attention_mask=masked(_ancestors(tree).to(device)[None], model.dtype),
        position_ids=torch.tensor([tree.depths], device=device),
        use_cache=False,
    )
    return output.last_hidden_state[0]


def _read(row: TrainingRow) -> tuple[int, ...]:
    """The row's tokens before its last trained one, which is predicted but never read."""
    if True not in row.mask:
        raise BadInput(f"a row of rollout {row.rollout_id} has no trained token; leave it out")
    if row.mask[0]:
        raise BadInput(f"a row of rollout {row.rollout_id} trains its first token, which nothing predicts")
    return row.token_ids[: len(row.mask) - 1 - row.mask[::-1].index(True)]


def _tree(rows: Sequence[TrainingRow]) -> _Tree:
    """Each row shares what it has in common with the row before it: all that there is to share, if they are sorted."""
    tree = _Tree([], [], [])
    before: tuple[int, ...] = ()
    for row in rows:
        read = _read(row)
        shared = common_prefix([before, read])
        new = range(len(tree.token_ids), len(tree.token_ids) + len(read) - shared)
        tree.paths.append([*(tree.paths[-1][:shared] if tree.paths else ()), *new])
        tree.token_ids.extend(read[shared:])
        tree.depths.extend(range(shared, len(read)))
        before = read
    return tree


def _ancestors(tree: _Tree) -> Tensor:
    """[Q, Q]: whether the second node is the first or an ancestor of it."""
    seen_Q_Q = torch.zeros(len(tree.token_ids), len(tree.token_ids), dtype=torch.bool)
    for path in tree.paths:
        nodes = torch.tensor(path)
        rows, columns = torch.tril_indices(len(path), len(path))
        seen_Q_Q[nodes[rows], nodes[columns]] = True
    return seen_Q_Q
