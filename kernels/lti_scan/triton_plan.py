"""How the work of the time-invariant scan is laid out for its Triton kernels.

Rows. Every sequence is cut into rows of `segment` positions, in the order of the scan. A program owns ROWS = 64 rows of
one channel and walks over all of them at once, `steps` positions a turn: the tile (ROWS, steps) of u is the left side
of every product, the matrices of the channel are the right sides and stay in shared memory, and the states of the rows
are carried in registers, (ROWS, pairs), so nothing is exchanged between the rows within a kernel. What enters each row
comes from a walk over the rows, which has only L / segment turns (`triton_carry.py`).

Layout. That needs positions of one channel side by side, where u has channels side by side: `triton_staging.py` moves
u into tiles (row block, channel, turn, ROWS, steps), each contiguous, in the order of the scan whatever the direction,
and the results back. Packed sequences begin with a row of their own, so no product ever crosses a boundary, and the
kernels between know neither directions nor packing nor ragged lengths.

Ends. A sequence ends where its last row ends; its first row begins with zeros where the length is ragged. Zero inputs
leave a zero state zero, so final states and their gradients are exact as they come. What an initial state, which enters
behind those zeros, does in the first row is left to `triton_heads.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

ROWS = 64  # rows of a tile; the fewest that the tensor cores of Hopper take
UNIT = 64  # segments are multiples of it, and it is of the steps of a turn
WANTED_PROGRAMS = 1024  # enough for several programs on each multiprocessor


@dataclass(frozen=True)
class Plan:
    """Sizes that the kernels of one call share; all follow from shapes."""

    batch: int
    length: int
    channels: int
    pairs: int
    sequences: int
    segment: int  # positions of a row

    @property
    def packed(self) -> bool:
        """Whether sequences share a row of u; one sequence alone needs no offsets."""
        return self.sequences != self.batch

    @property
    def rows_of_each(self) -> int:
        """Rows of each sequence where all are alike."""
        return triton.cdiv(self.length, self.segment)

    @property
    def rows(self) -> int:
        """Rows in use, with packed sequences the most that there may be."""
        return self.length // self.segment + self.sequences if self.packed else self.batch * self.rows_of_each

    @property
    def row_blocks(self) -> int:
        return triton.cdiv(self.rows, ROWS)

    @property
    def full(self) -> bool:
        """Whether every row of every tile belongs to a sequence."""
        return not self.packed and self.rows % ROWS == 0

    @property
    def width(self) -> int:
        """Pairs that a program holds."""
        return 16 if self.pairs <= 16 else 32

    @property
    def blocks(self) -> int:
        return triton.cdiv(self.pairs, self.width)

    def steps(self, dtype: torch.dtype) -> int:
        """Positions of a turn: tiles of 32 float32 and their matrices in two terms are as large as 64 of bfloat16."""
        return 64 if dtype == torch.bfloat16 else 32

    def state_shape(self) -> tuple[int, ...]:
        """States at one end of every row, real and imaginary parts apart."""
        return (self.row_blocks, self.channels, self.blocks, 2, ROWS, self.width)


def make_plan(batch: int, length: int, channels: int, pairs: int, sequences: int) -> Plan:
    """Rows short enough that about WANTED_PROGRAMS programs run; packed ones no longer than the mean sequence."""
    total = batch * length
    segment = _whole_units(triton.cdiv(total, ROWS * triton.cdiv(WANTED_PROGRAMS, channels)))
    if sequences != batch:
        segment = min(segment, _whole_units(triton.cdiv(total, sequences)))
    else:
        segment = _whole_units(triton.cdiv(length, triton.cdiv(length, segment)))
    return Plan(batch, length, channels, pairs, sequences, segment)


def _whole_units(positions: int) -> int:
    return triton.cdiv(positions, UNIT) * UNIT


def checkpoints_shape(batch: int, length: int, channels: int, pairs: int, sequences: int) -> tuple[int, ...]:
    """Shape of the complex tensor that the forward pass leaves: the state at the start of every row, for b = 1."""
    plan = make_plan(batch, length, channels, pairs, sequences)
    return (plan.row_blocks, channels, plan.blocks, ROWS, plan.width)


@dataclass(frozen=True)
class Places:
    """Where sequences and rows lie, for the kernels; the tensors are None where arithmetic tells."""

    offsets: Tensor | None  # (S + 1,), of the sequences in u
    first_rows: Tensor | None  # (S + 1,), the first row of each sequence, and at last the number of rows
    sequence_of_row: Tensor | None  # (rows of all tiles,), S for a row without a sequence


def find_places(cu_seqlens: Tensor | None, plan: Plan) -> Places:
    if cu_seqlens is None or not plan.packed:
        return Places(None, None, None)
    counts = (cu_seqlens.diff() + plan.segment - 1) // plan.segment
    first_rows = torch.zeros_like(cu_seqlens)
    torch.cumsum(counts, 0, dtype=torch.int32, out=first_rows[1:])
    rows = torch.arange(plan.row_blocks * ROWS, dtype=torch.int32, device=cu_seqlens.device)
    sequence_of_row = torch.searchsorted(first_rows[1:], rows, right=True, out_int32=True)
    return Places(cu_seqlens, first_rows, sequence_of_row)


def first_row_lengths(cu_seqlens: Tensor | None, plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """(S,) positions of each sequence, and those of its first row, 1 to `segment`; int64."""
    if cu_seqlens is None or not plan.packed:
        lengths = torch.full((plan.sequences,), plan.length, dtype=torch.int64, device=device)
    else:
        lengths = cu_seqlens.diff().long()
    return lengths, (lengths - 1) % plan.segment + 1
