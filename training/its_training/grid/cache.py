"""A key-value cache that grows in place: transformers' own copies itself at every step, a third of all time here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 32
"""Steps that a copy lasts for."""


def roomy_cache(cache: Any) -> Any:
    """A fresh DynamicCache whose growing layers write into spare room; layers of another kind stay as they are."""
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):  # type: ignore[misc]
        """`keys` and `values` (rows, heads, tokens, width) are views of buffers with `ROOM` more tokens."""

        keys: "Tensor"
        values: "Tensor"
        buffers: "tuple[Tensor, Tensor] | None" = None

        def update(self, key_states: "Tensor", value_states: "Tensor", *args: Any, **kwargs: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            start = self.get_seq_length()
            end = start + key_states.shape[-2]
            if self.buffers is None or end > self.buffers[0].shape[-2]:
                self.buffers = _with_room(self.keys, key_states, end), _with_room(self.values, value_states, end)
            keys, values = self.buffers
            keys[..., start:end, :] = key_states
            values[..., start:end, :] = value_states
            self.keys, self.values = keys[..., :end, :], values[..., :end, :]
            return self.keys, self.values

        def batch_repeat_interleave(self, repeats: int) -> None:
            super().batch_repeat_interleave(repeats)
            self.buffers = None

        def batch_select_indices(self, indices: "Tensor") -> None:
            super().batch_select_indices(indices)
            self.buffers = None

    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(kept: "Tensor", new: "Tensor", end: int) -> "Tensor":
    rows, heads, _, width = new.shape
    buffer = new.new_empty(rows, heads, end + ROOM, width)
    if kept.numel():
        buffer[..., : kept.shape[-2], :] = kept
    return buffer
