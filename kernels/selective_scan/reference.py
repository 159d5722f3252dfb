"""The selective scan of Mamba, one position after another: the meaning of the op, and what every kernel is held to.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), section 3.2, with the
Euler rule for the input matrix as the authors' code has it. For channel d, state n and position t:

    Δ_t = softplus(delta_t + delta_bias)                the step size (softplus and bias optional)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t              the state
    y_t = (C_t · h_t + D u_t) · silu(z_t)               the output (skip and gate optional)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.packing import sequence_bounds


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs y (B, L, D) and final state (B or S, D, N); B, C are (B, L, N) or (B, L, G, N).

    Plain torch, differentiable by autograd, in float64 when `u` is float64 and in float32 otherwise.
    """
    batch, length, channels = u.shape
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32

    # 1. Widen: everything in the dtype of the states, B and C repeated for the channels of their group.
    x, dt, A = u.to(dtype), delta.to(dtype), A.to(dtype)
    B, C = (_per_channel(M.to(dtype), channels) for M in (B, C))  # (B, L, D, N)

    # 2. Step sizes.
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)
    if delta_softplus:
        dt = F.softplus(dt)

    # 3. The recurrence, in each sequence alone, from its first position or (reverse) from its last.
    outputs: list[Tensor] = []
    finals: list[Tensor] = []
    for s, (start, end) in enumerate(sequence_bounds(length, cu_seqlens)):
        if initial_state is None:
            h = x.new_zeros(batch, channels, A.shape[1])
        else:
            h = initial_state.to(dtype) if cu_seqlens is None else initial_state[s : s + 1].to(dtype)
        positions = range(end - 1, start - 1, -1) if reverse else range(start, end)
        y_t = []
        for t in positions:
            h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[:, :, None] * B[:, t]
            y_t.append((h * C[:, t]).sum(-1))
        outputs.append(torch.stack(y_t[::-1] if reverse else y_t, dim=1))
        finals.append(h)
    y = torch.cat(outputs, dim=1)

    # 4. Skip and gate.
    if D is not None:
        y = y + x * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), torch.cat(finals, dim=0)


def _per_channel(M: Tensor, channels: int) -> Tensor:
    """(B, L, N) or (B, L, G, N) to (B, L, D, N): channel d uses group d // (D // G)."""
    M = M.unsqueeze(2) if M.dim() == 3 else M
    return M.repeat_interleave(channels // M.shape[2], dim=2)
