"""The Triton kernels of `lti_scan` against the sequential reference in float64; without a GPU, in the interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels import dispatch
from ssmbio.kernels.lti_scan import lti_scan, triton_lags, triton_plan, triton_products
from ssmbio.kernels.lti_scan.triton_plan import checkpoints_shape, find_places, make_plan
from ssmbio.kernels.lti_scan.triton_staging import stage, unstage

pytestmark = pytest.mark.skipif(not dispatch.triton_installed(), reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    length: int
    batch: int = 1
    channels: int = 2
    pairs: int = 3
    dtype: torch.dtype = torch.float32
    skip: bool = True
    initial: bool = True
    final: bool = True  # whether the loss depends on the final state
    offsets: tuple[int, ...] | None = None
    reverse: bool = False
    slow: bool = False  # decay over a thousand positions, so that a lost carry shows

    @property
    def sequences(self) -> int:
        return self.batch if self.offsets is None else len(self.offsets) - 1

    def inputs(self, seed: int = 0) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int, dtype: torch.dtype = torch.complex64) -> Tensor:
            return torch.randn(shape, generator=random, dtype=dtype)

        system = (self.channels, self.pairs)
        state = (self.sequences, *system)
        scale = 1e-2 if self.slow else 1.0
        rate = (1e-4 + torch.rand(system, generator=random) / 10) * scale
        tensors = {
            "u": normal(self.batch, self.length, self.channels, dtype=torch.float32).to(self.dtype),
            "log_a": torch.complex(-rate, 3 * scale * normal(*system, dtype=torch.float32)),
            "b": normal(*system),
            "c": normal(*system),
        }
        if self.skip:
            tensors["D"] = normal(self.channels, dtype=torch.float32)
        if self.initial:
            tensors["initial_state"] = normal(*state)
        tensors["dy"] = normal(self.batch, self.length, self.channels, dtype=torch.float32).to(self.dtype)
        tensors["d_final"] = normal(*state)
        return {name: value.to(DEVICE) for name, value in tensors.items()}

    def run(self, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
        """Outputs, and the gradient of every input."""
        inputs = {k: v.detach().requires_grad_() for k, v in tensors.items() if k not in ("dy", "d_final")}
        offsets = None if self.offsets is None else torch.tensor(self.offsets, dtype=torch.int32, device=DEVICE)
        y, final = lti_scan(
            **inputs, cu_seqlens=offsets, reverse=self.reverse, return_final_state=True, backend=backend
        )
        outputs, grads = ([y, final], [tensors["dy"], tensors["d_final"]]) if self.final else ([y], [tensors["dy"]])
        found = torch.autograd.grad(outputs, list(inputs.values()), grads)
        return {"y": y.detach(), "final": final.detach()} | dict(zip(inputs, found, strict=True))


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.to(torch.complex128 if v.is_complex() else torch.float64) for k, v in tensors.items()}


def errors(case: Case, seed: int = 0, exact_backend: str = "reference") -> dict[str, float]:
    """‖found - exact‖ / ‖exact‖ of outputs and gradients; of D no less than / ‖dy u‖, for its one sum may cancel."""
    tensors = case.inputs(seed)
    exact = case.run(widened(tensors), exact_backend)
    found = case.run(tensors, "triton")
    assert found.keys() == exact.keys()
    for name, value in found.items():
        assert value.shape == exact[name].shape, name
    sizes = {name: value.norm() for name, value in exact.items()}
    if case.skip:
        sizes["D"] = torch.maximum(sizes["D"], (tensors["u"].double() * tensors["dy"].double()).norm())
    return {name: ((found[name].to(exact[name].dtype) - exact[name]).norm() / sizes[name]).item() for name in found}


LENGTHS = (1, 2, 63, 64, 65, 127)


@pytest.mark.parametrize("length", LENGTHS)
def test_ragged_lengths_with_states(length: int) -> None:
    for name, error in errors(Case(length, batch=2)).items():
        assert error < 2e-6, (name, error)


EXACT = (
    Case(1000, slow=True),
    Case(200, reverse=True),
    Case(130, skip=False, initial=False, final=False),
    Case(130, channels=3, pairs=1, initial=False),
    Case(130, channels=1, pairs=32, final=False),
    Case(70, channels=1, pairs=40),  # more pairs than a program holds
    Case(300, offsets=(0, 1, 5, 68, 132, 300)),
    Case(300, offsets=(0, 63, 64, 128, 193, 300), reverse=True, slow=True),
    Case(64 * 70, channels=1, pairs=2, slow=True, initial=False),  # rows of two tiles
)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_float32_is_exact_to_tf32x3(case: Case) -> None:
    """`lti_scan` states 5e-6 of tensor cores at any length; here sums are float32's own, and 2e-6 has to hold."""
    for name, error in errors(case).items():
        assert error < 2e-6, (name, error)


