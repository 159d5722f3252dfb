"""Counts against numbers worked out by hand, and the roofline they give."""

from __future__ import annotations

import pytest
import torch

from ssmbio.backbones import Block
from ssmbio.benchmarking.cases import OPS
from ssmbio.benchmarking.own import mamba
from ssmbio.benchmarking.roofline import Cost, Peaks, least_ms, measure_peaks
from ssmbio.benchmarking.workload import Case
from ssmbio.mixers import S4D, BiMamba, Mamba

HALF, FULL = torch.bfloat16, torch.float32


def costs(op: str, dtype: torch.dtype, batch: int, channels: int, length: int):
    case = Case(op, "cpu", dtype, batch, channels, length, OPS[op].states, OPS[op].taps)
    return OPS[op].costs(case)


def test_scan_by_hand():
    """B2 D5 L3 N16: 30 numbers in each of u, delta, z, y, 96 in each of B and C; A, D and bias are 90 floats."""
    forward, both = costs("selective_scan", HALF, 2, 5, 3)
    assert forward == Cost(bytes=2 * (4 * 30 + 2 * 96) + 4 * 90, exponentials=30 * 16 + 30 * 4)
    # Backward: u, delta, z, dy, B, C and the parameters in; du, ddelta, dz, dB, dC and the parameters' gradients out.
    assert both.bytes == forward.bytes + 2 * (7 * 30 + 4 * 96) + 2 * 4 * 90
    assert both.exponentials == 2 * forward.exponentials


def test_scan_at_a_million_positions():
    """4.3 GB and 10.7 G exponentials: 1.0 ms at 4.28 TB/s, and 2.6 ms at 132 × 16 a clock of 1.98 GHz."""
    forward, _ = costs("selective_scan", HALF, 1, 512, 2**20)
    peaks = Peaks(bytes=4.28e12, exponentials=132 * 16 * 1.98e9, products=7e14)
    assert least_ms(Cost(forward.bytes, 0), peaks)[0] == pytest.approx(1.02, abs=0.01)
    least, bound = least_ms(forward, peaks)
    assert (round(least, 2), bound) == (2.57, "exponentials")


def test_convolution_by_hand():
    """B2 D5 L3 K4 in float32: 30 numbers in each of x, y, dy and dx; weight and bias are 25."""
    forward, both = costs("causal_conv1d", FULL, 2, 5, 3)
    assert forward == Cost(bytes=4 * (2 * 30 + 25), exponentials=2 * 30)
    assert both == Cost(bytes=4 * (5 * 30 + 3 * 25), exponentials=4 * 30)


@pytest.mark.parametrize(("op", "layer"), [("mamba", Mamba), ("bimamba", BiMamba)])
def test_a_layer_reads_every_parameter_once(op, layer):
    """With one position: x in float32, y in the dtype of the products, and all that the layer holds."""
    forward, both = costs(op, HALF, 1, 64, 1)
    held = sum(parameter.numel() for parameter in layer(64).parameters())
    assert forward.bytes == 4 * held + (4 + 2) * 64
    assert both.bytes - forward.bytes == 8 * held + (8 + 2) * 64
    assert both.products == 3 * forward.products


def test_products_of_a_layer_are_those_that_torch_counts():
    case = Case("mamba", "cpu", FULL, 2, 64, 3, 16, 4)
    tensors = OPS["mamba"].tensors(case)
    work = mamba(case, tensors)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work.forward()
    assert counter.get_total_flops() == OPS["mamba"].costs(case).forward.products


def test_time_invariant_scan_by_hand():
    """B2 D5 L3 N32: 30 numbers in each of u, y, dy, du; log_a, b, c of 160 complex numbers each, and 5 of D."""
    forward, both = costs("lti_scan", HALF, 2, 5, 3)
    parameters, state = 3 * 8 * 160 + 4 * 5, 2 * 8 * 160
    # Each number meets 64 taps, 32 complex states on their way in and as many on their way out.
    products = 2 * 30 * (64 + 2 * 32 + 2 * 32)
    assert forward == Cost(2 * 2 * 30 + parameters + state, 0, products)
    assert both == Cost(forward.bytes + 3 * 2 * 30 + 2 * parameters, 0, 3 * products)


