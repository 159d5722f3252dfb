"""The short convolution against its float64 reference, and the reference against another implementation."""

import pytest
import torch
import torch.nn.functional as F
from op_cases import TRITON, ConvolutionCase, check_against_reference

CASES = (
    *(ConvolutionCase(length, reverse=length % 2 == 0) for length in (1, 2, 3, 63, 64, 65, 127, 1000)),
    ConvolutionCase(1, taps=8, reverse=True),
    ConvolutionCase(5, taps=8, initial=False),
    ConvolutionCase(65, taps=2, bias=False, reverse=True),
    ConvolutionCase(65, activation=None, initial=False),
    ConvolutionCase(65, channels=130),
    ConvolutionCase(65, offsets=(0, 1, 2, 4, 40, 65)),
    ConvolutionCase(65, offsets=(0, 1, 2, 4, 40, 65), taps=7, reverse=True),
    ConvolutionCase(65, offsets=(0, 30, 65), initial=False, bias=False),
    ConvolutionCase(20, offsets=tuple(range(21))),
    ConvolutionCase(65, dtype=torch.bfloat16),
    ConvolutionCase(65, dtype=torch.float16, offsets=(0, 1, 40, 65), reverse=True),
)
INTERPRETED = (
    ConvolutionCase(1, taps=8),
    ConvolutionCase(2, reverse=True, activation=None),
    ConvolutionCase(65, taps=2, initial=False, bias=False),
    ConvolutionCase(130, batch=1, channels=3, taps=3, reverse=True),
    ConvolutionCase(65, offsets=(0, 1, 2, 4, 40, 65)),
    ConvolutionCase(65, offsets=(0, 1, 2, 4, 40, 65), taps=7, reverse=True, dtype=torch.bfloat16),
    ConvolutionCase(33, dtype=torch.float16),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_path_is_as_exact_as_the_reference(case: ConvolutionCase) -> None:
    check_against_reference(case, "torch", draws=2 if case.length > 200 else 4)


@pytest.mark.parametrize("backend", [TRITON])
@pytest.mark.parametrize("case", INTERPRETED, ids=str)
def test_triton_kernels_are_as_exact_as_the_reference(case: ConvolutionCase, backend: str) -> None:
    check_against_reference(case, backend)


@pytest.mark.parametrize("offsets", [None, (0, 1, 5)])
def test_reference_gradients_are_those_of_finite_differences(offsets: tuple[int, ...] | None) -> None:
    case = ConvolutionCase(5, channels=2, taps=3, offsets=offsets, reverse=True, dtype=torch.float64)
    tensors = case.inputs(device="cpu")
    names = [name for name, tensor in tensors.items() if tensor.requires_grad]

    def outputs(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return case.outputs({**tensors, **dict(zip(names, leaves, strict=True))}, "reference")

    assert torch.autograd.gradcheck(outputs, [tensors[name] for name in names])


def test_reference_is_the_depthwise_convolution_of_torch() -> None:
    case = ConvolutionCase(30, dtype=torch.float64)
    tensors = case.inputs(device="cpu")
    y, final_state = case.outputs(tensors, "reference")
    row = torch.cat([tensors["initial_state"], tensors["x"]], dim=1)
    expected = F.conv1d(row.mT, tensors["weight"].unsqueeze(1), tensors["bias"], groups=case.channels)
    torch.testing.assert_close(y, F.silu(expected).mT)
    torch.testing.assert_close(final_state, row[:, -3:])