def test_rows_of_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs are wanted, so that a row has more positions than one turn takes."""
    monkeypatch.setattr(triton_plan, "WANTED_PROGRAMS", 1)
    case = Case(64 * 64 + 1000, channels=1, slow=True)
    assert make_plan(1, case.length, 1, 3, 1).segment == 128
    whole = errors(case)
    assert max(whole.values()) < 2e-6, whole


@triton.jit
def product_cut_off(x, y, total, WIDE: tl.constexpr, EMULATED: tl.constexpr):
    """An accumulator that cuts off as the tensor cores do, to 16 bits, so that what adds up in it shows."""
    total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    return (total.to(tl.int32, bitcast=True) & -256).to(tl.float32, bitcast=True)


@pytest.mark.skipif(DEVICE == "cuda", reason="only the interpreter can run another product in the kernels' place")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_accumulators_that_cut_off_do_not_add_up(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Rows of 512 positions: 1e-4 is a few cuts of 2^-16; added up in the accumulator they come to 4e-4 and more."""
    monkeypatch.setattr(triton_plan, "WANTED_PROGRAMS", 1)
    for module in (triton_products, triton_lags):
        monkeypatch.setattr(module, "product", product_cut_off)
    case = Case(64 * 512, channels=1, pairs=2, slow=True, dtype=dtype)
    for name, error in errors(case, exact_backend="torch").items():
        assert error < (5e-3 if name in ("y", "u") and dtype == torch.bfloat16 else 1e-4), (name, error)


@pytest.mark.parametrize("offsets", [None, (0, 70, 200)])
def test_bfloat16_parameters_have_gradients_of_two_terms(offsets: tuple[int, ...] | None) -> None:
    """y and du round to bfloat16 (the interpreter cuts off: not the stated 4e-3); all else is below the stated 5e-5."""
    for name, error in errors(Case(200, dtype=torch.bfloat16, initial=offsets is None, offsets=offsets)).items():
        assert error < (5e-3 if name in ("y", "u") else 5e-5), (name, error)


def test_float16_is_computed_in_float32() -> None:
    for name, error in errors(Case(100, dtype=torch.float16, reverse=True)).items():
        assert error < (5e-4 if name in ("y", "u") else 2e-6), (name, error)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_staging_there_and_back(dtype: torch.dtype, reverse: bool) -> None:
    """Channels of two blocks, packed: nothing is lost, tiles hold the order of the scan and zeros before the start."""
    u = torch.randn(1, 203, 70).to(dtype).to(DEVICE)
    offsets = torch.tensor((0, 1, 102, 203), dtype=torch.int32, device=DEVICE)
    plan = make_plan(1, 203, 70, 4, 3)
    places = find_places(offsets, plan)
    tiles = stage(u, plan, places, reverse, 32)
    assert torch.equal(unstage(tiles, u, plan, places, reverse, 32), u)
    assert plan.segment == 64
    rows = tiles[0].permute(2, 1, 3, 0).reshape(triton_plan.ROWS, 64, 70)  # (row, position, channel)
    second = u[0, 1:102].to(tiles.dtype)
    expected = torch.cat([second.new_zeros(128 - 101, 70), second.flip(0) if reverse else second])
    assert torch.equal(rows[1:3].reshape(128, 70), expected)
    assert not rows[5:].any()


def test_bits_repeat() -> None:
    case = Case(150, batch=2, dtype=torch.bfloat16)
    first, second = (case.run(case.inputs(), "triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_inputs_with_strides() -> None:
    """u and dy as a part of a wider tensor and as a broadcast row; the result is that of their copies."""
    case = Case(70, batch=2, initial=False, final=False)
    tensors = case.inputs()
    wide = torch.stack([tensors["u"], tensors["dy"]], dim=2).flatten(2)
    strided = tensors | {"u": wide[..., :2], "dy": tensors["dy"][:1, :1].expand(2, 70, 2)}
    found = case.run(strided, "triton")
    expected = case.run({name: value.contiguous() for name, value in strided.items()}, "triton")
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("lengths", [(1, 1, 1), (64, 128, 1), (200, 3, 65), (500, 500)])
def test_packed_rows_hold_every_position_once(lengths: tuple[int, ...]) -> None:
    """Each sequence has rows of its own, as many as it needs, and the plan has room for all."""
    offsets = torch.tensor((0, *lengths)).cumsum(0).to(torch.int32)
    plan = make_plan(1, sum(lengths), 256, 4, len(lengths))
    places = find_places(offsets, plan)
    assert places.first_rows is not None
    assert places.sequence_of_row is not None
    counts = [-(-length // plan.segment) for length in lengths]
    assert places.first_rows.diff().tolist() == counts
    assert places.first_rows[-1] <= plan.rows <= plan.row_blocks * triton_plan.ROWS
    owners = [s for s, count in enumerate(counts) for _ in range(count)]
    assert places.sequence_of_row[: len(owners)].tolist() == owners
    assert (places.sequence_of_row[len(owners) :] == len(lengths)).all()


def test_checkpoints_are_a_small_part_of_the_input() -> None:
    """At B1 D256 L2^20 N32: complex64 states of rows against 2^28 bfloat16 inputs."""
    shape = checkpoints_shape(1, 2**20, 256, 32, 1)
    assert torch.Size(shape).numel() * 8 < 2**28 * 2 / 16
