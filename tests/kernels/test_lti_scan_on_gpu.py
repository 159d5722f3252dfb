"""The Triton kernels of `lti_scan` at the sizes they are for: `pytest -m gpu` on a machine with a CUDA GPU.

Channels are independent, so a full-size run is compared with the torch path in float64 on a few of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ssmbio.kernels.lti_scan import lti_scan

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Case:
    length: int
    batch: int = 1
    channels: int = 256
    pairs: int = 32
    dtype: torch.dtype = torch.bfloat16
    states: bool = True
    offsets: tuple[int, ...] | None = None
    reverse: bool = False

    def inputs(self, seed: int = 0) -> dict[str, Tensor]:
        """S4D-Lin: slow and fast modes, of the step sizes the layers start from."""
        random = torch.Generator("cuda").manual_seed(seed)

        def normal(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, device="cuda", dtype=dtype).normal_(generator=random)

        system = (self.channels, self.pairs)
        step = torch.logspace(-3, -1, self.channels, device="cuda")[:, None]
        angle = torch.pi * torch.arange(self.pairs, device="cuda")
        log_a = torch.complex(-0.5 * step.expand(system), step * angle)
        sequences = self.batch if self.offsets is None else len(self.offsets) - 1
        tensors = {
            "u": normal(self.batch, self.length, self.channels, dtype=self.dtype),
            "log_a": log_a,
            "b": step * normal(*system, dtype=torch.complex64),
            "c": normal(*system, dtype=torch.complex64),
            "D": normal(self.channels, dtype=torch.float32),
        }
        if self.states:
            tensors["initial_state"] = normal(sequences, *system, dtype=torch.complex64)
        tensors["dy"] = normal(self.batch, self.length, self.channels, dtype=self.dtype)
        tensors["d_final"] = normal(sequences, *system, dtype=torch.complex64)
        return tensors

    def run(self, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
        inputs = {k: v.detach().requires_grad_() for k, v in tensors.items() if k not in ("dy", "d_final")}
        offsets = None if self.offsets is None else torch.tensor(self.offsets, dtype=torch.int32, device="cuda")
        y, final = lti_scan(
            **inputs, cu_seqlens=offsets, reverse=self.reverse, return_final_state=True, backend=backend
        )
        outputs, grads = ([y, final], [tensors["dy"], tensors["d_final"]]) if self.states else ([y], [tensors["dy"]])
        found = torch.autograd.grad(outputs, list(inputs.values()), grads)
        return {"y": y.detach(), "final": final.detach()} | dict(zip(inputs, found, strict=True))


AXIS = {"u": 2, "y": 2, "dy": 2, "final": 1, "initial_state": 1, "d_final": 1, "log_a": 0, "b": 0, "c": 0, "D": 0}


def of_channels(tensors: dict[str, Tensor], channels: Tensor) -> dict[str, Tensor]:
    return {name: value.index_select(AXIS[name], channels) for name, value in tensors.items()}


def worst_errors(case: Case, channels: tuple[int, ...]) -> dict[str, float]:
    """‖found - exact‖ / ‖exact‖ over some channels; of D no less than / ‖dy u‖, for its sums may cancel."""
    chosen = torch.tensor(channels, device="cuda")
    tensors = case.inputs()
    found = of_channels(case.run(tensors, "triton"), chosen)
    few = {
        name: value.to(torch.complex128 if value.is_complex() else torch.float64)
        for name, value in of_channels(tensors, chosen).items()
    }
    exact = case.run(few, "torch")
    sizes = {name: value.norm() for name, value in exact.items()}
    sizes["D"] = torch.maximum(sizes["D"], (few["u"] * few["dy"]).norm())
    return {name: ((found[name].to(exact[name].dtype) - exact[name]).norm() / sizes[name]).item() for name in exact}


PACKED = (0, 1, 5, 300, 20000, 32767, 2**15)
FULL_SIZE = (
    Case(2**18, states=False),
    Case(2**18 - 37),
    Case(16384, batch=8, reverse=True),
    Case(2**15, offsets=PACKED),
    Case(128, batch=512, channels=64, pairs=16),
    Case(2**15, channels=100, pairs=100),
)


def bounds(dtype: torch.dtype, name: str) -> float:
    """What `lti_scan` states; of the sums in bfloat16, with the systems that layers start from, 2e-5 of the 5e-5.

    Of y and du it is what rounding to their dtype costs, twice where a state adds to them.
    """
    if name in ("y", "u") and dtype != torch.float32:
        return 4e-3 if dtype == torch.bfloat16 else 5e-4
    return 2e-5 if dtype == torch.bfloat16 else 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", FULL_SIZE, ids=str)
def test_full_size_is_the_torch_path_in_float64(case: Case, dtype: torch.dtype) -> None:
    case = Case(**{**case.__dict__, "dtype": dtype})
    for name, error in worst_errors(case, (0, 1, case.channels // 2, case.channels - 1)).items():
        assert error < bounds(dtype, name), (name, error)


@pytest.mark.parametrize("case", [FULL_SIZE[1], FULL_SIZE[3]], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_full_size_repeats_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    case = Case(**{**case.__dict__, "dtype": dtype})
    first, second = (case.run(case.inputs(), "triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_past_two_to_the_31_elements(dtype: torch.dtype) -> None:
    case = Case(2**22 + 1000, channels=512, pairs=16, dtype=dtype)
    for name, error in worst_errors(case, (0, 511)).items():
        assert error < bounds(dtype, name), (name, error)


def test_memory_of_a_million_steps() -> None:
    """B1 D256 L2^20 N32 in bfloat16, forward and backward: at most 3 GiB beside what was there before."""
    case = Case(2**20, states=False)
    tensors = case.inputs()
    del tensors["d_final"]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    case.run(tensors, "triton")
    assert torch.cuda.max_memory_allocated() - before < 3 * 2**30
