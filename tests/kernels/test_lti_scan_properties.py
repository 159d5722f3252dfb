"""What holds between runs of the time-invariant scan, whatever the numbers: pieces, packing, reversing, steps."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from op_cases import DEVICE, LtiCase, Tensors, check_equal, run, with_gradients
from torch import Tensor

from ssmbio.kernels import lti_scan, lti_scan_step

# Backends with the dtype they run in and what equal means there.
TORCH = pytest.param("torch", torch.float64, 1e-12, id="torch")
FFT = pytest.param("fft", torch.float64, 1e-12, id="fft")
in_pieces = pytest.mark.parametrize(("backend", "dtype", "tolerance"), [TORCH, FFT])
packed_too = pytest.mark.parametrize(("backend", "dtype", "tolerance"), [TORCH])


def part(tensors: Tensors, positions: slice, **changed: Tensor) -> Tensors:
    return {**tensors, "u": tensors["u"][:, positions], **changed}


@in_pieces
@pytest.mark.parametrize("reverse", [False, True])
def test_whole_is_pieces_with_the_state_carried(
    reverse: bool, backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = LtiCase(135, reverse=reverse, dtype=dtype)
    tensors = case.inputs()
    bounds = [slice(*ends) for ends in pairwise((0, 2, 66, 135))]
    state, outputs = tensors["initial_state"], []
    for positions in reversed(bounds) if reverse else bounds:
        y, state = case.outputs(part(tensors, positions, initial_state=state), backend)
        outputs.append(y)
    y = torch.cat(outputs[::-1] if reverse else outputs, dim=1)
    check_equal(with_gradients(y, state, tensors), run(case, tensors, backend), tolerance)


@packed_too
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("offsets", [(0, 1, 34, 35), (0, 70, 71, 240), tuple(range(0, 41, 2))], ids=len)
def test_packed_is_each_sequence_alone(
    offsets: tuple[int, ...], reverse: bool, backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = LtiCase(offsets[-1], offsets=offsets, reverse=reverse, dtype=dtype)
    tensors = case.inputs()
    alone = {name: value for name, value in tensors.items() if name != "cu_seqlens"}
    outputs, finals = [], []
    for s, ends in enumerate(pairwise(offsets)):
        own_state = tensors["initial_state"][s : s + 1]
        y, final = case.outputs(part(alone, slice(*ends), initial_state=own_state), backend)
        outputs.append(y)
        finals.append(final)
    separate = with_gradients(torch.cat(outputs, dim=1), torch.cat(finals), tensors)
    check_equal(run(case, tensors, backend), separate, tolerance)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_what_is_not_a_number_stays_in_its_sequence(backend: str) -> None:
    case = LtiCase(200, offsets=(0, 60, 61, 130, 200))
    tensors = case.inputs()
    clean, clean_final = case.outputs(tensors, backend)
    with torch.no_grad():
        tensors["u"][:, 60:61] = torch.nan
    y, final = case.outputs(tensors, backend)
    assert y[:, 60].isnan().all()
    for others in (slice(0, 60), slice(61, 200)):
        assert torch.equal(y[:, others], clean[:, others])
    assert torch.equal(final[[0, 2, 3]], clean_final[[0, 2, 3]])


@in_pieces
def test_reverse_is_flip_then_flip_back(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    case = LtiCase(135, dtype=dtype)
    tensors = case.inputs()
    y, final = case.outputs({**tensors, "u": tensors["u"].flip(1)}, backend)
    check_equal(
        run(replace(case, reverse=True), tensors, backend), with_gradients(y.flip(1), final, tensors), tolerance
    )


@packed_too
def test_reverse_turns_each_packed_sequence_in_its_place(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    """A packed row flipped as a whole has its sequences, and so their states, in the opposite order."""
    case = LtiCase(135, offsets=(0, 1, 34, 135), dtype=dtype)
    tensors = case.inputs()
    flipped = {
        **tensors,
        "u": tensors["u"].flip(1),
        "cu_seqlens": case.length - tensors["cu_seqlens"].flip(0),
        "initial_state": tensors["initial_state"].flip(0),
    }
    y, final = case.outputs(flipped, backend)
    by_flips = with_gradients(y.flip(1), final.flip(0), tensors)
    check_equal(run(replace(case, reverse=True), tensors, backend), by_flips, tolerance)


def by_steps(tensors: Tensors) -> tuple[Tensor, Tensor]:
    state, outputs = tensors["initial_state"], []
    system = [tensors[name] for name in ("log_a", "b", "c")]
    for l in range(tensors["u"].shape[1]):
        y, state = lti_scan_step(tensors["u"][:, l], *system, state, tensors.get("D"))
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@in_pieces
@pytest.mark.parametrize("bare", [False, True])
def test_steps_are_the_whole(bare: bool, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    case = LtiCase(70, bare=bare, dtype=dtype)
    tensors = case.inputs()
    given = tensors["initial_state"].detach().clone()
    found = with_gradients(*by_steps(tensors), tensors)
    assert torch.equal(given, tensors["initial_state"]), "a step changed the state it was given"
    check_equal(found, run(case, tensors, backend), tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_steps_and_op_round_the_same_way(dtype: torch.dtype) -> None:
    """Half-precision decoding gives what the whole scan gave, to the rounding of one output; the state is complex64."""
    case = LtiCase(70, dtype=dtype)
    tensors = {name: tensor.detach() for name, tensor in case.inputs().items()}
    (whole, final), (y, state) = case.outputs(tensors, "torch"), by_steps(tensors)
    torch.testing.assert_close(y, whole, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert state.dtype == torch.complex64
    torch.testing.assert_close(state, final, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "fft"])
def test_the_same_inputs_give_the_same_bits(backend: str) -> None:
    case = LtiCase(700)
    first, second = (run(case, case.inputs(), backend) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("backend", ["torch", "fft"])
def test_many_channels_are_worked_on_in_blocks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmbio.kernels.fft_convolution import transforms
    from ssmbio.kernels.lti_scan import torch_chunked

    case = LtiCase(70, channels=50)
    whole = run(case, case.inputs(), backend)
    for module in (transforms, torch_chunked):
        monkeypatch.setattr(module, "_BLOCK", 5000)
    check_equal(run(case, case.inputs(), backend), whole, 1e-6)


@pytest.mark.parametrize("backend", ["torch", "fft"])
def test_foreign_strides_and_conjugate_views_are_taken(backend: str) -> None:
    """Halves of one projection, conjugates that torch has not yet computed, and the gradient of a sum."""
    case = LtiCase(10, channels=4)
    tensors = case.inputs()
    views = dict(tensors)
    together = torch.cat([tensors["u"], tensors["u"]], dim=-1).detach()
    views["u"] = together[..., 4:].requires_grad_()
    for name in ("log_a", "b", "c", "initial_state"):
        views[name] = tensors[name].detach().conj().resolve_conj().conj().requires_grad_()
        assert views[name].is_conj()
    views["c"] = tensors["c"].detach().t().contiguous().t().requires_grad_()
    for given in (tensors, views):
        given["dy"] = torch.ones((), device=DEVICE).expand(2, 10, 4)
    check_equal(run(case, views, backend), run(case, tensors, backend), 1e-6)


def test_a_real_scan_is_that_of_a_pair_of_halves() -> None:
    """With Im log_a = 0 the factor 2 stays: y = 2 Σ c h."""
    u = torch.randn(1, 50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones(1, 1, dtype=torch.complex128)
    y = lti_scan(u, 0 * ones, ones, ones)
    torch.testing.assert_close(y, 2 * u.cumsum(1))
