"""Keys and values of the rows that are being sampled: one buffer per layer that rows join and leave between tokens.

All rows write their next token into the same column, so a step copies one column and attends to a view, where a
DynamicCache would copy everything. Columns are reused when their rows have gone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from leyden_trainer.local.forward import EMPTY, attention_mask, decoder
from leyden_trainer.local.kept import KeysValues, cached, row_keys_values

__all__ = ["RunningRows"]

SPARE_ROWS = 8
SPARE_COLUMNS = 64


class _Layer(DynamicLayer):
    """A layer whose buffers belong to the running rows."""

    keys: Tensor  # type: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # type: ignore[reportIncompatibleVariableOverride]

    def __init__(self, running: "RunningRows", keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.running = running
        self.keys, self.values = _buffer(keys), _buffer(values)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, begin, end = self.running.num_rows, self.running.begin, self.running.end
        self.keys[:rows, :, end - 1] = key_states[:, :, 0]
        self.values[:rows, :, end - 1] = value_states[:, :, 0]
        return self.keys[:rows, :, begin:end], self.values[:rows, :, begin:end]


def _buffer(like: Tensor) -> Tensor:
    return like.new_empty(0, like.shape[1], 0, like.shape[3])


class RunningRows:
    """Rows 0 .. num_rows - 1 in columns begin .. end - 1; `positions` says which columns a row has filled."""

    def __init__(self, device: torch.device) -> None:
        self.num_rows = 0
        self.begin = 0
        self.end = 0
        self._layers: list[_Layer] = []
        self._cache: Cache | None = None
        self.positions = torch.empty(0, 0, dtype=torch.int64, device=device)

    def join(self, cache: Cache, positions_U_L: Tensor, select: Sequence[int]) -> None:
        """Append rows; row i is a copy of row select[i] of `cache`, its last column next to the others' last."""
        if not select:
            return
        if self._cache is None:
            self._layers = [_Layer(self, keys, values) for keys, values in cached(cache)]
            self._cache = Cache(layers=[*self._layers])
        width = positions_U_L.shape[1]
        if not self.num_rows:
            self.begin = self.end = 0
        self.end = max(self.end, width)  # a gap in the other rows is empty, and empty columns are never seen
        self._reserve(self.num_rows + len(select), self.end)
        # All rows in their order, as different prompts are: no copy is made on the way.
        all_rows = list(select) == list(range(len(positions_U_L)))
        chosen = slice(None) if all_rows else torch.tensor(select, device=self.positions.device)
        rows, columns = slice(self.num_rows, self.num_rows + len(select)), slice(self.end - width, self.end)
        for layer, (keys, values) in zip(self._layers, cached(cache), strict=True):
            layer.keys[rows, :, columns] = keys[chosen]
            layer.values[rows, :, columns] = values[chosen]
        self.positions[rows] = EMPTY
        self.positions[rows, columns] = positions_U_L[chosen]
        self.num_rows += len(select)
        self.begin = min(self.begin, self.end - width) if self.num_rows > len(select) else self.end - width

    def step(self, model: PreTrainedModel, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token of each row, which has lengths[i] tokens before it; the hidden states [rows, D]."""
        if self.end == self.positions.shape[1]:
            self._make_room()
        self.end += 1
        device = self.positions.device
        queries_B_1 = torch.tensor(lengths, device=device)[:, None]
        self.positions[: self.num_rows, self.end - 1] = queries_B_1[:, 0]
        keys_B_L = self.positions[: self.num_rows, self.begin : self.end]
        output = decoder(model)(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=attention_mask(queries_B_1, keys_B_L, model.dtype),
            position_ids=queries_B_1,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, 0]

    def row(self, index: int) -> KeysValues:
        """A copy of what row `index` holds."""
        assert self._cache is not None
        return row_keys_values(self._cache, index, self.positions[index])

    def remove(self, index: int) -> None:
        """Drop a row; the last one takes its place."""
        self.num_rows -= 1
        last = self.num_rows
        if index != last:
            for tensor in self._buffers():
                tensor[index, :, self.begin : self.end] = tensor[last, :, self.begin : self.end]
            self.positions[index] = self.positions[last]
        self.positions[last] = EMPTY
        if self.num_rows:
            filled_L = (self.positions[: self.num_rows] != EMPTY).any(0)
            self.begin = int(filled_L.int().argmax())

    def _buffers(self) -> list[Tensor]:
        return [tensor for layer in self._layers for tensor in (layer.keys, layer.values)]

    def _make_room(self) -> None:
        """The last column is in use: move everything left over columns whose rows have gone, or else grow."""
        if self.begin <= self.end // 4:
            self._reserve(self.num_rows, self.end + 1)
            return
        span, moved = slice(self.begin, self.end), slice(0, self.end - self.begin)
        for tensor in self._buffers():
            tensor[: self.num_rows, :, moved] = tensor[: self.num_rows, :, span].clone()
        kept = self.positions[:, span].clone()
        self.positions.fill_(EMPTY)
        self.positions[:, moved] = kept
        self.begin, self.end = 0, self.end - self.begin

    def _reserve(self, rows: int, columns: int) -> None:
        """Grow the buffers if they are smaller; by half more than asked, so that growing stays rare."""
        old_rows, old_columns = self.positions.shape
        if rows <= old_rows and columns <= old_columns:
            return
        rows = old_rows if rows <= old_rows else rows + rows // 2 + SPARE_ROWS
        columns = old_columns if columns <= old_columns else columns + columns // 2 + SPARE_COLUMNS
        for layer in self._layers:
            layer.keys, layer.values = _grown(layer.keys, rows, columns), _grown(layer.values, rows, columns)
        grown = self.positions.new_full((rows, columns), EMPTY)
        grown[:old_rows, :old_columns] = self.positions
        self.positions = grown


def _grown(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """A larger copy of [rows, H, columns, D]."""
    old_rows, heads, old_columns, size = tensor.shape
    # Zeros: an empty column is masked, but 0 * NaN of fresh memory would not be 0.
    grown = tensor.new_zeros(rows, heads, columns, size)
    grown[:old_rows, :, :old_columns] = tensor
    return grown
