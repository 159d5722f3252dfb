"""One position of the time-invariant scan, for recurrent decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_tensors
from ssmbio.kernels.lti_scan.checks import check_state, check_system


def lti_scan_step(
    u: Tensor, log_a: Tensor, b: Tensor, c: Tensor, state: Tensor, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of `lti_scan`: the same numbers, one position at a time. Plain torch, differentiable.

    Args:
        u: (B, D), float32, bfloat16, float16 (or float64).
        log_a, b, c: (D, N), complex.
        state: (B, D, N), complex64 (complex128 when `u` is float64); it is not changed.
        D: (D,), the skip. None: no skip.

    Returns:
        y (B, D) in the dtype of `u`, and the new state (B, D, N).

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
    """
    check_tensors({"u": u, "log_a": log_a, "b": b, "c": c, "state": state}, D=D)
    if u.dim() != 2:
        raise ValueError(f"u must be (B, D); got {tuple(u.shape)}")
    check_floats(u, u=u)
    check_system(u, log_a, b, c, D)
    check_state("state", state, "B", u.shape[0], u, log_a)
    real, states = (torch.float64, torch.complex128) if u.dtype == torch.float64 else (torch.float32, torch.complex64)
    x = u.to(real)
    h = torch.exp(log_a.to(states)) * state.to(states) + b.to(states) * x.unsqueeze(-1)
    y = 2 * (c.to(states) * h).real.sum(-1)
    if D is not None:
        y = y + x * D.to(real)
    return y.to(u.dtype), h
