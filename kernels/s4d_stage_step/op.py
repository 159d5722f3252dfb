"""`s4d_stage_step`: one position of a stage of SaShiMi (Goel, Gu, Donahue and Ré, arXiv 2202.09729, figure 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_shape
from ssmbio.kernels.dense_step import dense_step
from ssmbio.kernels.dense_step.op import check_rows_contiguous
from ssmbio.kernels.s4d_layer_step.op import check_complex, torch_step
from ssmbio.kernels.steps import triton_steps


class S4DStage(NamedTuple):
    """The weights of K layers, stacked: D channels, N pairs, F inner channels of the feed-forward network."""

    norm_weight: Tensor  # (K, D)
    norm_bias: Tensor  # (K, D)
    a: Tensor  # (K, D, N) complex: exp(log_a)
    b: Tensor  # (K, D, N) complex
    c: Tensor  # (K, D, N) complex
    D: Tensor  # (K, D), the skip
    mix_weight: Tensor  # (K, 2D, D), the linear map before the GLU
    mix_bias: Tensor  # (K, 2D)
    ff_norm_weight: Tensor  # (K, D)
    ff_norm_bias: Tensor  # (K, D)
    widen_weight: Tensor  # (K, F, D)
    widen_bias: Tensor  # (K, F)
    narrow_weight: Tensor  # (K, D, F)
    narrow_bias: Tensor  # (K, D)


@torch.no_grad()
def s4d_stage_step(
    x: Tensor,
    weights: S4DStage,
    state: Tensor,
    extra: Tensor | None = None,
    add_input: bool = False,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """K times: x ← x + GLU(W_mix s4d(LayerNorm(x)) + b);  x ← x + W_narrow gelu(W_widen LayerNorm(x) + b) + b.

    s4d is the recurrence and GELU of `s4d_layer_step`, and the states are overwritten. In Triton a narrow stage is one
    kernel, in which a program takes a row through all layers: weights come from L2 as fast as a multiprocessor reads,
    and no launch lies between. A wide one is four kernels a layer. Which of them it is depends on the widths alone, and
    so a row's result does not depend on the batch (see `dense_step`). No gradients are recorded.

    Args:
        x: (B, D), float32 (or float64, in torch), each row contiguous.
        weights: of the stage, all contiguous; the matrices float32, or bfloat16 or float16.
        state: (K, B, D, N), complex64 (complex128 when x is float64), contiguous: it is overwritten.
        extra: (B, D), each row contiguous, added to x first: what comes up from the stage below. None: nothing.
        add_input: the stage's input, x + extra, is added to its output.
        eps: of the LayerNorms.
        backend: "auto", "triton" or "torch".

    Returns:
        (B, D) in the dtype of x.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
    """
    _check(x, weights, state, extra)
    if triton_steps(backend, x, weights.mix_weight):
        from ssmbio.kernels.s4d_stage_step import triton

        return triton.step(x, weights, state, extra, add_input, eps)
    v = start = x if extra is None else x + extra
    for layer in range(len(state)):
        w = S4DStage(*(tensor[layer] for tensor in weights))
        g = torch_step(v, w.norm_weight, w.norm_bias, w.a, w.b, w.c, w.D, state[layer], eps)
        v = dense_step(g, w.mix_weight, w.mix_bias, activation="glu", residual=v, backend="torch")
        q = dense_step(
            v, w.widen_weight, w.widen_bias, w.ff_norm_weight, w.ff_norm_bias, "gelu", eps=eps, backend="torch"
        )
        v = dense_step(q, w.narrow_weight, w.narrow_bias, residual=v, backend="torch")
    return v + start if add_input else v


def _check(x: Tensor, weights: S4DStage, state: Tensor, extra: Tensor | None) -> None:
    if x.dim() != 2 or weights.a.dim() != 3 or weights.widen_weight.dim() != 3:
        found = tuple(x.shape), tuple(weights.a.shape), tuple(weights.widen_weight.shape)
        raise ValueError(f"x must be (B, D), a (K, D, N) and widen_weight (K, F, D); got {found}")
    (layers, channels, pairs), inner = weights.a.shape, weights.widen_weight.shape[1]
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 (or float64, in torch), the residual stream; got {x.dtype}")
    check_shape("x", x, "B, D", (x.shape[0], channels))
    check_shape("extra", extra, "B, D", x.shape)
    check_rows_contiguous("x", x)
    check_rows_contiguous("extra", extra)
    real = {name: tensor for name, tensor in weights._asdict().items() if name not in ("a", "b", "c")}
    check_floats(x, x=x, extra=extra, **real)
    shapes = {
        "mix_weight": (layers, 2 * channels, channels),
        "mix_bias": (layers, 2 * channels),
        "widen_weight": (layers, inner, channels),
        "widen_bias": (layers, inner),
        "narrow_weight": (layers, channels, inner),
    }
    for name, tensor in real.items():
        check_shape(name, tensor, "see S4DStage", shapes.get(name, (layers, channels)))
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous; its strides are {tuple(tensor.stride())}")
    for name in ("a", "b", "c"):
        check_complex(name, getattr(weights, name), x, "K, D, N", (layers, channels, pairs))
    check_complex("state", state, x, "K, B, D, N", (layers, x.shape[0], channels, pairs))
