"""Gradients of B and C in bfloat16, sums over the channels of several programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

from op_cases import DEVICE, ScanCase, Tensors, run
from torch import Tensor

from ssmbio.kernels.selective_scan import triton_backward
from ssmbio.kernels.selective_scan.triton_backward_kernel import selective_scan_bwd_kernel

CASE = ScanCase(70, batch=1, channels=70, states=5, initial=False, dtype=torch.bfloat16)  # two programs of channels


def gradients(tensors: Tensors) -> tuple[Tensor, Tensor]:
    results = run(CASE, tensors, "triton")
    return results["B"], results["C"]


@pytest.mark.parametrize("exponent", [-60, 60])
def test_gradients_far_from_one_keep_their_digits(exponent: int) -> None:
    """A power of two scales everything exactly, so gradients are the same bits with another exponent."""
    tensors = CASE.inputs()
    tensors["d_final"].zero_()
    scaled = {**tensors, "dy": tensors["dy"] * 2.0**exponent}
    for near, far in zip(gradients(tensors), gradients(scaled), strict=True):
        assert near.any()
        assert torch.equal(near * 2.0**exponent, far)


def test_zero_gradients_are_zero() -> None:
    tensors = CASE.inputs()
    tensors["dy"].zero_()
    tensors["d_final"].zero_()
    for gradient in gradients(tensors):
        assert not gradient.any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of Triton's interpreter, at NaN
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_row_and_nowhere_else(bad: float) -> None:
    """The gradient of C at a position has dy of that position alone."""
    tensors = CASE.inputs()
    tensors["dy"][0, 40, 66] = bad
    rows = gradients(tensors)[1].isfinite().flatten(2).all(-1)[0]
    expected = torch.ones(CASE.length, dtype=torch.bool, device=DEVICE)
    expected[40] = False
    assert torch.equal(rows, expected)


def test_launches_that_share_scratch_memory_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = replace(CASE, batch=2).inputs()
    whole = run(CASE, tensors, "triton")
    monkeypatch.setattr(triton_backward, "ROUNDS", 1)
    monkeypatch.setattr(triton_backward, "held_at_once", lambda device: 3)  # of four programs at least
    monkeypatch.setattr(triton_backward, "selective_scan_bwd_kernel", launches := Counted(selective_scan_bwd_kernel))
    parts = run(CASE, tensors, "triton")
    assert launches.count > 1
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


class Counted:
    """A kernel, with the number of its launches."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.count = kernel, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert grid[0] <= 3
        self.count += 1
        return self.kernel[grid]
