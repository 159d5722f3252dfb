"""The least time an op can take on a device: bytes, exponentials and products counted, the peaks of each measured.

A count is of what the op needs, whatever its implementation: every input is read once and every output written once,
decays are evaluated once in each pass, and the backward pass evaluates them again, for keeping them would move N times
the bytes. Softplus, SiLU, GELU and the sigmoid of a GLU count as two exponentials each: a GPU takes logarithms and
reciprocals on the same unit.

A time-invariant scan is counted as products of chunks of `CHUNK` positions: with the first taps, into the state, out of
the state; in the backward pass as many for du, and as many again for the parameters. The convolution by transforms is
counted by its bytes alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ssmbio.benchmarking import timing
from ssmbio.benchmarking.workload import Case

EXPONENTIALS_A_CLOCK = 16  # of a multiprocessor (CUDA programming guide, throughput of native arithmetic instructions)
CHUNK = 64  # positions of a chunk: rows of the smallest product that Hopper's tensor cores take
EXPAND = 2  # inner channels of a layer for each of its channels


class Cost(NamedTuple):
    """Of one call. `products`: floating-point operations in matrix products, two for a multiplication and addition."""

    bytes: int
    exponentials: int
    products: int = 0


class Costs(NamedTuple):
    """Of the forward pass, and of both; None where there is no backward pass."""

    forward: Cost
    forward_backward: Cost | None


class Peaks(NamedTuple):
    """What the device reaches in a second."""

    bytes: float
    exponentials: float
    products: float


def least_ms(cost: Cost, peaks: Peaks) -> tuple[float, str]:
    """The time of the resource that takes longest, the others hidden behind it, and its name."""
    times = {name: 1e3 * count / peak for name, count, peak in zip(Cost._fields, cost, peaks, strict=True)}
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound


def scan_costs(case: Case) -> Costs:
    """Forward: u, delta, z, B, C → y. Backward: those and dy → their gradients. A, D and the bias are float32."""
    rows, mixing = case.positions * case.channels, case.positions * case.states
    parameters = 4 * case.channels * (case.states + 2)
    forward = Cost((4 * rows + 2 * mixing) * case.dtype.itemsize + parameters, rows * (case.states + 4))
    backward = Cost((7 * rows + 4 * mixing) * case.dtype.itemsize + 2 * parameters, forward.exponentials)
    return _both(forward, backward)


def convolution_costs(case: Case) -> Costs:
    """Forward: x → y. Backward: x, dy → dx. SiLU in both; weight and bias are float32."""
    rows, parameters = case.positions * case.channels, 4 * case.channels * (case.taps + 1)
    forward = Cost(2 * rows * case.dtype.itemsize + parameters, 2 * rows)
    backward = Cost(3 * rows * case.dtype.itemsize + 2 * parameters, 2 * rows)
    return _both(forward, backward)


def lti_costs(case: Case) -> Costs:
    """Forward: u → y and the final state. Backward: u, dy → du. log_a, b and c are complex64, D is float32."""
    rows, parameters = case.positions * case.channels, case.channels * (3 * 8 * case.states + 4)
    state = 8 * case.batch * case.channels * case.states
    products = _lti_products(case)
    forward = Cost(2 * rows * case.dtype.itemsize + parameters + state, 0, products)
    return _both(forward, Cost(3 * rows * case.dtype.itemsize + 2 * parameters, 0, 2 * products))


def fft_convolution_costs(case: Case) -> Costs:
    """Forward: u → y. Backward: u, dy → du. The kernel is (D, L), it and D are float32."""
    rows, parameters = case.positions * case.channels, 4 * case.channels * (case.length + 1)
    forward = Cost(2 * rows * case.dtype.itemsize + parameters, 0)
    return _both(forward, Cost(3 * rows * case.dtype.itemsize + 2 * parameters, 0))


def s4d_costs(case: Case) -> Costs:
    """Norm, scan, GELU, Linear to 2 D, GLU and residual. x, y, dy and dx are float32, and all parameters."""
    rows = case.positions * case.channels
    weights = case.channels * (2 * case.channels + 5 + 6 * case.states)
    products = _lti_products(case) + 4 * rows * case.channels
    return _both(
        Cost(8 * rows + 4 * weights, 4 * rows, products), Cost(12 * rows + 8 * weights, 4 * rows, 2 * products)
    )


def _lti_products(case: Case) -> int:
    """A state is two real numbers, and meets each position on its way in and on its way out."""
    return 2 * case.positions * case.channels * (CHUNK + 4 * case.states)


def mamba_costs(case: Case) -> Costs:
    return _layer_costs(case, directions=1)


def bimamba_costs(case: Case) -> Costs:
    return _layer_costs(case, directions=2)


def _layer_costs(case: Case, directions: int) -> Costs:
    """x and dx float32, y and dy in the dtype of the products; what lies between could stay on the chip."""
    weights = _shared_weights(case) + directions * _own_weights(case)
    products = 2 * case.positions * (_shared_weights(case) + directions * _selection_weights(case))
    exponentials = directions * case.positions * EXPAND * case.channels * (case.states + 4 + 2)
    row = case.positions * case.channels
    forward = Cost(row * (4 + case.dtype.itemsize) + 4 * weights, exponentials, products)
    backward = Cost(row * (8 + case.dtype.itemsize) + 8 * weights, exponentials, 2 * products)
    return _both(forward, backward)


def decode_costs(case: Case) -> Costs:
    """L steps; each reads the weights and the state, and writes the state.

    The weights of linear layers are in the dtype of the products, all else is float32.
    """
    inner = EXPAND * case.channels
    state = case.batch * inner * (case.states + case.taps - 1)
    linear = _shared_weights(case) + _selection_weights(case) - inner * _rank(case)  # Δ's is no linear layer
    others = _shared_weights(case) + _own_weights(case) - linear
    step = Cost(
        linear * case.dtype.itemsize + 4 * (others + 2 * state + 2 * case.batch * case.channels),
        case.batch * inner * (case.states + 4 + 2),
        2 * case.batch * (_shared_weights(case) + _selection_weights(case)),
    )
    return Costs(Cost(*(case.length * count for count in step)), None)


def _shared_weights(case: Case) -> int:
    """in_proj and out_proj."""
    return 3 * EXPAND * case.channels**2


def _selection_weights(case: Case) -> int:
    """x_proj and the projection to Δ of one direction."""
    return EXPAND * case.channels * (2 * _rank(case) + 2 * case.states)


def _rank(case: Case) -> int:
    return math.ceil(case.channels / 16)


def _own_weights(case: Case) -> int:
    """All of one direction: selection, convolution with bias, A, D, bias of Δ."""
    return _selection_weights(case) + EXPAND * case.channels * (case.taps + 1 + case.states + 2)


def _both(forward: Cost, backward: Cost) -> Costs:
    return Costs(forward, Cost(*(one + other for one, other in zip(forward, backward, strict=True))))


def measure_peaks(device: str, dtype: torch.dtype) -> Peaks:
    """A large copy, read and written; exponentials; a square product in `dtype`, of float32 on a GPU also as TF32×3."""
    return Peaks(_bytes_a_second(device), _exponentials_a_second(device), _products_a_second(device, dtype))


def _bytes_a_second(device: str) -> float:
    source = torch.zeros(2**28 if device == "cuda" else 2**25, device=device)  # 1 GiB or 128 MiB
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / timing.shortest_ms(lambda: target.copy_(source), device) * 1e3


def _products_a_second(device: str, dtype: torch.dtype) -> float:
    side = 8192 if device == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=dtype)

    def products_a_second() -> float:
        return 2 * side**3 / timing.shortest_ms(lambda: matrix @ matrix, device) * 1e3

    found = products_a_second()
    if device == "cuda" and dtype == torch.float32:
        # Three products of TF32 terms are one of float32, to about its accuracy.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            found = max(found, products_a_second() / 3)
        finally:
            torch.set_float32_matmul_precision(before)
    return found


def _exponentials_a_second(device: str) -> float:
    if device == "cuda":
        from triton.runtime import driver

        facts = driver.active.utils.get_device_properties(torch.cuda.current_device())
        return EXPONENTIALS_A_CLOCK * facts["multiprocessor_count"] * facts["sm_clock_rate"] * 1e3  # from kHz
    values = torch.zeros(2**16 * torch.get_num_threads())  # 256 KiB a thread stay in its cache
    result = torch.empty_like(values)
    return values.numel() / timing.shortest_ms(lambda: torch.exp(values, out=result), device) * 1e3
