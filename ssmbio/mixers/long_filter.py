"""A causal convolution with a long, finite filter, on the mixer contract: its state is the cache of its last inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels import fft_convolution
from ssmbio.mixers.sequence_rows import SequenceRows


def long_filter(
    u: Tensor,
    taps: Tensor,
    length: int,
    D: Tensor | None = None,
    cache: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_l = Σ_{k < K} taps_k u_{l-k} + D u_l.

    Args:
        u: (B, L, D), or packed (1, total, D).
        taps: (D, K), float32 (float64 when `u` is); without a cache, those that no input meets may be left out.
        length: K of the whole filter.
        D: (D,).
        cache: (B or S, K - 1, D), the inputs before the first, oldest first; None: zeros.
        cu_seqlens: (S + 1,) int32, offsets of packed sequences.

    Returns:
        y like u, and the last K - 1 inputs, like `cache`, in the dtype of `taps`.
    """
    rows = SequenceRows(u, cu_seqlens)
    x = rows.split(u, ends_meet=False)
    past = length - 1
    if cache is None:
        y = fft_convolution(x, taps, D)
        before = F.pad(x, (0, 0, past, 0))
    else:
        before = torch.cat([cache.to(x.dtype), x], dim=1)
        y = fft_convolution(before, taps, D)[:, past:]
    if rows.packed:
        index = rows.lengths[:, None] + torch.arange(past, device=u.device)
        last = before.gather(1, index[..., None].expand(-1, -1, u.shape[2]))
    else:
        last = before[:, rows.longest :]
    return rows.join(y, ends_meet=False), last.to(taps.dtype)


def long_filter_step(u: Tensor, taps: Tensor, D: Tensor | None, cache: Tensor) -> tuple[Tensor, Tensor]:
    """One position: u (B, D), cache (B, K - 1, D) → y (B, D) and the new cache. Takes O(K)."""
    inputs = torch.cat([cache, u[:, None].to(cache.dtype)], dim=1)
    y = torch.einsum("bkd,dk->bd", inputs, taps.flip(1))
    return (y if D is None else y + D * u).to(u.dtype), inputs[:, 1:]
