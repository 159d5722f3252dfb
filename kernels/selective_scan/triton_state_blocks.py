"""The scan with many states, as scans over blocks of them.

States meet only in sums over n, and these are linear: y, du, dΔ and dz of all states are the sums over blocks of what
each block gives alone, with the skip D u in one of them. (The gate, its derivative and that of softplus are factors
that do not depend on states.) Blocks add up in float32 and are rounded once. The kernels unroll their loops over
states: for 256 at once they would take minutes to compile; blocks of one size share one compiled kernel.
Up to ALONE are one block, which needs no sums; more are the fastest in blocks of BLOCK.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ssmbio.kernels.launches import Launch, launches
from ssmbio.kernels.selective_scan import triton_backward, triton_forward
from ssmbio.kernels.selective_scan.triton_plan import UNIT, padded

ALONE, BLOCK = 32, 16


def checkpoints_shape(batch: int, length: int, d: int, n: int, sequences: int) -> tuple[int, ...]:
    """Shape of the float32 tensor of states that the forward pass leaves for the backward pass: one every UNIT.

    Along the first dimension, states by fours, lie the blocks, each a piece of memory in the layout of its plan.
    """
    return sum(_quads(n)), batch, triton.cdiv(length, UNIT), d, 4


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, L, D), final state (B or S, D, N), checkpoints: none without `keep`."""
    (batch, length, channels), states = u.shape, A.shape[1]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    checkpoints = A.new_empty(checkpoints_shape(batch, length if keep else 0, channels, states, sequences))
    if states <= ALONE:
        y, final_state = _forward_block(
            *(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse),
            checkpoints if keep else None,
            wide=False,
        )
        return y, final_state, checkpoints
    total, finals = u.new_zeros(u.shape, dtype=torch.float32), []
    for n, kept in zip(_blocks(states), checkpoints.split(_quads(states)), strict=True):
        y, final_state = _forward_block(
            *(u, delta, A[:, n].contiguous(), B[..., n], C[..., n], _skip(D, n), z, delta_bias, delta_softplus),
            *(_part(initial_state, n), cu_seqlens, reverse),
            kept if keep else None,
            wide=True,
        )
        total += y
        finals.append(final_state)
        del y  # before the next block's is made
    return total.to(u.dtype), torch.cat(finals, dim=-1), checkpoints


def backward(
    dy: Tensor,
    d_final_state: Tensor | None,
    checkpoints: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, d_initial_state), None where the input is None."""
    states = A.shape[1]
    if states <= ALONE:
        return _backward_block(
            *(dy, d_final_state, checkpoints, u, delta, A, B, C, D, z, delta_bias, delta_softplus),
            *(initial_state, cu_seqlens, reverse),
            wide=False,
        )
    gradients = _Gradients()
    for n, kept in zip(_blocks(states), checkpoints.split(_quads(states)), strict=True):
        gradients.add(
            *_backward_block(
                *(dy, _part(d_final_state, n), kept, u, delta, A[:, n].contiguous(), B[..., n], C[..., n]),
                *(_skip(D, n), z, delta_bias, delta_softplus, _part(initial_state, n), cu_seqlens, reverse),
                wide=True,
            )
        )
    du, ddelta, dz, ddelta_bias = gradients.sums
    dA, dB, dC, d_initial_state = (_joined(parts) for parts in zip(*gradients.parts, strict=True))
    return (
        _rounded(du, u), _rounded(ddelta, delta), dA, dB, dC, gradients.dD,
        _rounded(dz, z), ddelta_bias, d_initial_state,
    )  # fmt: skip


def _forward_block(*arguments: Any, wide: bool) -> tuple[Tensor, Tensor]:
    """`triton_forward.forward`. Its kernels are compiled beside those of the backward pass, if one may follow."""
    with launches(lambda launch: _expected_backward(launch, arguments, wide)) as launch:
        return triton_forward.forward(launch, *arguments, wide=wide)


def _backward_block(*arguments: Any, wide: bool) -> tuple[Tensor | None, ...]:
    with launches() as launch:
        return triton_backward.backward(launch, *arguments, wide=wide)


def _expected_backward(launch: Launch, arguments: tuple[Any, ...], wide: bool) -> None:
    """The launches of the backward pass that fits a forward pass, where no gradient of the final state is given."""
    *inputs, checkpoints = arguments
    if checkpoints is None:
        return
    with FakeTensorMode() as shapes:
        dy = torch.empty(inputs[0].shape, dtype=inputs[0].dtype, device=inputs[0].device)
        inputs = [shapes.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs]
        triton_backward.backward(launch, dy, None, shapes.from_tensor(checkpoints), *inputs, wide=wide)


def _blocks(states: int) -> list[slice]:
    size = states if states <= ALONE else BLOCK
    return [slice(first, min(first + size, states)) for first in range(0, states, size)]


def _quads(states: int) -> list[int]:
    """Fours of states of each block, padding included."""
    return [padded(n.stop - n.start) // 4 for n in _blocks(states)]


def _part(tensor: Tensor | None, n: slice) -> Tensor | None:
    return None if tensor is None else tensor[..., n].contiguous()


def _skip(D: Tensor | None, n: slice) -> Tensor | None:
    """The skip belongs to the first block; zeros, not None, in the others leave the kernel the same."""
    return D if D is None or n.start == 0 else torch.zeros_like(D)


def _rounded(total: Tensor | None, like: Tensor | None) -> Tensor | None:
    return None if total is None or like is None else total.to(like.dtype)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given, dim=-1) if given else None


class _Gradients:
    """The gradients of the blocks so far: what adds up over states, in place, and what is a piece for each block."""

    def __init__(self) -> None:
        self.sums: tuple[Tensor | None, ...] = ()
        self.parts: list[tuple[Tensor | None, ...]] = []
        self.dD: Tensor | None = None

    def add(self, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, d_initial_state) -> None:
        sums = (du, ddelta, dz, ddelta_bias)
        if not self.parts:
            self.sums, self.dD = sums, dD
        else:
            for total, block in zip(self.sums, sums, strict=True):
                if total is not None:
                    total += block
        self.parts.append((dA, dB, dC, d_initial_state))
