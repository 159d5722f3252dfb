"""What holds between runs of an op, whatever the numbers: pieces, packing, reversing, repetition."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from op_cases import BACKENDS, TRITON, Case, ConvolutionCase, ScanCase, Tensors, check_equal, run, with_gradients
from torch import Tensor

ALONG_POSITIONS = ("u", "delta", "z", "B", "C", "x")
over_backends = pytest.mark.parametrize(("backend", "dtype", "tolerance"), BACKENDS)


def part(tensors: Tensors, positions: slice, **changed: Tensor) -> Tensors:
    cut = {name: value[:, positions] if name in ALONG_POSITIONS else value for name, value in tensors.items()}
    return {**cut, **changed}


@over_backends
@pytest.mark.parametrize(
    "case",
    [
        ScanCase(35, batch=1),
        ScanCase(35, batch=1, reverse=True),
        ConvolutionCase(35),
        ConvolutionCase(35, reverse=True),
    ],
    ids=str,
)
def test_whole_is_pieces_with_the_state_carried(case: Case, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    tensors = replace(case, dtype=dtype).inputs()
    bounds = [slice(*ends) for ends in pairwise((0, 2, 35))]  # pieces shorter than the taps, too
    state, outputs = tensors["initial_state"], []
    for positions in reversed(bounds) if case.reverse else bounds:
        y, state = case.outputs(part(tensors, positions, initial_state=state), backend)
        outputs.append(y)
    y = torch.cat(outputs[::-1] if case.reverse else outputs, dim=1)
    check_equal(with_gradients(y, state, tensors), run(case, tensors, backend), tolerance)


@over_backends
@pytest.mark.parametrize(
    "case",
    [
        ScanCase(35, offsets=(0, 1, 34, 35)),
        ScanCase(35, offsets=(0, 1, 34, 35), reverse=True),
        ConvolutionCase(35, offsets=(0, 1, 34, 35)),
        ConvolutionCase(35, offsets=(0, 1, 34, 35), reverse=True),
    ],
    ids=str,
)
def test_packed_is_each_sequence_alone(case: Case, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    tensors = replace(case, dtype=dtype).inputs()
    alone = {name: value for name, value in tensors.items() if name != "cu_seqlens"}
    outputs, finals = [], []
    for s, ends in enumerate(pairwise(case.offsets)):
        own_state = tensors["initial_state"][s : s + 1]
        y, final = case.outputs(part(alone, slice(*ends), initial_state=own_state), backend)
        outputs.append(y)
        finals.append(final)
    separate = with_gradients(torch.cat(outputs, dim=1), torch.cat(finals), tensors)
    check_equal(run(case, tensors, backend), separate, tolerance)


@over_backends
@pytest.mark.parametrize(
    "case",
    [
        ScanCase(35, batch=1),
        ScanCase(35, offsets=(0, 1, 34, 35)),
        ConvolutionCase(35),
        ConvolutionCase(35, offsets=(0, 1, 34, 35)),
    ],
    ids=str,
)
def test_reverse_is_flip_then_flip_back(case: Case, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    """A packed row flipped as a whole has its sequences, and so their states, in the opposite order."""
    tensors = replace(case, dtype=dtype).inputs()
    flipped = {name: value.flip(1) if name in ALONG_POSITIONS else value for name, value in tensors.items()}
    if case.offsets:
        flipped["cu_seqlens"] = case.length - tensors["cu_seqlens"].flip(0)
        flipped["initial_state"] = tensors["initial_state"].flip(0)
    y, final = case.outputs(flipped, backend)
    by_flips = with_gradients(y.flip(1), final.flip(0) if case.offsets else final, tensors)
    check_equal(run(replace(case, reverse=True), tensors, backend), by_flips, tolerance)


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("reverse", [False, True])
def test_strong_decay_and_large_steps_give_numbers(backend: str, reverse: bool) -> None:
    """Δ up to 100 and A down to -1e4 in bfloat16: every output and gradient is finite."""
    case = ScanCase(40, batch=1, channels=4, states=4, dtype=torch.bfloat16, bare=True, reverse=reverse)
    tensors = case.inputs()
    with torch.no_grad():
        tensors["delta"].copy_(torch.logspace(-3, 2, 160, device=tensors["delta"].device).view(1, 40, 4))
        tensors["A"].copy_(-torch.logspace(-3, 4, 16, device=tensors["A"].device).view(4, 4).t())
    for name, value in run(case, tensors, backend).items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize(
    "case", [ScanCase(40, batch=1), ConvolutionCase(65), ConvolutionCase(65, offsets=(0, 2, 65))], ids=str
)
def test_the_same_inputs_give_the_same_bits(case: Case, backend: str) -> None:
    first, second = (run(case, case.inputs(), backend) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
def test_threads_do_not_change_the_bits_of_a_large_scan() -> None:
    """Large enough that torch runs its calls on several threads."""
    case = ScanCase(2000, channels=64, states=16)
    tensors = case.inputs()
    first, second = (run(case, tensors, "torch") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("backend", ["torch", TRITON])
def test_halves_of_one_projection_are_read_where_they_lie(backend: str) -> None:
    """Inputs with foreign strides, and the gradient of a sum, whose strides are zero, give what copies give."""
    case = ScanCase(10, channels=4)
    tensors = case.inputs()
    together = torch.cat([tensors["u"], tensors["z"], tensors["B"][:, :, 0], tensors["C"][:, :, 0]], dim=-1).detach()
    u, z, B, C = together.split([4, 4, 5, 5], dim=-1)
    views = {**tensors, "u": u.requires_grad_(), "z": z.requires_grad_()}
    views |= {"B": B.unsqueeze(2).requires_grad_(), "C": C.unsqueeze(2).requires_grad_()}
    assert not views["u"].is_contiguous()
    for given in (tensors, views):
        given["dy"] = torch.ones((), device=together.device).expand(2, 10, 4)
    check_equal(run(case, views, backend), run(case, tensors, backend), 1e-6)


SPOILED = ScanCase(160, channels=3, offsets=(0, 50, 90, 160), initial=False)  # chunks shared, and chunks of its own


def with_nan_in_the_middle(name: str) -> Tensors:
    tensors = {key: value.detach() for key, value in SPOILED.inputs().items()}
    tensors[name][0, 70] = torch.nan
    return tensors


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
@pytest.mark.parametrize("name", ["u", "delta"])
def test_nan_stays_in_its_packed_sequence(name: str, backend: str) -> None:
    y, _ = SPOILED.outputs(with_nan_in_the_middle(name), backend)
    assert y[0].isnan().any(-1).nonzero().flatten().tolist() == list(range(70, 90))


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
@pytest.mark.parametrize("name", ["C", "z"])
def test_nan_stays_in_the_gradients_of_its_packed_sequence(name: str, backend: str) -> None:
    """dA and dD are of all positions; du is of one."""
    tensors = with_nan_in_the_middle(name)
    y, _ = SPOILED.outputs({**tensors, "u": tensors["u"].requires_grad_()}, backend)
    (du,) = torch.autograd.grad(y, tensors["u"], tensors["dy"])
    assert du[0].isnan().any(-1).nonzero().flatten().tolist() == list(range(50, 71))


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_stays_in_its_packed_sequence_of_a_convolution(reverse: bool, backend: str) -> None:
    case = ConvolutionCase(14, offsets=(0, 5, 9, 14), reverse=reverse)
    tensors = case.inputs()
    tensors["x"].data[0, 7] = torch.nan
    y, final = case.outputs(tensors, backend)
    dx, d_initial = torch.autograd.grad(
        (y, final), (tensors["x"], tensors["initial_state"]), (tensors["dy"], tensors["d_final"])
    )
    for name, rows in {"y": y[0], "dx": dx[0]}.items():
        spoiled = rows.isnan().any(-1).nonzero().flatten().tolist()
        assert spoiled, name
        assert set(spoiled) <= set(range(5, 9)), name
    for name, states in {"final": final, "d_initial": d_initial}.items():
        assert states.isnan().flatten(1).any(1).tolist() == [False, True, False], name
