"""The ops and layers of this project as workloads: their inputs, drawn on the device, and the calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmbio.benchmarking.workload import Case, Tensors, Workload
from ssmbio.generation.graphs import GraphedStep
from ssmbio.kernels import causal_conv1d, selective_scan
from ssmbio.mixers import BiMamba, Mamba


def scan_tensors(case: Case) -> Tensors:
    """Inputs with gradients, and dy; Δ is log-uniform in [1e-3, 1e-1], A = −1 … −N, as a new Mamba layer has them."""
    batch, length, channels, states = case.batch, case.length, case.channels, case.states
    step = torch.exp(torch.empty(channels, device=case.device).uniform_(math.log(1e-3), math.log(1e-1)))
    tensors = {
        "u": normal(case, batch, length, channels),
        "delta": normal(case, batch, length, channels).mul_(0.1),
        "A": -torch.arange(1.0, states + 1, device=case.device).repeat(channels, 1),
        "B": normal(case, batch, length, states),
        "C": normal(case, batch, length, states),
        "D": torch.ones(channels, device=case.device),
        "z": normal(case, batch, length, channels),
        "delta_bias": step + torch.log(-torch.expm1(-step)),
        "dy": normal(case, batch, length, channels),
    }
    return leaves(tensors)


def scan(case: Case, tensors: Tensors) -> Workload:
    inputs = {name: tensor for name, tensor in tensors.items() if name != "dy"}

    def call() -> Tensor:
        y = selective_scan(**inputs, delta_softplus=True)  # type: ignore[arg-type]
        assert isinstance(y, Tensor)
        return y

    return Workload(call, tuple(inputs.values()), tensors["dy"])


def convolution_tensors(case: Case) -> Tensors:
    """x, weight and bias with gradients, and dy; the parameters are float32, as in a layer."""
    rows = (case.batch, case.length, case.channels)
    tensors = {
        "x": normal(case, *rows),
        "weight": torch.randn(case.channels, case.taps, device=case.device) / math.sqrt(case.taps),
        "bias": torch.randn(case.channels, device=case.device),
        "dy": normal(case, *rows),
    }
    return leaves(tensors)


def convolution(case: Case, tensors: Tensors) -> Workload:
    x, weight, bias = tensors["x"], tensors["weight"], tensors["bias"]

    def call() -> Tensor:
        y = causal_conv1d(x, weight, bias)
        assert isinstance(y, Tensor)
        return y

    return Workload(call, (x, weight, bias), tensors["dy"])


def layer_tensors(case: Case) -> Tensors:
    """x (B, L, D) in float32, as the residual stream carries it, and dy in the dtype of the products."""
    x = torch.randn(case.batch, case.length, case.channels, device=case.device)
    return leaves({"x": x, "dy": normal(case, case.batch, case.length, case.channels)})


def mamba(case: Case, tensors: Tensors) -> Workload:
    return autocast_layer(case, tensors, Mamba(case.channels, d_state=case.states, d_conv=case.taps))


def bimamba(case: Case, tensors: Tensors) -> Workload:
    return autocast_layer(case, tensors, BiMamba(case.channels, d_state=case.states, d_conv=case.taps))


def autocast_layer(case: Case, tensors: Tensors, layer: nn.Module) -> Workload:
    """A layer under autocast to the dtype of the case; gradients of x and of every parameter."""
    layer, x = layer.to(case.device), tensors["x"]

    def call() -> Tensor:
        with torch.autocast(case.device, case.dtype, enabled=_autocast_dtype(case) is not None):
            y = layer(x)
        return y[0] if isinstance(y, tuple) else y  # a mixer or a block: its state beside it

    return Workload(call, (x, *layer.parameters()), tensors["dy"])


def step_tensors(case: Case) -> Tensors:
    """x (B, D), the input of one step."""
    return {"x": torch.randn(case.batch, case.channels, device=case.device)}


def decode(case: Case, tensors: Tensors) -> Workload:
    """L steps of one Mamba layer, on a GPU as a CUDA graph that is replayed, the input copied in at every step."""
    step, x = GraphedStep(_step_layer(case), case.batch, _autocast_dtype(case)), tensors["x"]

    def call() -> Tensor:
        for _ in range(case.length):
            y = step(x)
        return y

    return Workload(call, cold=False)


def decode_without_graph(case: Case, tensors: Tensors) -> Workload:
    """L steps of one Mamba layer, each launched from Python."""
    layer, x = _step_layer(case), tensors["x"]

    def call() -> Tensor:
        state = layer.initial_state(case.batch)
        with torch.autocast(case.device, case.dtype, enabled=_autocast_dtype(case) is not None):
            for _ in range(case.length):
                y, state = layer.step(x, state)
        return y

    return Workload(call, cold=False)


def _step_layer(case: Case) -> Mamba:
    return Mamba(case.channels, d_state=case.states, d_conv=case.taps).to(case.device).eval()


def _autocast_dtype(case: Case) -> torch.dtype | None:
    return None if case.dtype == torch.float32 else case.dtype


def normal(case: Case, *shape: int) -> Tensor:
    return torch.randn(*shape, device=case.device, dtype=case.dtype)


def leaves(tensors: Tensors) -> Tensors:
    return {name: tensor.requires_grad_(name != "dy") for name, tensor in tensors.items()}
