"""Between two rates of a U-Net: `pool` positions become one, and one becomes `pool` (SaShiMi, arXiv 2202.09729).

A low-rate position j is made of the positions pool·j … pool·j + pool - 1, so what is made of it may only reach the
positions after those: on its way up it is late by one low-rate step. Channels are laid out position by position, so
that neither direction moves data: a row (B, L, D) is read as (B, L / pool, pool · D).

Both carry a state of fixed shapes, with which a sequence can be cut anywhere. q is the number of positions since a
pool last filled, 0 ≤ q < pool.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.layers import Linear

Gathered = tuple[Tensor, ...]
"""pool - 1 inputs (B, D) of a pool that is filling: the first q count, the others are never read."""


class DownPool(nn.Module):
    """`pool` positions side by side, and a linear map of them.

    Args:
        d_model: D, channels in.
        d_low: channels out.
        pool: positions that become one.
    """

    def __init__(self, d_model: int, d_low: int, pool: int) -> None:
        super().__init__()
        self.d_model, self.pool = d_model, pool
        self.linear = Linear(pool * d_model, d_low)

    def forward(self, x: Tensor, gathered: Gathered | None = None, q: int = 0) -> tuple[Tensor, Gathered]:
        """x (B, L, D) after `gathered` → (B, (q + L) // pool, d_low) of the pools that fill, and what is left over."""
        if q:
            assert gathered is not None, "a pool that is partly filled needs what it has gathered"
            x = torch.cat([torch.stack(gathered[:q], dim=1).to(x.dtype), x], dim=1)
        full = x.shape[1] // self.pool
        left = list(x[:, full * self.pool :].unbind(1))
        # Copies: a slice would keep the whole row in memory for as long as the state lives.
        kept = [row.clone(memory_format=torch.contiguous_format) for row in left]
        kept += [x.new_zeros(x.shape[0], self.d_model) for _ in range(self.pool - 1 - len(left))]
        return self.whole(x[:, : full * self.pool]), tuple(kept)

    def whole(self, x: Tensor) -> Tensor:
        """x (B, L, D) of whole pools → (B, L / pool, d_low), in the dtype of x: a residual stream starts with it."""
        return self.linear(x.unflatten(1, (x.shape[1] // self.pool, self.pool)).flatten(2)).to(x.dtype)

    def step(self, x: Tensor, gathered: Gathered, q: int) -> tuple[Tensor | None, Gathered]:
        """x (B, D), the q-th of its pool → (B, d_low) if it fills the pool, and the inputs gathered."""
        if q < self.pool - 1:
            return None, (*gathered[:q], x, *gathered[q + 1 :])
        return self.linear(torch.cat([*(row.to(x.dtype) for row in gathered), x], dim=-1)).to(x.dtype), gathered

    def initial_state(self, batch_size: int) -> Gathered:
        weight = self.linear.weight
        return tuple(_zeros(weight, batch_size, self.d_model) for _ in range(self.pool - 1))


class UpPool(nn.Module):
    """A linear map of each low-rate position to the `pool` positions that follow it.

    Its state is what it last made, (B, pool, D): outputs for the pool that is filling now, of which q are used.

    Args:
        d_low: channels in.
        d_model: D, channels out.
        pool: positions that are made of one.
    """

    def __init__(self, d_low: int, d_model: int, pool: int) -> None:
        super().__init__()
        self.d_model, self.pool = d_model, pool
        self.linear = Linear(d_low, pool * d_model)

    def forward(self, low: Tensor, length: int, pending: Tensor | None = None, q: int = 0) -> tuple[Tensor, Tensor]:
        """low (B, l, d_low) of the l ≥ 1 pools that filled → outputs (B, length, D), and those still to be used.

        `pending` None stands for zeros, the start of a sequence.
        """
        made = self.whole(low)
        if pending is None:
            pending = low.new_zeros(low.shape[0], self.pool, self.d_model)
        y = torch.cat([pending[:, q:].to(made.dtype), made], dim=1)[:, :length]
        return y, made[:, -self.pool :].to(low.dtype, copy=True)

    def whole(self, low: Tensor) -> Tensor:
        """low (B, l, d_low) → (B, l · pool, D), not yet late."""
        return self.linear(low).unflatten(2, (self.pool, self.d_model)).flatten(1, 2)

    def step(self, low: Tensor) -> Tensor:
        """low (B, d_low), of the pool that has just filled → the outputs (B, pool, D) for the next."""
        return self.linear(low).unflatten(1, (self.pool, self.d_model)).to(low.dtype)

    def initial_state(self, batch_size: int) -> Tensor:
        return _zeros(self.linear.weight, batch_size, self.pool, self.d_model)


class PackedPooling:
    """Sequences of any lengths packed into one row, and each in ⌈length / pool⌉ positions of the lower rate.

    Each sequence is filled up with zeros to whole pools, so nothing crosses from one to the next.

    Args:
        cu_seqlens: (S + 1,) int32, offsets at the higher rate.
        pool: positions that become one.

    Attributes:
        cu_seqlens: (S + 1,) int32, offsets at the lower rate.
    """

    def __init__(self, cu_seqlens: Tensor, pool: int) -> None:
        lengths = cu_seqlens.diff()
        low = F.pad((lengths + pool - 1).div(pool, rounding_mode="floor").cumsum(0), (1, 0))
        self.cu_seqlens = low.to(torch.int32)
        # int64, for there may be more positions than int32 counts; the totals come to the host once.
        start, low_start = cu_seqlens.long(), low.long() * pool
        total, low_total = torch.stack([start[-1], low_start[-1]]).tolist()

        sequence, offset = _places(low_start, low_total)
        self._filled = offset < lengths[sequence]
        self._source = (start[sequence] + offset).where(self._filled, 0)

        sequence, offset = _places(start, total)
        self._late = offset >= pool
        self._made = (low_start[sequence] + offset - pool).where(self._late, 0)

    def padded(self, x: Tensor) -> Tensor:
        """x (1, total, D) → (1, whole pools of every sequence, D), zero where a sequence is over."""
        return _taken(x, self._source, self._filled)

    def late(self, made: Tensor) -> Tensor:
        """`UpPool.whole` of the lower rate → (1, total, D): late by a pool in every sequence, zero at its start."""
        return _taken(made, self._made, self._late)


def _places(start: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """start (S + 1,) → of each position, its sequence and its offset in it, (total,) each."""
    position = torch.arange(total, device=start.device)
    sequence = torch.searchsorted(start, position, right=True) - 1
    return sequence, position - start[sequence]


def _taken(x: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid[:, None], x.index_select(1, index), 0)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Of the residual stream: float64 in a model of float64, float32 otherwise."""
    return like.new_zeros(*shape, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
