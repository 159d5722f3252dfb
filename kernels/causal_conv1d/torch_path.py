"""The short convolution in plain torch: a handful of shifted multiply-adds, channels last, no transposed copies.

Every sequence is written once into a row with K − 1 places for its state in front (behind, when reversed), so that all
its taps lie inside the row, and no tap of one sequence reaches into another. The window of position t is then always
`row[t : t + K]`; reversing only turns the taps and the states around.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 2**17  # elements: the few tensors of a block, half a megabyte each, stay in the caches


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, L, D) and the final state (B or S, K − 1, D)."""
    places = _Places.of(x, weight.shape[1], cu_seqlens, reverse)
    row = _write_row(x, initial_state, places)
    taps = _taps(weight, row.dtype, reverse)
    y = row.new_empty(row.shape[0], row.shape[1] - taps.shape[0] + 1, row.shape[2])
    for windows, reach in _blocks(row, taps):
        part = _correlate(row[:, reach], taps, bias)
        y[:, windows] = F.silu(part) if activation == "silu" else part
    return y[:, places.windows].to(x.dtype), _states(row, places.final)


def backward(
    dy: Tensor,
    d_final_state: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias and initial_state, None for what is None."""
    places = _Places.of(x, weight.shape[1], cu_seqlens, reverse)
    row = _write_row(x, initial_state, places)
    taps = _taps(weight, row.dtype, reverse)
    d_y, straddling = dy.to(row.dtype), None
    if cu_seqlens is not None:  # windows that straddle two sequences are no output
        d_y = row.new_zeros(1, row.shape[1] - taps.shape[0] + 1, row.shape[2])
        d_y[:, places.windows] = dy.to(row.dtype)
        straddling = torch.ones(d_y.shape[1], dtype=torch.bool, device=row.device)
        straddling[places.windows] = False
    d_row, d_taps, d_bias = torch.zeros_like(row), torch.zeros_like(taps), torch.zeros_like(taps[0])
    for windows, reach in _blocks(row, taps):
        here, d_here, d_out = row[:, reach], d_row[:, reach], d_y[:, windows]
        if activation == "silu":
            d_out = torch.ops.aten.silu_backward(d_out, _correlate(here, taps, bias))
            if straddling is not None:  # NaN of one sequence is none of the other's
                d_out[:, straddling[windows]] = 0
        d_bias += d_out.sum((0, 1))
        for k, tap in enumerate(taps):
            d_here[:, k : k + d_out.shape[1]].addcmul_(d_out, tap)
            d_taps[k] += (d_out * here[:, k : k + d_out.shape[1]]).sum((0, 1))
    if d_final_state is not None:
        d_row[:, places.final] += d_final_state.view(row.shape[0], *places.final.shape, -1)
    return (
        d_row[:, places.inputs].to(x.dtype, copy=True),
        (d_taps.flip(0) if reverse else d_taps).t().to(weight.dtype).contiguous(),
        None if bias is None else d_bias.to(bias.dtype),
        None if initial_state is None else _states(d_row, places.given),
    )


class _Places(NamedTuple):
    """Where things lie in a row that holds every sequence with its state."""

    length: int
    windows: slice | Tensor  # (L,): where the window of each position starts
    inputs: slice | Tensor  # (L,): the inputs
    given: Tensor  # (K − 1,), packed (S, K − 1): the initial state, oldest first
    final: Tensor  # the same: the final state

    @classmethod
    def of(cls, x: Tensor, taps: int, cu_seqlens: Tensor | None, reverse: bool) -> _Places:
        before, length = taps - 1, x.shape[1]
        oldest_first = torch.arange(before, device=x.device)
        if cu_seqlens is None:
            row = length + before
            head, tail = oldest_first, oldest_first + length
            windows: slice | Tensor = slice(0, length)
            inputs: slice | Tensor = slice(0, length) if reverse else slice(before, row)
        else:
            sequences = cu_seqlens.shape[0] - 1
            row = length + sequences * before
            offsets = cu_seqlens.long()
            own = torch.arange(sequences, device=x.device)
            windows = torch.arange(length, device=x.device) + before * own.repeat_interleave(
                offsets.diff(), output_size=length
            )
            inputs = windows if reverse else windows + before
            head = (offsets[:-1] + own * before)[:, None] + oldest_first
            tail = (offsets[1:] + own * before)[:, None] + oldest_first
        if reverse:
            return cls(row, windows, inputs, given=tail.flip(-1), final=head.flip(-1))
        return cls(row, windows, inputs, given=head, final=tail)


def _write_row(x: Tensor, initial_state: Tensor | None, places: _Places) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    row = torch.empty(x.shape[0], places.length, x.shape[2], dtype=dtype, device=x.device)
    row[:, places.inputs] = x.to(dtype)
    if initial_state is None:
        row[:, places.given] = 0
    else:
        row[:, places.given] = initial_state.view(x.shape[0], *places.given.shape, -1)
    return row


def _taps(weight: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    """(K, D), in the order of the row."""
    taps = weight.to(dtype).t()
    return taps.flip(0) if reverse else taps.contiguous()


def _blocks(row: Tensor, taps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Windows, some at a time so that a block stays in the cache, and the stretch of the row they reach over."""
    windows, halo = row.shape[1] - taps.shape[0] + 1, taps.shape[0] - 1
    size = max(1, _BLOCK // (row.shape[0] * row.shape[2]))
    for first in range(0, windows, size):
        last = min(first + size, windows)
        yield slice(first, last), slice(first, last + halo)


def _correlate(row: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """bias + Σ_k taps_k row_{t+k} at every t that has all its taps."""
    windows = row.shape[1] - taps.shape[0] + 1
    out = row[:, :windows] * taps[0]
    for k, tap in enumerate(taps[1:], start=1):
        out.addcmul_(row[:, k : k + windows], tap)
    return out if bias is None else out.add_(bias)


def _states(row: Tensor, places: Tensor) -> Tensor:
    return row[:, places].view(-1, places.shape[-1], row.shape[2])
