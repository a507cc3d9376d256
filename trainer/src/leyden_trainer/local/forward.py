"""The forward pass of sampling: rows go on from what a cache already holds, wherever it lies.

Attention is decided by position, not by column: a column is seen by every later position of its row. So prefixes,
right-padded prompts and sampled tokens follow each other without being moved together, and gaps cost nothing but space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

__all__ = ["EMPTY", "attention_mask", "common_prefix", "decoder", "extend", "logits", "masked"]

EMPTY = 2**30
"""The position of a column that holds nothing: later than all positions, so nothing ever sees it."""


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its output layer."""
    return model.base_model  # type: ignore[return-value]


def logits(model: PreTrainedModel, hidden_N_D: Tensor) -> Tensor:
    """[N, vocabulary] in float32."""
    output = model.get_output_embeddings()
    assert output is not None, "load_model takes causal language models only"
    return output(hidden_N_D).float()


def masked(seen_B_Q_L: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask [B, 1, Q, L]: 0 where the query sees the key, else the lowest finite number."""
    # Not -inf: a padded query may see nothing, and its NaN would spread through 0 * NaN.
    hidden = torch.finfo(dtype).min
    return torch.zeros((), dtype=dtype, device=seen_B_Q_L.device).masked_fill(~seen_B_Q_L, hidden)[:, None]


def attention_mask(queries_B_Q: Tensor, keys_B_L: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask of keys that are not after the query, by position."""
    return masked(keys_B_L[:, None, :] <= queries_B_Q[:, :, None], dtype)


def extend(
    model: PreTrainedModel, cache: Cache, positions_B_L: Tensor, tokens: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Run each row's new tokens after what `cache` holds for it; they fill T more of its columns, rows right-padded.

    Args:
        positions_B_L: the position of each cached column, or EMPTY; L may be 0.

    Returns:
        positions [B, L + T] int64, and the hidden states [B, T, D] of the new tokens (padding's mean nothing).
    """
    device = positions_B_L.device
    lengths_B = torch.tensor([len(row) for row in tokens], device=device)
    width = max(len(row) for row in tokens)
    ids_B_T = torch.tensor([[*row, *([0] * (width - len(row)))] for row in tokens], device=device)
    column_T = torch.arange(width, device=device)
    start_B = (positions_B_L != EMPTY).sum(1)
    # Padding repeats the last position: a table of learnt positions has no rows after it.
    queries_B_T = start_B[:, None] + torch.minimum(column_T, (lengths_B - 1).clamp(min=0)[:, None])
    keys_B_T = queries_B_T.masked_fill(column_T >= lengths_B[:, None], EMPTY)
    positions_B_L = torch.cat([positions_B_L, keys_B_T], dim=1)
    output = decoder(model)(
        input_ids=ids_B_T,
        attention_mask=attention_mask(queries_B_T, positions_B_L, model.dtype),
        position_ids=queries_B_T,
        past_key_values=cache,
        use_cache=True,
    )
    return positions_B_L, output.last_hidden_state


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """The number of tokens with which all sequences begin."""
    first, last = min(sequences), max(sequences)
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return min(len(first), len(last))