def test_time_invariant_scan_at_a_million_positions():
    """A gigabyte, 0.25 ms, and 0.1 TFLOP; three products of TF32 in place of each make those the bound in float32."""
    half, full = (costs("lti_scan", dtype, 1, 256, 2**20).forward for dtype in (HALF, FULL))
    peaks = Peaks(bytes=4.28e12, exponentials=4e12, products=7e14)
    assert half.products == full.products == pytest.approx(1e11, rel=0.05)
    assert least_ms(half, peaks) == (pytest.approx(0.25, abs=0.01), "bytes")
    assert least_ms(full, peaks._replace(products=1.2e14))[1] == "products"


def test_long_convolution_by_hand():
    """B2 D5 L3 in bfloat16: 30 numbers in each of u, y, dy, du; the kernel's 15 and the skip's 5 are float32."""
    forward, both = costs("fft_convolution", HALF, 2, 5, 3)
    assert forward == Cost(2 * 2 * 30 + 4 * 20, 0)
    assert both == Cost(forward.bytes + 3 * 2 * 30 + 2 * 4 * 20, 0)


@pytest.mark.parametrize("op", ["lti_scan", "fft_convolution", "s4d"])
def test_twice_the_rows_are_twice_the_work(op):
    """All but the parameters, which are there once; two rows more are twice what one row more is."""
    one, two, four = (costs(op, FULL, batch, 64, 128) for batch in (1, 2, 4))
    for a, b, c in zip(one, two, four, strict=True):
        for first, second, third in zip(a, b, c, strict=True):
            assert third - second == 2 * (second - first)
    assert two.forward.bytes - one.forward.bytes >= 2 * 4 * 64 * 128


def test_a_block_of_s4d_reads_every_parameter_once_and_makes_the_products_of_its_linear_layer():
    forward, both = costs("s4d", HALF, 1, 64, 1)
    block = Block(S4D(64, d_state=64), 0.0)
    held = sum(parameter.numel() for parameter in block.parameters())
    assert forward.bytes == 4 * held + 8 * 64  # x in and y out, float32
    assert both.bytes - forward.bytes == 8 * held + 12 * 64
    assert forward.products - costs("lti_scan", HALF, 1, 64, 1).forward.products == 2 * block.mixer.mix.weight.numel()
    assert both.products == 3 * forward.products


def test_a_direction_more_is_all_but_the_shared_projections():
    one, two = (costs(op, HALF, 1, 64, 10).forward for op in ("mamba", "bimamba"))
    assert two.exponentials == 2 * one.exponentials
    assert two.products - one.products == 2 * 10 * (128 * (4 + 32) + 4 * 128)


def test_steps_cost_by_their_number_and_have_no_backward_pass():
    one, ten = costs("decode", FULL, 1, 64, 1), costs("decode", FULL, 1, 64, 10)
    assert ten.forward == Cost(*(10 * count for count in one.forward))
    assert one.forward_backward is None
    held = sum(parameter.numel() for parameter in Mamba(64).parameters())
    assert one.forward.bytes == 4 * (held + 2 * 128 * (16 + 3) + 2 * 64)
    half = costs("decode", HALF, 1, 64, 1)
    linear = sum(part.weight.numel() for part in Mamba(64).modules() if isinstance(part, torch.nn.Linear))
    assert one.forward.bytes - half.forward.bytes == 2 * linear


def test_the_slowest_resource_is_the_bound():
    peaks = Peaks(bytes=1e9, exponentials=1e6, products=1e12)
    assert least_ms(Cost(10**9, 10**3, 10**9), peaks) == (1e3, "bytes")
    assert least_ms(Cost(10**3, 10**6, 10**9), peaks) == (1e3, "exponentials")
    assert least_ms(Cost(10**3, 10**3, 10**12), peaks) == (1e3, "products")


@pytest.mark.gpu
def test_products_of_float32_on_a_gpu_may_be_three_of_tf32_and_the_setting_stays():
    before = torch.get_float32_matmul_precision()
    full, half = (measure_peaks("cuda", dtype).products for dtype in (FULL, HALF))
    assert torch.get_float32_matmul_precision() == before
    assert 1e13 < full < half / 4


def test_peaks_of_this_machine_are_possible_ones():
    peaks = measure_peaks("cpu", FULL)
    assert 1e8 < peaks.bytes < 1e13
    assert 1e6 < peaks.exponentials < 1e13
    assert 1e8 < peaks.products < 1e15
