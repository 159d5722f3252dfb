"""Long convolutions and time-invariant scans of this project as workloads, and the layer made of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmbio.backbones import Block
from ssmbio.benchmarking.own import autocast_layer, leaves, normal
from ssmbio.benchmarking.workload import Case, Tensors, Workload
from ssmbio.kernels import fft_convolution, lti_scan
from ssmbio.mixers import S4D
from ssmbio.mixers.discretization import zero_order_hold
from ssmbio.mixers.s4d import s4d_eigenvalues


def scan_tensors(case: Case) -> Tensors:
    """Inputs with gradients, and dy; the system is that of a new S4D-Lin layer, Δ log-uniform in [1e-3, 1e-1]."""
    channels, pairs, device = case.channels, case.states, case.device
    A = s4d_eigenvalues("lin", 2 * pairs).to(device)
    step = torch.exp(torch.empty(channels, 1, device=device).uniform_(math.log(1e-3), math.log(1e-1)))
    log_a, b = zero_order_hold(A, torch.ones_like(A), step)
    tensors = {
        "u": normal(case, case.batch, case.length, channels),
        "log_a": log_a.to(torch.complex64),
        "b": b.to(torch.complex64),
        "c": torch.randn(channels, pairs, dtype=torch.complex64, device=device),
        "D": torch.randn(channels, device=device),
        "dy": normal(case, case.batch, case.length, channels),
    }
    return leaves(tensors)


def scan(case: Case, tensors: Tensors) -> Workload:
    """With the final state; gradients of u and all parameters."""
    u, log_a, b, c, D = inputs = tuple(tensors[name] for name in ("u", "log_a", "b", "c", "D"))

    def call() -> Tensor:
        y, _ = lti_scan(u, log_a, b, c, D, return_final_state=True)
        return y

    return Workload(call, inputs, tensors["dy"])


def convolution_tensors(case: Case) -> Tensors:
    """u, a kernel as long as the rows and the skip with gradients, and dy; both parameters are float32."""
    decay = torch.exp(-torch.arange(case.length, device=case.device) * (8 / case.length))
    tensors = {
        "u": normal(case, case.batch, case.length, case.channels),
        "kernel": torch.randn(case.channels, case.length, device=case.device) * decay,
        "D": torch.randn(case.channels, device=case.device),
        "dy": normal(case, case.batch, case.length, case.channels),
    }
    return leaves(tensors)


def convolution(case: Case, tensors: Tensors) -> Workload:
    u, kernel, D = inputs = tuple(tensors[name] for name in ("u", "kernel", "D"))
    return Workload(lambda: fft_convolution(u, kernel, D), inputs, tensors["dy"])


def block_tensors(case: Case) -> Tensors:
    """x (B, L, D) and dy, both float32, as the residual stream is."""
    x, dy = (torch.randn(case.batch, case.length, case.channels, device=case.device) for _ in range(2))
    return leaves({"x": x, "dy": dy})


def s4d(case: Case, tensors: Tensors) -> Workload:
    """x + S4D(norm(x)) under autocast; in S4D a Linear to 2 D and a GLU follow the scan."""
    return autocast_layer(case, tensors, Block(S4D(case.channels, d_state=2 * case.states), dropout=0.0))
