"""Keys and values of token sequences seen lately, so that a prompt computes only what no earlier one began with.

Whole sequences, not pages: agents repeat a system prompt, a group repeats a task, a conversation repeats itself.
Least recently used first out, by bytes. Valid for one version of the weights only.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from leyden_trainer.local.forward import EMPTY, common_prefix

__all__ = ["KeptSequences", "KeysValues", "begin_cache", "cached", "row_keys_values"]

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer, keys and values: [H, T, D] of one sequence."""


class KeptSequences:
    """A bounded store of sequences and their keys and values."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, ...], KeysValues] = OrderedDict()
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self._kept.clear()
        self._bytes = 0

    def keep(self, token_ids: tuple[int, ...], keys_values: KeysValues) -> None:
        """Add a sequence in the place of those that are beginnings of it."""
        for shorter in [ids for ids in self._kept if token_ids[: len(ids)] == ids]:
            self._drop(shorter)
        self._kept[token_ids] = keys_values
        self._bytes += _bytes(keys_values)
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))

    def match(self, token_ids: Sequence[int]) -> tuple[int, KeysValues]:
        """The kept sequence that begins most like this one, and how many tokens they share; (0, []) for none."""
        best: tuple[int, ...] = ()
        length = 0
        for kept in self._kept:
            shared = common_prefix([kept, tuple(token_ids)])
            if shared > length:
                best, length = kept, shared
        if not length:
            return 0, []
        self._kept.move_to_end(best)
        return length, self._kept[best]

    def _drop(self, token_ids: tuple[int, ...]) -> None:
        self._bytes -= _bytes(self._kept.pop(token_ids))


def _bytes(keys_values: KeysValues) -> int:
    return sum(tensor.nbytes for pair in keys_values for tensor in pair)


class _BegunLayer(DynamicLayer):
    """Keys and values with room for the tokens of one forward pass, which a DynamicLayer would copy everything for."""

    keys: Tensor  # type: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # type: ignore[reportIncompatibleVariableOverride]

    def __init__(self, keys: Tensor, values: Tensor, begun: int) -> None:
        super().__init__()
        self.keys, self.values, self.begun = keys, values, begun
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert key_states.shape[2] == self.keys.shape[2] - self.begun, "there is room for one pass"
        self.keys[:, :, self.begun :] = key_states
        self.values[:, :, self.begun :] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.begun


def begin_cache(begun: Sequence[tuple[int, KeysValues]], num_new: int, device: torch.device) -> tuple[Cache, Tensor]:
    """A cache for one pass of `num_new` tokens, and the positions [B, L] of the columns that it has before.

    Its row b has the first begun[b][0] tokens of begun[b][1].
    """
    width = max(length for length, _ in begun)
    longest = next((kept for length, kept in begun if length == width), [])
    layers = [
        _BegunLayer(_stack(begun, width, num_new, layer, 0), _stack(begun, width, num_new, layer, 1), width)
        for layer in range(len(longest))
    ]
    cache = Cache(layers=[*layers]) if layers else DynamicCache()
    lengths_B = torch.tensor([length for length, _ in begun], device=device)
    column_L = torch.arange(width, device=device).expand(len(begun), width)
    return cache, column_L.masked_fill(column_L >= lengths_B[:, None], EMPTY)


def _stack(begun: Sequence[tuple[int, KeysValues]], width: int, num_new: int, layer: int, part: int) -> Tensor:
    """[B, H, width + num_new, D], of which the last columns are for the caller to fill."""
    heads, _, size = (like := next(kept for length, kept in begun if length == width)[layer][part]).shape
    rows_B_H_L_D = like.new_empty(len(begun), heads, width + num_new, size)
    for row, (length, kept) in zip(rows_B_H_L_D, begun, strict=True):
        if length:
            row[:, :length] = kept[layer][part][:, :length]
        row[:, length:width] = 0  # an empty column is masked, but 0 * NaN of fresh memory would not be 0
    return rows_B_H_L_D


def cached(cache: Cache) -> KeysValues:
    """For each layer, keys and values [B, H, L, D]."""
    pairs: KeysValues = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        pairs.append((layer.keys, layer.values))
    return pairs


def row_keys_values(cache: Cache, row: int, positions_L: Tensor) -> KeysValues:
    """A copy of what the cache's row holds, without the empty columns."""
    columns = (positions_L != EMPTY).nonzero()[:, 0]
    return [
        (keys[row].index_select(1, columns), values[row].index_select(1, columns)) for keys, values in cached(cache)
    ]
