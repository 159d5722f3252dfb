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
QUARTERS = 4  # parts of a chunk of the backward kernel, in the pass that finds what enters it
ROUNDS = 8  # of programs in one launch of the kernel with sums over channels: each has scratch memory of its own
STEPS = 4  # positions that one pass of the inner loop unrolls; `store_over_channels` counts on 4


@dataclass(frozen=True)
class Plan:
    """Sizes that the kernels of one call share; all follow from shapes."""

    batch: int
    length: int
    channels: int
    states: int  # at most 32, see triton_state_blocks.py
    groups: int
    chunks: int  # that programs walk over
    lanes: int
    kd: int  # channels a thread holds
    warps: int

    @property
    def chunk(self) -> int:
        """Positions of every chunk but the last where all are to be of one length."""
        return triton.cdiv(triton.cdiv(self.length, self.chunks), STEPS) * STEPS

    @property
    def padded_states(self) -> int:
        return padded(self.states)

    @property
    def padded_length(self) -> int:
        return triton.cdiv(self.length, UNIT) * UNIT

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


def padded(states: int) -> int:
    return max(16, triton.next_power_of_2(states))


def lanes_of(states: int, warps: int) -> int:
    """Lanes of a program: a thread has 16 states of each of its channels, 32 states are spread over two threads."""
    return 32 * warps * 16 // padded(states)


def plan_rows(batch: int, length: int, channels: int, states: int, groups: int, device: torch.device) -> Plan:
    """The plan of the kernels without sums over channels: one warp, two channels a thread.

    A multiprocessor holds 16 programs of the one and 12 of the other: about 48 each are whole rounds of both. One chunk
    where batch and channels make more than half as many, which spares a pass.
    """
    plan = Plan(batch, length, channels, states, groups, 1, lanes_of(states, 1), 2, 1)
    splits = 48 * multiprocessors(device) // plan.programs
    if splits < 2:
        return plan
    return replace(plan, chunks=triton.cdiv(length, max(UNIT, replace(plan, chunks=splits).chunk)))


def plan_sums(batch: int, length: int, channels: int, states: int, groups: int, device: torch.device) -> Plan:
    """The plan of the kernel with sums over channels: two warps, one channel a thread, four programs a multiprocessor.

    All of its programs take the same time, so they are as many as the GPU holds at once, or whole rounds of them where
    batch and channels alone make more.
    """
    plan = Plan(batch, length, channels, states, groups, 1, lanes_of(states, 2), 1, 2)
    held = held_at_once(device)
    rounds = triton.cdiv(plan.programs, held)
    if plan.programs > 0.9 * rounds * held:
        return plan
    splits = max(1, held * (1 if 2 * plan.programs < held else 2) // plan.programs)
    return replace(plan, chunks=min(splits, triton.cdiv(length, UNIT)))


def held_at_once(device: torch.device) -> int:
    """Programs of `plan_sums` that run at the same time."""
    return 4 * multiprocessors(device)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


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
