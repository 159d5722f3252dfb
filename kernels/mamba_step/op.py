"""`mamba_step`: one position of a Mamba layer (Gu and Dao, arXiv 2312.00752, figure 3), for recurrent decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.causal_conv1d import causal_conv1d_step
from ssmbio.kernels.checks import check_shape
from ssmbio.kernels.selective_scan import selective_scan_step
from ssmbio.kernels.steps import triton_steps


def mamba_step(
    x: Tensor,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """in_proj → [u, z]; convolution and SiLU; x_proj → [low, B, C]; the scan with Δ from low; gate; out_proj.

    Decoding one sequence is a chain of products of a matrix and a vector, each over before the next is launched. So in
    Triton the layer is three kernels at small batches, and at large ones torch's three products with a kernel between
    them; both take weights as they are stored (no casts, no -exp(A_log) beforehand) and keep float32 in between. Their
    exponentials are the hardware's whatever the dtype, where those of `selective_scan` in float32 are exact.
    Differentiable; the kernels have no backward pass and run where no gradient is recorded (`torch.no_grad()`).

    Args:
        x: (B, M), M channels of the model; y has its dtype, or autocast's.
        in_weight: (2D, M). conv_weight: (D, K). conv_bias: (D,). x_weight: (R + 2N, D). dt_weight: (D, R).
        dt_bias: (D,). A_log: (D, N). D: (D,). out_weight: (M, D).
        conv_state: (B, K - 1, D), float32. ssm_state: (B, D, N), float32. They are not changed.
        backend: "auto", "triton" or "torch".

    Returns:
        y (B, M), and the new states.

    Raises:
        ValueError: an argument of wrong shape, which the message names.
        RuntimeError: backend="triton" where Triton cannot run or a gradient is asked for.
    """
    batch, model = x.shape
    (channels, states), taps, rank = A_log.shape, conv_weight.shape[1], dt_weight.shape[1]
    check_shape("in_weight", in_weight, "2D, M", (2 * channels, model))
    check_shape("conv_weight", conv_weight, "D, K", (channels, taps))
    check_shape("x_weight", x_weight, "R + 2N, D", (rank + 2 * states, channels))
    check_shape("dt_weight", dt_weight, "D, R", (channels, rank))
    check_shape("out_weight", out_weight, "M, D", (model, channels))
    for name, vector in (("conv_bias", conv_bias), ("dt_bias", dt_bias), ("D", D)):
        check_shape(name, vector, "D,", (channels,))
    check_shape("conv_state", conv_state, "B, K - 1, D", (batch, taps - 1, channels))
    check_shape("ssm_state", ssm_state, "B, D, N", (batch, channels, states))
    weights = (in_weight, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight)
    if triton_steps(backend, x, *weights, conv_state, ssm_state):
        from ssmbio.kernels.mamba_step import triton

        return triton.step(x, *weights, conv_state, ssm_state)
    return _torch_step(x, *weights, conv_state, ssm_state)


def _torch_step(
    x, in_weight, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight, conv_state, ssm_state
):  # fmt: skip
    states, rank = A_log.shape[1], dt_weight.shape[1]
    u, z = F.linear(x, in_weight).chunk(2, dim=-1)
    u, conv_state = causal_conv1d_step(u, conv_weight, conv_bias, "silu", conv_state, backend="torch")
    low, B, C = F.linear(u, x_weight).split([rank, states, states], dim=-1)
    delta = F.linear(low, dt_weight)
    A = -torch.exp(A_log if A_log.dtype == torch.float64 else A_log.float())
    y, ssm_state = selective_scan_step(u, delta, A, B, C, ssm_state, D, z, dt_bias, True, backend="torch")
    return F.linear(y, out_weight), conv_state, ssm_state
