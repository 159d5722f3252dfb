"""Convolution, projections and scan of a selective SSM as one node of autograd that keeps little.

Plain autograd keeps the convolution's output and Δ until the backward pass, each as large as x; this node keeps x and
makes both again, with the same calls and so the same bits, as mamba-ssm does (Gu and Dao, arXiv 2312.00752, section
3.3.2). By count that costs a twentieth of the scan's time, for two of a Mamba layer's six large tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels import causal_conv1d
from ssmbio.kernels.selective_scan.checks import check_arguments
from ssmbio.kernels.selective_scan.op import gradient_wanted


def selective_inner(
    x: Tensor,
    z: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    conv_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """u = silu(conv(x)); [low, B, C] = x_weight u; Δ = softplus(dt_weight low + dt_bias); the scan, gated by silu(z).

    Products are taken in the dtype of `x`, whatever autocast says: a projection before it has settled that.

    Args:
        x: (B, L, D), or packed (1, total, D).
        z: (B, L, D), the gate. None: no gate.
        conv_weight: (D, K). conv_bias: (D,).
        x_weight: (R + 2N, D), to the low rank of Δ and to B and C. dt_weight: (D, R). dt_bias: (D,).
        A_log: (D, N), logarithms of -A. D: (D,), the skip.
        conv_state: (B or S, K - 1, D). ssm_state: (B or S, D, N). None: zeros.
        cu_seqlens: (S + 1,) int32, offsets of packed sequences.
        reverse: scan each sequence from its end.

    Returns:
        y (B, L, D), and the states after the last position scanned, float32.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    tensors = (
        *(x, z, conv_weight, conv_bias, x_weight.to(x.dtype), dt_weight.to(x.dtype), dt_bias.to(wide)),
        *(-torch.exp(A_log.to(wide)), D.to(wide), _to(conv_state, wide), _to(ssm_state, wide)),
    )
    return _SelectiveInner.apply(*tensors, cu_seqlens, reverse, gradient_wanted(*tensors))


def _to(state: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if state is None else state.to(dtype)


class _SelectiveInner(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x, z, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A, D, conv_state, ssm_state, cu_seqlens,
        reverse, keep,
    ):  # fmt: skip
        with torch.autocast(x.device.type, enabled=False):
            u, conv_final = causal_conv1d(x, conv_weight, conv_bias, "silu", conv_state, True, cu_seqlens, reverse)
            selected = F.linear(u, x_weight)
            low, B, C = _split(selected, dt_weight, A)
            delta = F.linear(low, dt_weight)
            check_arguments(u, delta, A, B, C, D, z, dt_bias, ssm_state, cu_seqlens)
            y, ssm_final, checkpoints = torch.ops.ssmbio.selective_scan_forward(
                u, delta, A, B, C, D, z, dt_bias, True, ssm_state, cu_seqlens, reverse, "auto", keep
            )
        ctx.reverse = reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            *(x, z, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A, D, conv_state, ssm_state, cu_seqlens),
            *(selected, checkpoints),
        )
        return y, conv_final, ssm_final

    @staticmethod
    def backward(ctx, dy, d_conv_final, d_ssm_final):
        (
            x, z, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A, D, conv_state, ssm_state, cu_seqlens,
            selected, checkpoints,
        ) = ctx.saved_tensors  # fmt: skip
        reverse = ctx.reverse
        dy = torch.zeros_like(x) if dy is None else dy
        with torch.autocast(x.device.type, enabled=False):
            # 1. Again what the forward pass did not keep.
            u, _ = causal_conv1d(x, conv_weight, conv_bias, "silu", conv_state, True, cu_seqlens, reverse)
            low, B, C = _split(selected, dt_weight, A)
            delta = F.linear(low, dt_weight)
            # 2. The scan. Large tensors are dropped as soon as they are used.
            du, d_delta, dA, dB, dC, dD, *rest = torch.ops.ssmbio.selective_scan_backward(
                dy, d_ssm_final, checkpoints,
                u, delta, A, B, C, D, z, dt_bias, True, ssm_state, cu_seqlens, reverse, "auto",
            )  # fmt: skip
            del delta
            dz, rest = (None, rest) if z is None else (rest[0], rest[1:])
            d_dt_bias, d_ssm_state = rest[0], rest[1:]
            # 3. The projections; rows are positions of all sequences.
            rows_of_du, d_delta = _rows(du), _rows(d_delta)
            d_dt_weight = d_delta.t() @ _rows(low)
            d_selected = torch.cat([d_delta @ dt_weight, _rows(dB), _rows(dC)], dim=-1)
            del d_delta
            d_x_weight = d_selected.t() @ _rows(u)
            del u
            rows_of_du.addmm_(d_selected, x_weight)
            # 4. The convolution.
            dx, d_conv_weight, d_conv_bias, *d_conv_state = torch.ops.ssmbio.causal_conv1d_backward(
                du, d_conv_final, x, conv_weight, conv_bias, "silu", conv_state, cu_seqlens, reverse, "auto"
            )
        return (
            dx, dz, d_conv_weight, d_conv_bias, d_x_weight, d_dt_weight, d_dt_bias, dA, dD,
            d_conv_state[0] if d_conv_state else None, d_ssm_state[0] if d_ssm_state else None, None, None, None,
        )  # fmt: skip


def _split(selected: Tensor, dt_weight: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, R + 2N) → the low rank of Δ (B, L, R), B and C (B, L, 1, N), as views."""
    low, B, C = selected.split([dt_weight.shape[1], A.shape[1], A.shape[1]], dim=-1)
    return low, B.unsqueeze(2), C.unsqueeze(2)


def _rows(tensor: Tensor) -> Tensor:
    """(B, L, …, M) → (positions, M), a view."""
    return tensor.view(-1, tensor.shape[-1])
