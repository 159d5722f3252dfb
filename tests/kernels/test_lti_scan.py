"""The time-invariant scan against its float64 reference, in outputs and every gradient."""

from dataclasses import replace

import pytest
import torch
from op_cases import LtiCase, check_against_reference, check_equal, in_float64, run
from torch import Tensor

from ssmbio.kernels.lti_scan.powers import powers

# Each length meets every option somewhere; the chunks of the torch path are at most 64 long.
WHOLE = (
    LtiCase(1),
    LtiCase(1, bare=True, initial=False, reverse=True),
    LtiCase(2, reverse=True),
    LtiCase(3, initial=False, pairs=1),
    LtiCase(63, reverse=True),
    LtiCase(64, bare=True),
    LtiCase(65, initial=False, reverse=True),
    LtiCase(127, pairs=16),
    LtiCase(127, bare=True, reverse=True),
    LtiCase(1000, batch=1, reverse=True),
    LtiCase(1000, batch=3, initial=False),
    LtiCase(70, channels=3, pairs=64),
    LtiCase(33, batch=20, channels=40, pairs=16),
)
PACKED = (
    LtiCase(65, offsets=(0, 1, 2, 3, 40, 41, 65)),
    LtiCase(65, offsets=(0, 1, 2, 3, 40, 41, 65), reverse=True),
    LtiCase(65, offsets=(0, 32, 64, 65), initial=False, reverse=True),
    LtiCase(20, offsets=tuple(range(21)), initial=False),
    LtiCase(300, offsets=(0, 16, 17, 200, 300), bare=True),
    LtiCase(700, offsets=(0, 640, 641, 700), reverse=True),  # the first is cut into many more chunks than the others
)
SLOW = (
    LtiCase(1000, batch=1, slow=True),
    LtiCase(1000, batch=1, slow=True, bare=True, reverse=True),
    LtiCase(1000, slow=True, offsets=(0, 3, 990, 1000)),
)
HALVES = (
    LtiCase(65, dtype=torch.bfloat16),
    LtiCase(65, dtype=torch.float16, reverse=True),
    LtiCase(65, dtype=torch.bfloat16, offsets=(0, 1, 30, 65), reverse=True),
)
FOR_FFT = (
    LtiCase(1),
    LtiCase(2, initial=False, reverse=True),
    LtiCase(65, pairs=33),
    LtiCase(127, bare=True, initial=False, reverse=True),
    LtiCase(1000, batch=1, slow=True, reverse=True),
    LtiCase(65, dtype=torch.bfloat16),
)


def draws(case: LtiCase) -> int:
    return 2 if case.length > 200 else 4


@pytest.mark.parametrize("case", WHOLE + PACKED + SLOW + HALVES, ids=str)
def test_torch_path_is_as_exact_as_the_reference(case: LtiCase) -> None:
    check_against_reference(case, "torch", draws=draws(case))


@pytest.mark.parametrize("case", FOR_FFT, ids=str)
def test_transforms_are_as_exact_as_the_reference(case: LtiCase) -> None:
    check_against_reference(case, "fft", draws=draws(case))


@pytest.mark.parametrize("case", WHOLE + PACKED + SLOW, ids=str)
def test_torch_path_in_float64_is_the_reference(case: LtiCase) -> None:
    case = replace(case, dtype=torch.float64)
    tensors = case.inputs()
    check_equal(run(case, tensors, "torch"), run(case, tensors, "reference"), 1e-12)


@pytest.mark.parametrize(
    "case",
    [
        LtiCase(16384, batch=1, channels=3, initial=False, slow=True, dtype=torch.float64),
        LtiCase(10_007, channels=17, pairs=3, reverse=True, dtype=torch.float64),
    ],
    ids=str,
)
def test_the_scan_is_the_convolution(case: LtiCase) -> None:
    """Two ways that share no arithmetic, at lengths the sequential reference would take minutes for."""
    tensors = case.inputs()
    check_equal(run(case, tensors, "torch"), run(case, tensors, "fft"), 1e-11)


def test_outputs_are_the_convolution_with_the_kernel() -> None:
    """y_l = Σ_k 2 Re(Σ_n c_n b_n a_n^k) u_{l−k} + D u_l, written out in numbers."""
    tensors = in_float64(LtiCase(70, batch=1, channels=2, initial=False).inputs(device="cpu"))
    u, log_a, b, c, D = (tensors[name].detach() for name in ("u", "log_a", "b", "c", "D"))
    kernel = torch.stack([2 * (c * b * torch.exp(k * log_a)).real.sum(-1) for k in range(70)])
    kernel[0] += D
    expected = torch.stack([(kernel[: l + 1].flip(0) * u[0, : l + 1]).sum(0) for l in range(70)])
    found, _ = LtiCase(70).outputs({**tensors, "u": u}, "torch")
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch", "fft"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_finite_differences(backend: str, reverse: bool) -> None:
    """Those of complex parameters and states too, in torch's convention, ∂/∂Re + i ∂/∂Im."""
    check_gradients(LtiCase(4, channels=2, pairs=2, reverse=reverse, dtype=torch.float64), backend)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_of_packed_sequences_are_those_of_finite_differences(backend: str) -> None:
    check_gradients(LtiCase(5, channels=2, pairs=2, offsets=(0, 1, 5), reverse=True, dtype=torch.float64), backend)


def check_gradients(case: LtiCase, backend: str) -> None:
    tensors = case.inputs(device="cpu")
    names = [name for name, tensor in tensors.items() if tensor.requires_grad]

    def outputs(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return case.outputs({**tensors, **dict(zip(names, leaves, strict=True))}, backend)

    assert torch.autograd.gradcheck(outputs, [tensors[name] for name in names])


def test_powers_keep_their_phase() -> None:
    """A million times a frequency of three: rounded to float32 beforehand, or multiplied there, no digit would hold."""
    log_a = torch.tensor([[-1e-7 + 3.0j, -1e-7 + 0.001j]], dtype=torch.complex64)
    exact = torch.exp(log_a.to(torch.complex128) * (1023 * 1024))
    found = powers(log_a, 1024, stride=1024)
    assert found.dtype == torch.complex64
    torch.testing.assert_close(found[:, 1023].to(torch.complex128), exact, rtol=2e-7, atol=0)
    assert torch.equal(found[:, 0], torch.ones(1, 2, dtype=torch.complex64))


@pytest.mark.parametrize("backend", ["torch", "fft"])
def test_strong_decay_gives_numbers(backend: str) -> None:
    """exp(log_a l) underflows after some positions, or at once; nothing becomes infinite or undefined."""
    case = LtiCase(300, batch=1, channels=4, pairs=4)
    tensors = case.inputs()
    with torch.no_grad():
        decays = -torch.logspace(-3, 4, 16, device=tensors["u"].device).view(4, 4)
        tensors["log_a"].copy_(torch.complex(decays, tensors["log_a"].imag))
    for name, value in run(case, tensors, backend).items():
        assert value.isfinite().all(), name
    exact = in_float64(tensors)
    check_equal(run(case, exact, backend), run(case, exact, "reference"), 1e-12)
