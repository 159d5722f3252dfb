"""Between (B, L, D), channels side by side, and tiles (row block, D, turn, ROWS, steps), positions side by side.

Bytes: each element read once and written once. A program moves GROUP rows of one turn for BLOCK channels: it reads
pieces of BLOCK channels and writes pieces of GROUP * STEPS positions, through shared memory in between. Elements of 16
bits travel in pairs of neighbouring positions, joined in registers, so that shared memory sees words.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import ROWS, Places, Plan

GROUP = 4  # rows a program moves
WARPS = 8
BLOCK = {2: 64, 4: 32}  # channels, by the bytes of an element


def tile_dtype(dtype: torch.dtype) -> torch.dtype:
    """float16 is staged as float32, for a power of a need not fit it."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def stage(x: Tensor, plan: Plan, places: Places, reverse: bool, steps: int) -> Tensor:
    """Tiles of x (B, L, D), in the order of the scan, zeros where a row has no position."""
    shape = (plan.row_blocks, plan.channels, plan.segment // steps, ROWS, steps)
    tiles = torch.empty(shape, dtype=tile_dtype(x.dtype), device=x.device)
    _move(x, tiles, plan, places, reverse, steps, into_tiles=True)
    return tiles


def unstage(tiles: Tensor, like: Tensor, plan: Plan, places: Places, reverse: bool, steps: int) -> Tensor:
    """(B, L, D) in the dtype of `like` from tiles."""
    x = torch.empty_like(like, memory_format=torch.contiguous_format)
    _move(x, tiles, plan, places, reverse, steps, into_tiles=False)
    return x


def _move(x: Tensor, tiles: Tensor, plan: Plan, places: Places, reverse: bool, steps: int, into_tiles: bool) -> None:
    group = ROWS if tiles.device.type == "cpu" else GROUP  # the interpreter is quick where programs are few
    block = BLOCK[tiles.element_size()]
    turns = plan.segment // steps
    grid = (triton.cdiv(plan.channels, block) * turns * (plan.row_blocks * ROWS // group),)
    lti_scan_stage_kernel[grid](
        x, tiles, places.offsets, places.first_rows, places.sequence_of_row,
        plan.length, plan.channels, plan.sequences, plan.rows_of_each, plan.segment, turns, x.stride(0), x.stride(1),
        PACKED=plan.packed, REVERSE=reverse, INTO_TILES=into_tiles, PAIRS=tiles.element_size() == 2,
        ROWS=ROWS, STEPS=steps, GROUP=group, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def positions_of_rows(
    row, q, offsets, first_rows, sequence_of_row, length, sequences, rows_of_each, segment, stride_b, stride_l,
    PACKED: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Offset in (B, L, D) of position q of a row, and whether there is one. A sequence's last row is the full one."""
    if PACKED:
        sequence = tl.load(sequence_of_row + row)
        there = sequence < sequences
        start = tl.load(offsets + sequence, mask=there, other=0).to(tl.int64)
        size = tl.load(offsets + sequence + 1, mask=there, other=0).to(tl.int64) - start
        rows_after = tl.load(first_rows + sequence + 1, mask=there, other=0) - row
        base = start * stride_l
    else:
        sequence = row // rows_of_each
        there = sequence < sequences
        size = tl.cast(length, tl.int64)
        rows_after = (sequence + 1) * rows_of_each - row
        base = tl.cast(sequence, tl.int64) * stride_b
    s = size - tl.cast(rows_after, tl.int64) * segment + q
    t = size - 1 - s if REVERSE else s
    return base + t * stride_l, there & (s >= 0)


@triton.jit
def lti_scan_stage_kernel(
    x, tiles, offsets, first_rows, sequence_of_row,
    length, channels, sequences, rows_of_each, segment, turns, stride_b, stride_l,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, INTO_TILES: tl.constexpr, PAIRS: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Programs of the same positions lie side by side, for they read the same rows of x.
    blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    channel = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    turn = (pid // blocks) % turns
    first = (pid // blocks // turns) * GROUP
    EACH: tl.constexpr = 2 if PAIRS else 1
    p = tl.arange(0, GROUP * STEPS // EACH)[:, None] * EACH
    there = (channel < channels)[None, :]
    row = first + p // STEPS
    q = turn * STEPS + p % STEPS
    where, known = positions_of_rows(row, q, offsets, first_rows, sequence_of_row, length, sequences, rows_of_each,
                                     segment, stride_b, stride_l, PACKED, REVERSE)  # fmt: skip
    source = x + where + channel[None, :]
    known = known & there
    # The next position of a pair has its own mask: a sequence may begin between them.
    where, known_next = positions_of_rows(row, q + EACH - 1, offsets, first_rows, sequence_of_row, length, sequences,
                                          rows_of_each, segment, stride_b, stride_l, PACKED, REVERSE)  # fmt: skip
    source_next = x + where + channel[None, :]
    known_next = known_next & there

    tile = ((first // ROWS).to(tl.int64) * channels + channel) * turns + turn
    place = tiles + tile[:, None] * (ROWS * STEPS) + (first % ROWS) * STEPS + tl.arange(0, GROUP * STEPS)[None, :]
    inside = (channel < channels)[:, None]
    if INTO_TILES:
        values = tl.load(source, mask=known, other=0.0).to(tiles.dtype.element_ty)
        if PAIRS:
            after = tl.load(source_next, mask=known_next, other=0.0).to(tiles.dtype.element_ty)
            pair = tl.permute(tl.join(values, after), [1, 0, 2])
            tl.store(place, tl.reshape(pair, [BLOCK, GROUP * STEPS]), mask=inside)
        else:
            tl.store(place, tl.trans(values), mask=inside)
    else:
        values = tl.load(place, mask=inside, other=0.0)
        if PAIRS:
            values, after = tl.split(tl.reshape(values, [BLOCK, GROUP * STEPS // 2, 2]))
            tl.store(source_next, tl.trans(after).to(x.dtype.element_ty), mask=known_next)
        tl.store(source, tl.trans(values).to(x.dtype.element_ty), mask=known)
