"""Fused steps of decoding: they compute what their parts do, and a row's result is its own, whatever the batch."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from decode_step_cases import (
    dense_by_definition,
    dense_case,
    error_share,
    in_float64,
    layer_by_definition,
    layer_case,
    rows_of,
    stage_by_definition,
    stage_case,
)
from op_cases import DEVICE, TRITON
from torch import Tensor

from ssmbio.kernels import lti_scan
from ssmbio.kernels.dense_step import dense_step
from ssmbio.kernels.s4d_layer_step import s4d_layer_step
from ssmbio.kernels.s4d_stage_step import s4d_stage_step

over_backends = pytest.mark.parametrize("backend", ["torch", TRITON])
EPS = torch.finfo(torch.float32).eps
DRAWS = 3

# Inputs, outputs, what is around: a pool's map, both of a feed-forward network, a GLU, a head; odd sizes.
DENSE = [
    {"channels": 64, "outputs": 32},
    {"channels": 24, "outputs": 48, "norm": True, "activation": "gelu"},
    {"channels": 150, "outputs": 37, "residual": True},
    {"channels": 24, "outputs": 24, "activation": "glu", "residual": True},
    {"channels": 7, "outputs": 3, "norm": True, "bias": False},
    {"channels": 260, "outputs": 5, "norm": True, "activation": "glu", "bias": False},
]
# B, D, N; B, D, N, F: several chunks of channels, and sizes that fill none.
LAYER_SIZES = [(3, 64, 32), (1, 24, 5), (2, 70, 3), (1, 5, 40)]
STAGE_SIZES = [(2, 64, 32, 128), (1, 24, 5, 40), (2, 70, 4, 70), (1, 5, 70, 3)]


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_dense_steps_are_exact_to_float32(case: dict) -> None:
    plain, fused = [], []
    for seed in range(DRAWS):
        inputs = dense_case(3, **case, seed=seed)
        exact = dense_by_definition(**in_float64(inputs))
        plain.append(error_share(dense_step(**inputs, backend="torch"), exact))
        fused.append(error_share(dense_step(**inputs, backend="triton"), exact))
    assert sum(plain) / DRAWS < 10 * EPS
    assert sum(fused) / DRAWS <= 2 * sum(plain) / DRAWS + EPS


@pytest.mark.parametrize("sizes", LAYER_SIZES, ids=str)
def test_layer_steps_are_exact_to_float32(sizes: tuple[int, ...]) -> None:
    """Against `lti_scan_step` in float64, in the outputs and in the states they leave."""
    errors: dict[str, list[float]] = {"torch": [0, 0], "triton": [0, 0]}
    for seed in range(DRAWS):
        inputs = layer_case(*sizes, seed=seed)
        exact = layer_by_definition(**in_float64(inputs))
        for backend, sums in errors.items():
            state = inputs["state"].clone()
            g = s4d_layer_step(**(inputs | {"state": state}), backend=backend)
            for i, (found, right) in enumerate(zip((g, state), exact, strict=True)):
                sums[i] += error_share(found, right) / DRAWS
    for plain, fused in zip(errors["torch"], errors["triton"], strict=True):
        assert plain < 10 * EPS
        assert fused <= 2 * plain + EPS


@pytest.mark.parametrize("sizes", STAGE_SIZES, ids=str)
@pytest.mark.parametrize("around", [False, True], ids=["bare", "with extra and input"])
def test_stage_steps_are_exact_to_float32(sizes: tuple[int, ...], around: bool) -> None:
    """Narrow stages in one kernel and wide ones in several, with many pairs and few, give what their blocks do."""
    errors: dict[str, list[float]] = {"torch": [0, 0], "triton": [0, 0]}
    for seed in range(DRAWS):
        x, weights, state, extra = stage_case(*sizes, seed=seed)
        extra = extra if around else None
        exact = stage_by_definition(*in_float64((x, weights, state, extra)), around)
        for backend, sums in errors.items():
            h = state.clone()
            y = s4d_stage_step(x, weights, h, extra, around, backend=backend)
            for i, (found, right) in enumerate(zip((y, h), exact, strict=True)):
                sums[i] += error_share(found, right) / DRAWS
    for plain, fused in zip(errors["torch"], errors["triton"], strict=True):
        assert plain < 10 * EPS
        assert fused <= 2 * plain + EPS


def test_in_float64_a_stage_is_its_blocks() -> None:
    x, weights, state, extra = in_float64(stage_case(2, 24, 5, 40))
    exact_y, exact_state = stage_by_definition(x, weights, state, extra, True)
    y = s4d_stage_step(x, weights, state, extra, True)
    torch.testing.assert_close(y, exact_y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, exact_state, rtol=1e-12, atol=1e-12)


@over_backends
def test_layer_steps_are_the_scan(backend: str) -> None:
    """Position by position, the states that a step leaves being what the next begins with."""
    inputs = layer_case(2, 12, 5)
    length, state = 6, inputs["state"]
    x = torch.randn(2, length, 12, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    u = F.layer_norm(x.double(), (12,), inputs["norm_weight"].double(), inputs["norm_bias"].double())
    log_a, b, c = (tensor.to(torch.complex128) for tensor in (inputs["a"].log(), inputs["b"], inputs["c"]))
    y, final = lti_scan(
        u, log_a, b, c, inputs["D"].double(), state.to(torch.complex128), return_final_state=True, backend="torch"
    )
    found = [s4d_layer_step(**(inputs | {"x": x[:, t], "state": state}), backend=backend) for t in range(length)]
    torch.testing.assert_close(torch.stack(found, 1).double(), F.gelu(y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.to(torch.complex128), final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [dense_case, layer_case, stage_case])
def test_a_rows_result_does_not_depend_on_the_batch(case: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one row a program, with several, and with a part of a program left over."""
    for folder in ("dense_step", "s4d_layer_step", "s4d_stage_step"):
        module = importlib.import_module(f"ssmbio.kernels.{folder}.triton")
        assert module.rows_of(1) == 1 < module.rows_of(256)
        monkeypatch.setattr(module, "rows_of", lambda batch: 1 if batch < 3 else 2 if batch < 6 else 4)
    every, *others = (rows_of(case, batch, "triton") for batch in (7, 5, 2, 1))
    for some in others:
        for found, expected in zip(some, every, strict=True):
            assert torch.equal(found, expected[: len(found)])


