"""The long convolution by torch's transforms, as S4, S4D and Hyena are usually computed: float32, channels first."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.benchmarking.peers import LeftOut, Peer, as_leaf, channels_first
from ssmbio.benchmarking.workload import Case, Tensors, Workload
from ssmbio.kernels import lti_scan

MOST_POINTS = 2**31  # of all rows together: beyond, transforms of tens of GiB


def fft_of_its_kernel(case: Case, tensors: Tensors) -> Workload:
    """The scan as a convolution whose kernel is given: our response to an impulse, in which the skip is a first tap."""
    _check_points(case)
    log_a, b, c, D = (tensors[name] for name in ("log_a", "b", "c", "D"))
    with torch.no_grad():
        impulse = torch.zeros(1, case.length, case.channels, device=case.device)
        impulse[:, 0] = 1
        response = lti_scan(impulse, log_a, b, c, D, backend="fft")
    assert isinstance(response, Tensor)
    u, kernel = as_leaf(_first(tensors["u"])), as_leaf(channels_first(response)[0])
    return Workload(lambda: convolved(u, kernel), (u, kernel), _first(tensors["dy"]))


def fft(case: Case, tensors: Tensors) -> Workload:
    """The same numbers as ours, in float32."""
    _check_points(case)
    u, kernel, D = as_leaf(_first(tensors["u"])), tensors["kernel"], tensors["D"]
    return Workload(lambda: convolved(u, kernel) + u * D.unsqueeze(1), (u, kernel, D), _first(tensors["dy"]))


def convolved(u: Tensor, kernel: Tensor) -> Tensor:
    """u (B, D, L), kernel (D, L) → (B, D, L); rows are padded to twice their length, so that nothing wraps around."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(kernel, n), n)[..., : u.shape[-1]]


def _first(tensor: Tensor) -> Tensor:
    """(B, L, D) → (B, D, L), float32."""
    return channels_first(tensor).float()


def _check_points(case: Case) -> None:
    if 2 * case.positions * case.channels >= MOST_POINTS:
        raise LeftOut("2^31 points or more")


FFT_OF_ITS_KERNEL = Peer(
    "torch FFT",
    fft_of_its_kernel,
    same_op=False,
    note="the convolution alone, in float32: its kernel is given, not made of log_a, b, c; no states",
)
FFT = Peer("torch FFT", fft)
