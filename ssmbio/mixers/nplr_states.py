"""The state of a normal-plus-low-rank system through a whole sequence, without stepping: into a convolution and out.

A convolution starts from nothing and leaves no state. What a carried state adds is y_l = C Ā^{l+1} x; the state at the
end is Ā^L x + Σ_l Ā^{L-1-l} B̄ u_l. Both go by chunks of T positions: matrix products that all chunks share, and
doublings over the chunks. States are [Re x, Im x], (D, 2N) a sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.mixers.nplr import BilinearNPLR

_CHUNK = 7  # chunks of at most 2^7 positions: a chunk's state is then no larger than its inputs


def final_state(system: BilinearNPLR, powers: list[Tensor], u: Tensor) -> Tensor:
    """Σ_l Ā^{L-1-l} B̄ u_l: u (R, L, D), in float32 or float64 → (R, D, 2N).

    Args:
        system: complex128.
        powers: `system.powers(most)` with most at least L.
    """
    length = u.shape[1]
    chunk = min(_CHUNK, (length - 1).bit_length())
    # 1. Ā^{T-1} B̄ … Ā B̄, B̄: (D, 2N, T), oldest first.
    reach = system.dense_input()[..., None]
    for k in range(chunk):
        reach = torch.cat([powers[k] @ reach, reach], dim=-1)
    # 2. What each chunk alone leaves behind; zeros before the start leave nothing.
    count = -(-length // 2**chunk)
    u = F.pad(u, (0, 0, count * 2**chunk - length, 0)).unflatten(1, (count, -1))
    state = torch.einsum("dkt,rctd->drck", reach.to(u.dtype), u)
    # 3. Neighbours join, the older decayed by the length of the younger.
    for power in powers[chunk:]:
        if state.shape[2] == 1:
            break
        if state.shape[2] % 2:
            state = F.pad(state, (0, 0, 1, 0))
        state = state[:, :, 1::2] + state[:, :, ::2] @ power.to(u.dtype).mT[:, None]
    return state[:, :, 0].transpose(0, 1)


def carried_output(system: BilinearNPLR, powers: list[Tensor], x: Tensor, length: int) -> Tensor:
    """C Ā^{l+1} x for l < L: x (R, D, 2N) → (R, L, D), in the dtype of `x`. Arguments as above."""
    chunk = min(_CHUNK, (length - 1).bit_length())
    # 1. C Ā … C Ā^T: (D, T, 2N).
    rows = system.dense_output()[:, None] @ powers[0]
    for k in range(chunk):
        rows = torch.cat([rows, rows @ powers[k]], dim=1)
    # 2. The state before each chunk: x, Ā^T x, Ā^{2T} x, …
    count = -(-length // 2**chunk)
    before = x.transpose(0, 1)[:, :, None]
    for power in powers[chunk:]:
        if before.shape[2] >= count:
            break
        before = torch.cat([before, before @ power.to(x.dtype).mT[:, None]], dim=2)
    y = torch.einsum("drck,dtk->rctd", before[:, :, :count], rows.to(x.dtype))
    return y.flatten(1, 2)[:, :length]


def decayed_state(powers: list[Tensor], x: Tensor, lengths: Tensor) -> Tensor:
    """Ā^{L_r} x_r by the binary digits of L_r: x (R, D, 2N), lengths (R,) → (R, D, 2N)."""
    for k, power in enumerate(powers):
        moved = torch.einsum("dij,rdj->rdi", power.to(x.dtype), x)
        x = torch.where((lengths >> k & 1).bool()[:, None, None], moved, x)
    return x
