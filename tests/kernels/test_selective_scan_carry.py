"""What enters each chunk of the scan: the walk over chunks, in one piece and in segments, against a loop in float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

from op_cases import DEVICE

from ssmbio.kernels.launches import launches
from ssmbio.kernels.selective_scan.triton_carry import FEW, SEGMENTS, carry_over_chunks
from ssmbio.kernels.selective_scan.triton_plan import UNIT, Plan

CHANNELS, BATCH = 6, 2


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("chunks", "states"),
    [(1, 16), (17, 5), (FEW, 16), (FEW + 1, 20), (40 * SEGMENTS, 16), (40 * SEGMENTS + 3, 5), (70 * SEGMENTS, 16)],
)
def test_states_that_enter_chunks_are_those_of_a_loop(chunks: int, states: int, exact: bool, backwards: bool) -> None:
    random = torch.Generator().manual_seed(0)
    plan = Plan(BATCH, chunks * UNIT, CHANNELS, states, 1, chunks=chunks, lanes=32, kd=2, warps=1)
    A = -torch.exp(torch.randn(CHANNELS, states, generator=random))
    local = torch.randn(plan.state_shape(chunks), generator=random)
    sums = torch.rand(BATCH, chunks, CHANNELS, generator=random)
    sums[1, chunks // 2] = torch.inf  # a boundary of packed sequences: nothing passes
    entering = torch.randn(BATCH, CHANNELS, states, generator=random)

    expected, h = [torch.empty(0)] * chunks, entering.double()
    for c in reversed(range(chunks)) if backwards else range(chunks):
        expected[c] = h
        decay = torch.exp(A.double() * sums[:, c, :, None].double())
        h = decay * h + by_channel(local, states)[:, c]
    given = [x.to(DEVICE) for x in (A, local, sums, entering)]
    with launches() as launch:
        carry_over_chunks(launch, *given, plan, exact, backwards)
    error = by_channel(given[1].cpu(), states) - torch.stack(expected, 1)
    assert (error.norm() / torch.stack(expected, 1).norm()).item() < 2e-7


def by_channel(local: torch.Tensor, states: int) -> torch.Tensor:
    """From the kernels' layout to (B, chunks, D, N), float64."""
    return local.double().permute(0, 1, 3, 2, 4).flatten(3)[..., :states]


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_passes_a_boundary_of_packed_sequences(exact: bool) -> None:
    """One sequence that is NaN from its second chunk on, and one that begins in the fifth."""
    plan = Plan(1, 8 * UNIT, CHANNELS, 16, 1, chunks=8, lanes=32, kd=2, warps=1)
    A, states, sums = -torch.ones(CHANNELS, 16), torch.zeros(plan.state_shape(8)), torch.ones(1, 8, CHANNELS)
    states[:, 1], sums[:, 4] = torch.nan, torch.inf
    states = states.to(DEVICE)
    with launches() as launch:
        carry_over_chunks(launch, A.to(DEVICE), states, sums.to(DEVICE), None, plan, exact, backwards=False)
    assert by_channel(states.cpu(), 16).isnan().flatten(2).all(2)[0].tolist() == [False] * 2 + [True] * 3 + [False] * 3
    assert not states[:, 5:].any()
