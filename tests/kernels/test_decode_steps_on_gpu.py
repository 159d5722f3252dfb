"""The fused steps of decoding at the sizes they are for: `pytest -m gpu` on a machine with a CUDA GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from decode_step_cases import (
    dense_by_definition,
    dense_case,
    error_share,
    in_float64,
    layer_case,
    rows_of,
    stage_by_definition,
    stage_case,
)
from torch import Tensor

from ssmbio.kernels.dense_step import dense_step
from ssmbio.kernels.s4d_stage_step import s4d_stage_step

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

EPS = torch.finfo(torch.float32).eps
# Channels, pairs and inner channels of the stages of SaShiMi, and of some that fill no tile.
STAGES = [(64, 32, 128), (128, 32, 256), (256, 32, 512), (96, 20, 150), (64, 64, 256)]
# What follows or precedes them: pools down and up, the head, the layers of wide stages. Inputs, outputs.
DENSE = [
    {"channels": 256, "outputs": 128, "activation": None},
    {"channels": 512, "outputs": 256, "activation": None},
    {"channels": 128, "outputs": 256, "activation": None},
    {"channels": 64, "outputs": 256, "norm": True, "activation": None},
    {"channels": 256, "outputs": 512, "norm": True, "activation": "gelu"},
    {"channels": 256, "outputs": 256, "activation": "glu", "residual": True},
    {"channels": 1000, "outputs": 100, "norm": True, "activation": "glu", "bias": False},
]
BATCHES = (256, 133, 132, 65, 64, 32, 9, 8, 3, 2, 1)


@pytest.mark.parametrize("sizes", STAGES, ids=str)
@pytest.mark.parametrize("batch", [1, 256])
def test_stage_steps_are_exact_to_float32(sizes: tuple[int, ...], batch: int) -> None:
    for seed in range(3):
        x, weights, state, extra = stage_case(batch, *sizes, layers=8, seed=seed)
        exact = stage_by_definition(*in_float64((x, weights, state, extra)), True)
        shares = []
        for backend in ("torch", "triton"):
            h = state.clone()
            found = s4d_stage_step(x, weights, h, extra, True, backend=backend), h
            shares.append([error_share(one, right) for one, right in zip(found, exact, strict=True)])
        for plain, fused in zip(*shares, strict=True):
            assert fused <= 2 * plain + EPS


@pytest.mark.parametrize("case", DENSE, ids=str)
@pytest.mark.parametrize("batch", [1, 256])
def test_dense_steps_are_exact_to_float32(case: dict, batch: int) -> None:
    inputs = dense_case(batch, **case)
    exact = dense_by_definition(**in_float64(inputs))
    plain, fused = (error_share(dense_step(**inputs, backend=backend), exact) for backend in ("torch", "triton"))
    assert fused <= 2 * plain + EPS


def check_rows(case: Callable, *sizes: int) -> None:
    every, *others = (rows_of(case, batch, "triton", *sizes) for batch in BATCHES)
    again = rows_of(case, BATCHES[0], "triton", *sizes)
    for some in (again, *others):
        for found, expected in zip(some, every, strict=True):
            assert torch.equal(found, expected[: len(found)]), f"at batch {len(found)}"


@pytest.mark.parametrize("sizes", STAGES, ids=str)
def test_a_rows_result_in_a_stage_does_not_depend_on_the_batch(sizes: tuple[int, ...]) -> None:
    """Bit for bit, so that a clip drawn with a seed is the same clip in any company; and it repeats."""
    check_rows(stage_case, *sizes)


@pytest.mark.parametrize("sizes", [(64, 32), (256, 32), (100, 17)], ids=str)
def test_a_rows_result_in_a_layer_does_not_depend_on_the_batch(sizes: tuple[int, ...]) -> None:
    check_rows(layer_case, *sizes)


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_a_rows_result_in_a_dense_step_does_not_depend_on_the_batch(case: dict) -> None:
    def result(batch: int) -> Tensor:
        return dense_step(**dense_case(batch, **case), backend="triton")

    every = result(BATCHES[0])
    for batch in BATCHES:
        assert torch.equal(result(batch), every[:batch]), f"at batch {batch}"


def test_weights_in_bfloat16_do_not_make_rows_depend_on_the_batch() -> None:
    def result(batch: int) -> Tensor:
        x, weights, state, _ = stage_case(batch, 64, 32, 128)
        matrices = ("mix_weight", "widen_weight", "narrow_weight")
        stored = weights._replace(**{name: getattr(weights, name).bfloat16() for name in matrices})
        y = s4d_stage_step(x, stored, state.clone())
        rounded = weights._replace(**{name: getattr(stored, name).float() for name in matrices})
        torch.testing.assert_close(y, s4d_stage_step(x, rounded, state.clone(), backend="torch"), rtol=1e-5, atol=1e-5)
        return y

    every = result(256)
    for batch in (1, 2, 133):
        assert torch.equal(result(batch), every[:batch])


@pytest.mark.parametrize("sizes", STAGES[:3], ids=str)
def test_in_a_graph_states_go_on_from_replay_to_replay(sizes: tuple[int, ...]) -> None:
    x, weights, state, extra = stage_case(2, *sizes)
    start = state.clone()

    def step() -> Tensor:
        return s4d_stage_step(x, weights, state, extra, True)

    expected = [step().clone() for _ in range(3)]  # which also compiles the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    last = state.clone()
    state.copy_(start)
    for right in expected:
        graph.replay()
        assert torch.equal(y, right)
    assert torch.equal(state, last)


@pytest.mark.parametrize("channels", [128, 256], ids=["one kernel", "several"])
def test_states_past_two_to_the_31_are_reached(channels: int) -> None:
    """States of 17 GiB: the last rows are stepped as they would be by themselves."""
    batch = 2**31 // (channels * 32) + 2
    x, weights, state, _ = stage_case(2, channels, 32, channels, layers=1)
    many = torch.zeros(1, batch, channels, 32, dtype=torch.complex64, device="cuda")
    many[:, -2:] = state
    rows = torch.zeros(batch, channels, device="cuda")
    rows[-2:] = x
    assert torch.equal(s4d_stage_step(rows, weights, many)[-2:], s4d_stage_step(x, weights, state))
    assert torch.equal(many[:, -2:], state)
