"""The cases that the fused steps of decoding are tried on, and what the steps mean, in terms of older ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_cases import DEVICE
from torch import Tensor

from ssmbio.kernels import lti_scan_step
from ssmbio.kernels.dense_step import dense_step
from ssmbio.kernels.s4d_layer_step import s4d_layer_step
from ssmbio.kernels.s4d_stage_step import S4DStage, s4d_stage_step

LAYERS = 2


class Draws:
    """Numbers that are the same for every batch: rows are drawn one after another."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=self._random, dtype=torch.float64)).to(DEVICE, torch.float32)

    def complex(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.view_as_complex(self.normal(*shape, 2, scale=scale))

    def decays(self, *shape: int) -> Tensor:
        """exp(log_a) of slow and fast modes."""
        rate = torch.rand(shape, generator=self._random, dtype=torch.float64) * 0.2
        angle = torch.randn(shape, generator=self._random, dtype=torch.float64)
        return torch.exp(torch.complex(-rate, angle)).to(DEVICE, torch.complex64)

    def rows(self, batch: int, *shape: int) -> Tensor:
        return torch.stack([self.normal(*shape) for _ in range(batch)])


def dense_case(
    batch: int,
    channels: int = 24,
    outputs: int = 16,
    norm: bool = False,
    activation: str | None = "glu",
    residual: bool = False,
    bias: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    draws, rows = Draws(seed), outputs * (2 if activation == "glu" else 1)
    case: dict[str, Any] = {
        "weight": draws.normal(rows, channels, scale=channels**-0.5),
        "bias": draws.normal(rows) if bias else None,
        "norm_weight": 1 + draws.normal(channels, scale=0.2) if norm else None,
        "norm_bias": draws.normal(channels, scale=0.2) if norm else None,
        "activation": activation,
    }
    return case | {
        "x": Draws(seed + 100).rows(batch, channels),
        "residual": Draws(seed + 200).rows(batch, outputs) if residual else None,
    }


def layer_case(batch: int, channels: int = 12, pairs: int = 5, seed: int = 0) -> dict[str, Tensor]:
    draws = Draws(seed)
    return {
        "norm_weight": 1 + draws.normal(channels, scale=0.2),
        "norm_bias": draws.normal(channels, scale=0.2),
        "a": draws.decays(channels, pairs),
        "b": draws.complex(channels, pairs, scale=0.3),
        "c": draws.complex(channels, pairs, scale=pairs**-0.5),
        "D": draws.normal(channels),
        "x": Draws(seed + 100).rows(batch, channels),
        "state": torch.view_as_complex(Draws(seed + 200).rows(batch, channels, pairs, 2)),
    }


def stage_case(
    batch: int, channels: int = 12, pairs: int = 5, inner: int = 20, layers: int = LAYERS, seed: int = 0
) -> tuple[Tensor, S4DStage, Tensor, Tensor]:
    """x, weights, state, extra."""
    draws, system, vector = Draws(seed), (layers, channels, pairs), (layers, channels)
    weights = S4DStage(
        norm_weight=1 + draws.normal(*vector, scale=0.2),
        norm_bias=draws.normal(*vector, scale=0.2),
        a=draws.decays(*system),
        b=draws.complex(*system, scale=0.3),
        c=draws.complex(*system, scale=pairs**-0.5),
        D=draws.normal(*vector),
        mix_weight=draws.normal(layers, 2 * channels, channels, scale=channels**-0.5),
        mix_bias=draws.normal(layers, 2 * channels, scale=0.2),
        ff_norm_weight=1 + draws.normal(*vector, scale=0.2),
        ff_norm_bias=draws.normal(*vector, scale=0.2),
        widen_weight=draws.normal(layers, inner, channels, scale=channels**-0.5),
        widen_bias=draws.normal(layers, inner, scale=0.2),
        narrow_weight=draws.normal(layers, channels, inner, scale=inner**-0.5),
        narrow_bias=draws.normal(*vector, scale=0.2),
    )
    state = Draws(seed + 200).rows(batch, layers, channels, pairs, 2).transpose(0, 1).contiguous()
    x, extra = Draws(seed + 100).rows(batch, channels), Draws(seed + 300).rows(batch, channels)
    return x, weights, torch.view_as_complex(state), extra


def rows_of(case: Callable, batch: int, backend: str, *sizes: int) -> tuple[Tensor, ...]:
    """Row by row, what a step gives and leaves at this batch."""
    inputs = case(batch, *sizes)
    if case is stage_case:
        x, weights, state, extra = inputs
        return s4d_stage_step(x, weights, state, extra, True, backend=backend), state.transpose(0, 1)
    if case is layer_case:
        return s4d_layer_step(**inputs, backend=backend), inputs["state"]
    return (dense_step(**inputs, backend=backend),)


def in_float64(inputs: Any) -> Any:
    """Copies of all tensors in float64 and complex128."""
    if isinstance(inputs, Tensor):
        return inputs.to(torch.complex128 if inputs.is_complex() else torch.float64, copy=True)
    if isinstance(inputs, S4DStage):
        return S4DStage(*(in_float64(tensor) for tensor in inputs))
    if isinstance(inputs, dict):
        return {name: in_float64(value) for name, value in inputs.items()}
    return tuple(in_float64(value) for value in inputs) if isinstance(inputs, tuple) else inputs


def error_share(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the error as a share of that of the exact values."""
    difference = found.to(exact.dtype) - exact
    return (difference.abs().square().mean() / exact.abs().square().mean()).sqrt().item()


def dense_by_definition(x, weight, bias, norm_weight, norm_bias, activation, residual) -> Tensor:
    u = x if norm_weight is None else F.layer_norm(x, x.shape[1:], norm_weight, norm_bias)
    y = u @ weight.T + (0 if bias is None else bias)
    if activation == "gelu":
        y = F.gelu(y)
    if activation == "glu":
        first, second = y.chunk(2, dim=1)
        y = first * torch.sigmoid(second)
    return y if residual is None else residual + y


def layer_by_definition(x, norm_weight, norm_bias, a, b, c, D, state) -> tuple[Tensor, Tensor]:
    """The output, and the state afterwards."""
    u = F.layer_norm(x, x.shape[1:], norm_weight, norm_bias)
    y, state = lti_scan_step(u, torch.log(a), b, c, state, D)
    return F.gelu(y), state


def stage_by_definition(
    x: Tensor, weights: S4DStage, state: Tensor, extra: Tensor | None, add_input: bool
) -> tuple[Tensor, Tensor]:
    start = v = x if extra is None else x + extra
    states = []
    for layer in range(len(state)):
        w = S4DStage(*(tensor[layer] for tensor in weights))
        g, h = layer_by_definition(v, w.norm_weight, w.norm_bias, w.a, w.b, w.c, w.D, state[layer])
        states.append(h)
        v = dense_by_definition(g, w.mix_weight, w.mix_bias, None, None, "glu", v)
        q = dense_by_definition(v, w.widen_weight, w.widen_bias, w.ff_norm_weight, w.ff_norm_bias, "gelu", None)
        v = dense_by_definition(q, w.narrow_weight, w.narrow_bias, None, None, None, v)
    return v + start if add_input else v, torch.stack(states)
