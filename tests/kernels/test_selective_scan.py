"""The selective scan against its float64 reference, in outputs and every gradient."""

from dataclasses import replace

import pytest
import torch
from op_cases import TRITON, ScanCase, check_against_reference, check_equal, run

# Each length meets every option somewhere; the chunks of the torch path are at most 16 long.
LENGTHS = (
    ScanCase(1),
    ScanCase(1, bare=True, initial=False, reverse=True),
    ScanCase(2, groups=2, reverse=True),
    ScanCase(3, initial=False, states=1),
    ScanCase(63, groups=6, reverse=True),
    ScanCase(64, bare=True),
    ScanCase(65, initial=False, reverse=True),
    ScanCase(127, groups=2, states=16),
    ScanCase(127, bare=True, reverse=True),
    ScanCase(1000, batch=1, reverse=True),
    ScanCase(1000, batch=3, initial=False, groups=3),
)
WIDTHS = (
    ScanCase(70, channels=3, states=64),
    ScanCase(70, channels=1, states=3, reverse=True),
    ScanCase(70, channels=130, states=16, groups=2),
    ScanCase(70, channels=5, states=1, groups=5),
    ScanCase(33, batch=20, channels=40, states=16),
)
PACKED = (
    ScanCase(65, offsets=(0, 1, 2, 3, 40, 41, 65), groups=2),
    ScanCase(65, offsets=(0, 1, 2, 3, 40, 41, 65), reverse=True),
    ScanCase(65, offsets=(0, 32, 64, 65), initial=False, reverse=True),
    ScanCase(20, offsets=tuple(range(21)), initial=False),
    ScanCase(300, offsets=(0, 16, 17, 200, 300), bare=True),
)
SLOW = (
    ScanCase(1000, batch=1, slow=True),
    ScanCase(1000, batch=1, slow=True, bare=True, reverse=True),
    ScanCase(1000, slow=True, offsets=(0, 3, 990, 1000)),
)
SELECTIVE = (
    ScanCase(130, selective=True),
    ScanCase(70, batch=1, selective=True, bare=True, reverse=True),
    ScanCase(130, channels=24, selective=True, offsets=(0, 3, 100, 130), dtype=torch.bfloat16),
)
HALVES = (
    ScanCase(65, dtype=torch.bfloat16, groups=2),
    ScanCase(65, dtype=torch.float16, reverse=True),
    ScanCase(65, dtype=torch.bfloat16, offsets=(0, 1, 30, 65), reverse=True),
)
# The interpreter takes seconds where a GPU takes microseconds: few cases, each with many options.
INTERPRETED = (
    ScanCase(1, batch=1, initial=False),
    ScanCase(3, batch=1, reverse=True, groups=2, states=1),
    ScanCase(3, states=40, groups=2, offsets=(0, 1, 3), dtype=torch.bfloat16),
    ScanCase(33, batch=1, states=16, reverse=True),
    ScanCase(130, batch=1, states=3, slow=True),
    ScanCase(65, batch=1, bare=True, initial=False, reverse=True, dtype=torch.bfloat16),
    ScanCase(65, offsets=(0, 1, 2, 40, 65)),
    ScanCase(34, offsets=(0, 1, 33, 34), groups=2, reverse=True, dtype=torch.float16),
    ScanCase(34, batch=1, states=32, groups=2, reverse=True),
    ScanCase(33, states=20, offsets=(0, 2, 33), dtype=torch.bfloat16),
    ScanCase(34, channels=2, states=33),
)


@pytest.mark.parametrize("case", LENGTHS + WIDTHS + PACKED + SLOW + SELECTIVE + HALVES, ids=str)
def test_torch_path_is_as_exact_as_the_reference(case: ScanCase) -> None:
    check_against_reference(case, "torch", draws=2 if case.length > 200 else 4)


@pytest.mark.parametrize("case", LENGTHS + WIDTHS + PACKED + SLOW + SELECTIVE, ids=str)
def test_torch_path_in_float64_is_the_reference(case: ScanCase) -> None:
    case = replace(case, dtype=torch.float64)
    tensors = case.inputs()
    check_equal(run(case, tensors, "torch"), run(case, tensors, "reference"), 1e-11)


@pytest.mark.parametrize("backend", [TRITON])
@pytest.mark.parametrize("case", INTERPRETED + SELECTIVE, ids=str)
def test_triton_kernels_are_as_exact_as_the_reference(case: ScanCase, backend: str) -> None:
    draws = {"draws": 1} if case.states >= 32 and case.length > 3 else {}  # half a minute a draw
    check_against_reference(case, backend, **draws)


@pytest.mark.parametrize(
    "case",
    [
        ScanCase(4, batch=1, channels=4, states=2, groups=2, dtype=torch.float64),
        ScanCase(5, channels=2, states=2, offsets=(0, 1, 5), reverse=True, dtype=torch.float64),
    ],
    ids=str,
)
def test_reference_gradients_are_those_of_finite_differences(case: ScanCase) -> None:
    tensors = case.inputs(device="cpu")
    names = [name for name, tensor in tensors.items() if tensor.requires_grad]

    def outputs(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return case.outputs({**tensors, **dict(zip(names, leaves, strict=True))}, "reference")

    assert torch.autograd.gradcheck(outputs, [tensors[name] for name in names])
