"""One position of the selective scan, for recurrent decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`: the same numbers, one position at a time.

    Args:
        u, delta, z: (B, D).
        A: (D, N), real and negative.
        B, C: (B, N), or (B, G, N) with channel d in group d // (D // G).
        state: (B, D, N), float32 (float64 when `u` is); it is not changed.
        D, delta_bias: (D,).
        delta_softplus: whether the step size is softplus(delta + delta_bias).

    Returns:
        y (B, D) in the dtype of `u`, and the new state (B, D, N).
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    batch, channels = u.shape
    if state.shape != (batch, channels, A.shape[1]):
        raise ValueError(f"state must be (B, D, N) = {(batch, channels, A.shape[1])}; got {tuple(state.shape)}")
    x, dt = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias
    if delta_softplus:
        dt = F.softplus(dt)
    # Channels are split as (G, D / G), so that B and C broadcast over a group's channels without a copy.
    groups = 1 if B.dim() == 2 else B.shape[1]
    split = (batch, groups, channels // groups, A.shape[1])
    B, C = (M.to(dtype).reshape(batch, groups, 1, -1) for M in (B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A.to(dtype))
    drive = (dt * x).view(split[:3]).unsqueeze(-1) * B
    h = torch.addcmul(drive.view(state.shape), decay, state.to(dtype))
    y = (h.view(split) * C).sum(-1).view(batch, channels)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h
