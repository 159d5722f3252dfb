"""Between padded batches (B, L, …) and packed rows (1, total, …) with `cu_seqlens`.

Ragged batches run packed through the backbone, so no position of one sequence, nor padding, can reach another.
"""

from __future__ import annotations

import torch
from torch import Tensor


def valid_positions(lengths: Tensor, length: int) -> Tensor:
    """lengths (B,) → (B, L) bool, true where a position belongs to its sequence."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


def offsets(lengths: Tensor) -> Tensor:
    """lengths (B,) → cu_seqlens (B + 1,) int32."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def pack(x: Tensor, valid: Tensor) -> Tensor:
    """x (B, L, …), valid (B, L) → (1, total, …), row after row."""
    return x[valid][None]


def unpack(x: Tensor, valid: Tensor) -> Tensor:
    """The inverse of `pack`: x (1, total, …), valid (B, L) → (B, L, …), zero at padding."""
    padded = x.new_zeros(*valid.shape, *x.shape[2:])
    padded[valid] = x[0]
    return padded


def reversed_within(cu_seqlens: Tensor, total: int) -> Tensor:
    """cu_seqlens (S + 1,) → (total,) indices that reverse each packed sequence in place (an involution)."""
    position = torch.arange(total, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, position, right=True) - 1
    return (cu_seqlens[sequence] + cu_seqlens[sequence + 1] - 1) - position
