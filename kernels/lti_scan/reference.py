"""The scan of a time-invariant diagonal system, one position after another: the meaning of the op.

Source: the recurrence of Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces" (2022),
section 2.3, for a diagonal state matrix as in Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization of
Diagonal State Space Models" (2022), section 3. Of each conjugate pair of states one is kept, hence 2 Re. For channel d
and kept state n:

    h_l = exp(log_a) h_{l-1} + b u_l                    the state, complex
    y_l = 2 Re Σ_n c_n h_{l,n} + D u_l                  the output, real (skip optional)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.packing import sequence_bounds


def lti_scan_reference(
    u: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs y (B, L, D) and final state (B or S, D, N), complex.

    Plain torch, differentiable by autograd, in float64 and complex128 when `u` is float64, else in float32.
    """
    batch, length, _ = u.shape

    # 1. Widen to the dtypes of outputs and states.
    real, states = (torch.float64, torch.complex128) if u.dtype == torch.float64 else (torch.float32, torch.complex64)
    x, log_a, b, c = u.to(real), log_a.to(states), b.to(states), c.to(states)
    a = torch.exp(log_a)

    # 2. The recurrence, in each sequence alone, from its first position or (reverse) from its last.
    outputs: list[Tensor] = []
    finals: list[Tensor] = []
    for s, (start, end) in enumerate(sequence_bounds(length, cu_seqlens)):
        if initial_state is None:
            h = a.new_zeros(batch, *a.shape)
        else:
            h = (initial_state if cu_seqlens is None else initial_state[s : s + 1]).to(states)
        positions = range(end - 1, start - 1, -1) if reverse else range(start, end)
        y_l = []
        for l in positions:
            h = a * h + b * x[:, l, :, None]
            y_l.append(2 * (c * h).real.sum(-1))
        outputs.append(torch.stack(y_l[::-1] if reverse else y_l, dim=1))
        finals.append(h)
    y = torch.cat(outputs, dim=1)

    # 3. Skip.
    if D is not None:
        y = y + x * D.to(real)
    return y.to(u.dtype), torch.cat(finals, dim=0)
