"""One position of the selective scan, for recurrent decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_parameters, check_shape, check_tensors
from ssmbio.kernels.steps import triton_steps


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`: the same numbers, one position at a time.

    Differentiable; Triton's kernel has no backward pass and runs where no gradient is recorded (`torch.no_grad()`).

    Args:
        u, delta, z: (B, D).
        A: (D, N), real and negative.
        B, C: (B, N), or (B, G, N) with channel d in group d // (D // G).
        state: (B, D, N), float32 (float64 when `u` is); it is not changed.
        D, delta_bias: (D,).
        delta_softplus: whether the step size is softplus(delta + delta_bias).
        backend: "auto", "triton" or "torch" ("reference" is "torch").

    Returns:
        y (B, D) in the dtype of `u`, and the new state (B, D, N).

    Raises:
        ValueError, TypeError: an argument of wrong shape, device or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run or a gradient is asked for.
    """
    check_tensors({"u": u, "delta": delta, "A": A, "B": B, "C": C, "state": state}, D=D, z=z, delta_bias=delta_bias)
    check_floats(u, u=u, delta=delta, B=B, C=C, z=z)
    check_parameters("u", u, A=A, state=state, D=D, delta_bias=delta_bias)
    for name, matrix, axes in (("u", u, "B, D"), ("A", A, "D, N")):
        if matrix.dim() != 2:
            raise ValueError(f"{name} must be ({axes}); got {tuple(matrix.shape)}")
    for name, mixing in (("B", B), ("C", C)):
        if mixing.dim() not in (2, 3):
            raise ValueError(f"{name} must be (B, N) or (B, G, N); got {tuple(mixing.shape)}")
    batch, channels = u.shape
    states = A.shape[1]
    B, C = (M.unsqueeze(1) if M.dim() == 2 else M for M in (B, C))
    groups = B.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"B must have a number of groups that divides D = {channels}; got {groups}")
    check_shape("A", A, "D, N", (channels, states))
    check_shape("state", state, "B, D, N", (batch, channels, states))
    for name, row in (("delta", delta), ("z", z)):
        check_shape(name, row, "B, D", (batch, channels))
    for name, mixing in (("B", B), ("C", C)):
        check_shape(name, mixing, "B, G, N", (batch, groups, states))
    for name, vector in (("D", D), ("delta_bias", delta_bias)):
        check_shape(name, vector, "D,", (channels,))
    if triton_steps(backend, u, delta, A, B, C, state, D, z, delta_bias):
        from ssmbio.kernels.selective_scan import triton_step

        return triton_step.step(u, delta, A, B, C, state, D, z, delta_bias, delta_softplus)
    return _torch_step(u, delta, A, B, C, state, D, z, delta_bias, delta_softplus)


def _torch_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    batch, groups, states = B.shape
    x, dt = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)
    if delta_softplus:
        dt = F.softplus(dt)
    # Channels are split as (G, D / G), so that B and C broadcast over a group's channels without a copy.
    split = (batch, groups, u.shape[1] // groups, states)
    B, C = (M.to(dtype).unsqueeze(2) for M in (B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A.to(dtype))
    drive = (dt * x).view(split[:3]).unsqueeze(-1) * B
    h = torch.addcmul(drive.view(state.shape), decay, state.to(dtype))
    y = (h.view(split) * C).sum(-1).view(u.shape)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h