def test_a_wide_stage_is_the_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several kernels and one compute the same, and leave the same states."""
    x, weights, state, extra = stage_case(3, 24, 5, 40)
    states = [state.clone(), state.clone()]
    one = s4d_stage_step(x, weights, states[0], extra, True, backend="triton")
    monkeypatch.setattr(importlib.import_module("ssmbio.kernels.s4d_stage_step.triton"), "WIDEST", 8)
    several = s4d_stage_step(x, weights, states[1], extra, True, backend="triton")
    torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-5)


@over_backends
def test_only_the_state_is_changed(backend: str) -> None:
    x, weights, state, extra = stage_case(2, 24, 5, 40)
    before = [tensor.clone() for tensor in (x, extra, *weights)]
    was = state.clone()
    s4d_stage_step(x, weights, state, extra, True, backend=backend)
    for tensor, copy in zip((x, extra, *weights), before, strict=True):
        assert torch.equal(tensor, copy)
    assert (state != was).all()


@over_backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_stored_in_half_precision_are_only_rounded(backend: str, dtype: torch.dtype) -> None:
    """The sums stay float32: the result is that of the rounded weights in float32."""
    x, weights, state, _ = stage_case(2, 24, 5, 40)
    matrices = ("mix_weight", "widen_weight", "narrow_weight")
    stored = weights._replace(**{name: getattr(weights, name).to(dtype) for name in matrices})
    rounded = weights._replace(**{name: getattr(stored, name).float() for name in matrices})
    found = s4d_stage_step(x, stored, state.clone(), backend=backend)
    torch.testing.assert_close(found, s4d_stage_step(x, rounded, state.clone(), backend="torch"), rtol=1e-5, atol=1e-5)


@over_backends
def test_rows_may_lie_apart_and_results_go_where_they_are_wanted(backend: str) -> None:
    """Slots of a pool: (B, pool, D), of which one is read, added or written."""
    inputs = dense_case(3, 24, 16, norm=True, residual=True)
    slots, added, pool = (torch.full((3, 4, n), torch.nan, device=DEVICE) for n in (24, 16, 16))
    slots[:, 2], added[:, 1] = inputs["x"], inputs["residual"]
    views = inputs | {"x": slots[:, 2], "residual": added[:, 1]}
    expected = dense_step(**inputs, backend=backend)
    assert torch.equal(dense_step(**views, out=pool[:, 3], backend=backend), expected)
    assert torch.equal(pool[:, 3], expected)
    assert pool[:, :3].isnan().all()
    assert torch.equal(dense_step(**views, out=added[:, 1], backend=backend), expected), "in place of the residual"

    x, weights, state, extra = stage_case(3, 24, 5, 40)
    slots[:, 0], other = x, torch.full((3, 2, 24), torch.nan, device=DEVICE)
    other[:, 1] = extra
    expected = s4d_stage_step(x, weights, state.clone(), extra, True, backend=backend)
    assert torch.equal(s4d_stage_step(slots[:, 0], weights, state, other[:, 1], True, backend=backend), expected)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@over_backends
def test_extreme_inputs_give_numbers(backend: str) -> None:
    """Gates far out, a row of one number only, and large rows."""
    inputs = dense_case(3, 24, 24, norm=True, activation="glu")
    inputs["bias"] = torch.tensor([-1e4, -100.0, 100.0, 1e4], device=DEVICE).repeat(12)
    inputs["x"][0], inputs["x"][1] = 3.0, inputs["x"][1] * 1e15
    found = dense_step(**inputs, backend=backend)
    exact = dense_by_definition(**in_float64(inputs))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_autocast_changes_nothing() -> None:
    inputs = dense_case(3, 24, 16, norm=True)
    expected = dense_step(**inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(dense_step(**inputs), expected)


def changed_stage(**changes: Callable[[Tensor], Tensor]) -> tuple:
    x, weights, state, extra = stage_case(2, 24, 5, 40)
    tensors = {"x": x, "state": state, "extra": extra} | weights._asdict()
    tensors |= {name: change(tensors[name]) for name, change in changes.items()}
    weights = weights._replace(**{name: tensors[name] for name in weights._fields})
    return tensors["x"], weights, tensors["state"], tensors["extra"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": lambda t: t[0]}, ValueError, r"x must be \(B, D\)"),
        ({"x": lambda t: t[:, :7]}, ValueError, r"x must be \(B, D\) = \(2, 24\); got \(2, 7\)"),
        ({"x": Tensor.bfloat16}, TypeError, "x must be float32"),
        ({"x": lambda t: t.T.contiguous().T}, ValueError, "x must have contiguous rows"),
        ({"extra": lambda t: t[:1]}, ValueError, r"extra must be .* got \(1, 24\)"),
        ({"a": lambda t: t.real}, TypeError, "a must be torch.complex64"),
        ({"c": lambda t: t[:1]}, ValueError, "c must be"),
        ({"state": lambda t: t.to(torch.complex128)}, TypeError, "state must be torch.complex64"),
        ({"state": lambda t: t[:, :1]}, ValueError, r"state must be \(K, B, D, N\) = \(2, 2, 24, 5\)"),
        ({"state": lambda t: t.mT.contiguous().mT}, ValueError, "state must be contiguous"),
        ({"mix_weight": lambda t: t[:, 1:]}, ValueError, r"mix_weight must be .* = \(2, 48, 24\)"),
        ({"narrow_weight": lambda t: t.mT.contiguous().mT}, ValueError, "narrow_weight must be contiguous"),
        ({"widen_bias": Tensor.double}, TypeError, "widen_bias must not mix float64"),
    ],
)
def test_a_stages_argument_at_fault_is_named(changes: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        s4d_stage_step(*changed_stage(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x must be \(B, I\)"),
        ({"x": torch.zeros(2, 3)}, ValueError, r"weight must be \(O, I\) = \(8, 3\); got \(8, 6\)"),
        ({"activation": "relu"}, ValueError, "activation must be None"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must be \(O,\) = \(8,\)"),
        ({"activation": "glu", "weight": torch.zeros(7, 6), "bias": None}, ValueError, r"weight must be \(2O, I\)"),
        ({"norm_weight": torch.zeros(6)}, ValueError, "both or neither"),
        ({"residual": torch.zeros(2, 4)}, ValueError, r"residual must be \(B, O\) = \(2, 8\)"),
        ({"out": torch.zeros(8, 2).T}, ValueError, "out must have contiguous rows"),
        ({"weight": torch.zeros(8, 6, dtype=torch.int8)}, TypeError, "weight must be float32"),
    ],
)
def test_a_dense_steps_argument_at_fault_is_named(changes: dict, error: type, message: str) -> None:
    right = {"x": torch.zeros(2, 6), "weight": torch.zeros(8, 6), "bias": torch.zeros(8)}
    with pytest.raises(error, match=message):
        dense_step(**(right | changes))


def test_a_layers_argument_at_fault_is_named() -> None:
    inputs = layer_case(2, 12, 5)
    for name, value, error in (
        ("D", inputs["D"][1:], ValueError),
        ("b", inputs["b"].real, TypeError),
        ("state", inputs["state"].expand(2, 12, 5)[:1], ValueError),
        ("norm_bias", inputs["norm_bias"].int(), TypeError),
    ):
        with pytest.raises(error, match=f"{name} must be"):
            s4d_layer_step(**(inputs | {name: value}))


def test_float64_does_not_run_in_triton() -> None:
    with pytest.raises(RuntimeError, match="float64"):
        s4d_stage_step(*in_float64(stage_case(1, 24, 5, 40)), backend="triton")
