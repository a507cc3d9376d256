"""Keys and values of token sequences seen lately, so that a prompt computes only what no earlier one began with.

Whole sequences, not pages: agents repeat a system prompt, a group repeats a task, a conversation repeats itself.
Least recently used first out, by bytes. Valid for one version of the weights only.
"""

from collections import OrderedDict
from collections.abc import Sequence

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


def begin_cache(begun: Sequence[tuple[int, KeysValues]], device: torch.device) -> tuple[Cache, Tensor]:
    """A cache whose row b has the first begun[b][0] tokens of begun[b][1], and the positions [B, L] of its columns."""
    width = max(length for length, _ in begun)
    cache = DynamicCache()
    for layer in range(len(next((kept for length, kept in begun if length == width), []))):
        cache.update(_stack(begun, width, layer, 0), _stack(begun, width, layer, 1), layer)
    lengths_B = torch.tensor([length for length, _ in begun], device=device)
    column_L = torch.arange(width, device=device).expand(len(begun), width)
    return cache, column_L.masked_fill(column_L >= lengths_B[:, None], EMPTY)


def _stack(begun: Sequence[tuple[int, KeysValues]], width: int, layer: int, part: int) -> Tensor:
    heads, _, size = (like := next(kept for length, kept in begun if length == width)[layer][part]).shape
    rows_B_H_L_D = like.new_zeros(len(begun), heads, width, size)
    for row, (length, kept) in zip(rows_B_H_L_D, begun, strict=True):
        if length:
            row[:, :length] = kept[layer][part][:, :length]
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
