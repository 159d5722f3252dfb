"""`s4d_layer_step`: the recurrent half of a residual block of S4D, one position (Gu et al., arXiv 2206.11893)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_shape
from ssmbio.kernels.dense_step.op import check_rows_contiguous
from ssmbio.kernels.steps import triton_steps


@torch.no_grad()
def s4d_layer_step(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor,
    state: Tensor,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """u = LayerNorm(x);  h ← a h + b u, in place;  g = gelu(2 Re Σ_n c_n h_n + D u).

    What `lti_scan_step` computes, with a = exp(log_a) taken once and not at every position, and with what stands around
    it: `dense_step` with "glu" and x as the residual makes g the output of the block. The state is float32 in pairs. In
    Triton a row's result does not depend on the batch (see `dense_step`). No gradients are recorded.

    Args:
        x: (B, D), the residual stream, each row contiguous.
        norm_weight, norm_bias: (D,).
        a, b, c: (D, N), complex64 (complex128 when x is float64).
        D: (D,), the skip.
        state: (B, D, N), complex like a, contiguous: it is overwritten.
        eps: of the LayerNorm.
        backend: "auto", "triton" or "torch".

    Returns:
        g (B, D) in the dtype of x.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
    """
    if x.dim() != 2 or a.dim() != 2:
        raise ValueError(f"x must be (B, D) and a (D, N); got {tuple(x.shape)} and {tuple(a.shape)}")
    channels, pairs = a.shape
    check_floats(x, x=x, norm_weight=norm_weight, norm_bias=norm_bias, D=D)
    check_shape("x", x, "B, D", (x.shape[0], channels))
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias), ("D", D)):
        check_shape(name, tensor, "D,", (channels,))
    for name, tensor in (("a", a), ("b", b), ("c", c)):
        check_complex(name, tensor, x, "D, N", (channels, pairs))
    check_complex("state", state, x, "B, D, N", (x.shape[0], channels, pairs))
    check_rows_contiguous("x", x)
    if triton_steps(backend, x, norm_weight):
        from ssmbio.kernels.s4d_layer_step import triton

        g = torch.empty_like(x, memory_format=torch.contiguous_format)
        triton.step(x, norm_weight, norm_bias, a, b, c, D, state, eps, g)
        return g
    return torch_step(x, norm_weight, norm_bias, a, b, c, D, state, eps)


def check_complex(name: str, tensor: Tensor, main: Tensor, axes: str, shape: tuple[int, ...]) -> None:
    """Complex of the precision that steps of `main` run in, contiguous, on its device."""
    dtype = torch.complex128 if main.dtype == torch.float64 else torch.complex64
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} beside {main.dtype}; got {tensor.dtype}")
    if tensor.device != main.device:
        raise ValueError(f"{name} must be on {main.device} as x is; got {tensor.device}")
    check_shape(name, tensor, axes, shape)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; its strides are {tuple(tensor.stride())}")


def torch_step(x, norm_weight, norm_bias, a, b, c, D, state, eps) -> Tensor:
    """The meaning of `s4d_layer_step`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        u = F.layer_norm(x.to(wide), (x.shape[1],), norm_weight.to(wide), norm_bias.to(wide), eps)
        state.mul_(a).addcmul_(b, u.unsqueeze(-1).to(b.dtype))
        y = 2 * (c * state).real.sum(-1) + D.to(wide) * u
        return F.gelu(y).to(x.dtype)
