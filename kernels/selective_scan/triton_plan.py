"""How the work of the selective scan is laid out for its Triton kernels.

Layout. A program owns `BLOCK = KD * LANES` channels of one group and walks over time. The state of its channels is a
tile (LANES, KD, 4, NV) with n = 4 * nv + j: the lanes of a warp are channels, everything else lies in a thread's
registers, so the sums over states (C · h) need no exchange between threads. Rows of u, delta, z are loaded as
(LANES, KD), B_t and C_t as broadcasts of float32 rows staged in the order of the scan.

Order. "Position" s counts in the order of the scan; it is memory position s, or L - 1 - s with `reverse`. A packed row
reversed as a whole is each of its sequences reversed, so packing needs only the marks of first and last positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

UNIT = 32  # positions between two checkpoints of the state
STEPS = 4  # positions that one pass of the inner loop unrolls; `sum_over_channels` counts on 4


@dataclass(frozen=True)
class Plan:
    """Sizes that the kernels of one call share; all follow from shapes."""

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    chunk: int  # positions that one program walks over, a multiple of UNIT
    lanes: int
    kd: int  # channels a thread holds
    warps: int

    @property
    def padded_states(self) -> int:
        return max(16, triton.next_power_of_2(self.states))

    @property
    def padded_length(self) -> int:
        return triton.cdiv(self.length, UNIT) * UNIT

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.length, self.chunk)

    @property
    def blocks_per_group(self) -> int:
        return triton.cdiv(self.channels // self.groups, self.lanes * self.kd)

    @property
    def programs(self) -> int:
        return self.blocks_per_group * self.groups * self.chunks * self.batch

    @property
    def ragged_channels(self) -> bool:
        return (self.channels // self.groups) % (self.lanes * self.kd) != 0

    def state_shape(self, rows: int) -> tuple[int, ...]:
        """States of `rows` positions in the kernels' own layout."""
        return (self.batch, rows, self.padded_states // 4, self.channels, 4)


def checkpoints_shape(batch: int, length: int, d: int, n: int, sequences: int) -> tuple[int, ...]:
    """Shape of the float32 tensor of states that the forward pass leaves for the backward pass: one every UNIT."""
    return (batch, triton.cdiv(length, UNIT), max(16, triton.next_power_of_2(n)) // 4, d, 4)


def make_plan(
    batch: int, length: int, channels: int, states: int, groups: int, *, kd: int, warps: int, wanted_warps: int
) -> Plan:
    """Chunks short enough that about `wanted_warps` warps run, or one chunk where batch and channels fill the GPU.

    A thread has 16 states of each of its channels; more states spread over lanes, with fewer channels a program.
    """
    lanes = max(16, 32 * warps * 16 // max(16, triton.next_power_of_2(states)))
    whole = triton.cdiv(length, UNIT) * UNIT
    plan = Plan(batch, length, channels, states, groups, whole, lanes, kd, warps)
    splits = wanted_warps // (plan.programs * warps)
    return plan if splits < 2 else replace(plan, chunk=triton.cdiv(triton.cdiv(length, splits), UNIT) * UNIT)


def plan_rows(batch: int, length: int, channels: int, states: int, groups: int, *, wanted_warps: int) -> Plan:
    """The plan of the kernels without sums over channels: one warp, two channels a thread, unless N is large."""
    kd, warps = (2, 1) if states <= 32 else (1, 4)
    return make_plan(batch, length, channels, states, groups, kd=kd, warps=warps, wanted_warps=wanted_warps)


def sequence_marks(
    cu_seqlens: Tensor | None, length: int, padded: int, reverse: bool
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """First and last positions, in the order of the scan, of the sequences: number + 1 there, 0 elsewhere."""
    if cu_seqlens is None:
        return None, None
    number = torch.arange(1, cu_seqlens.shape[0], dtype=torch.int32, device=cu_seqlens.device)
    first, last = cu_seqlens[:-1].long(), cu_seqlens[1:].long() - 1
    if reverse:
        first, last = length - 1 - last, length - 1 - first
    marks = torch.zeros(2, padded, dtype=torch.int32, device=cu_seqlens.device)
    marks[0].scatter_(0, first, number)
    marks[1].scatter_(0, last, number)
    return marks[0], marks[1]
