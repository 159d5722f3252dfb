"""How the torch path cuts its work, and the short loops that run over a piece of it.

A **chunk** is a stretch of `steps` positions. A **segment** is a few chunks in a row, for a few rows of the batch; its
tensors are (rows, chunks, steps, W). A **block** is a segment for some channels, (rows, chunks, steps, N, channels),
small enough for the L2 cache; one step of all its chunks is updated by one call, so no loop runs over the positions of
the sequence. Positions keep their places when the scan is reversed: only the order of steps, chunks and segments turns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on two cores. torch runs a call on several threads from 32769 elements on, and gives each an equal stretch of
# memory: with chunks outermost a thread meets the same chunks in every call, and finds them in its own cache.
MAX_STEPS = 16  # the longest chunk; the state at the start of each is kept for the backward pass
LANES = 65536  # states that one step of a block updates
CHUNKS = 32  # the fewest chunks side by side, where there are so many, before rows of the batch are
SHARE = 7  # a block is at most a seventh of all states: its buffers together stay below half of one (B, L, D, N) tensor


def chunk_count(length: int) -> int:
    return -(-length // MAX_STEPS)


@dataclass(frozen=True)
class Segment:
    """Chunks `first` to `first + chunks` of some rows of a (B, L, W) tensor."""

    rows: slice
    first: int
    chunks: int
    steps: int
    length: int

    @property
    def span(self) -> slice:
        return slice(self.first, self.first + self.chunks)

    @property
    def positions(self) -> slice:
        return slice(self.first * self.steps, min((self.first + self.chunks) * self.steps, self.length))

    @property
    def padding(self) -> int:
        """Steps past the end of the row; all lie in the last chunk."""
        return max(0, (self.first + self.chunks) * self.steps - self.length)

    def load(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L, W) to (rows, chunks, steps, W), zero past the end of the row; a view where nothing has to change."""
        piece = tensor[self.rows, self.positions].to(dtype)
        if self.padding:
            piece = F.pad(piece, (0, 0, 0, self.padding))
        return piece.unflatten(1, (self.chunks, self.steps))

    def store(self, values: Tensor, tensor: Tensor) -> None:
        """(rows, chunks, steps, W) to these rows and positions of (B, L, W)."""
        piece = tensor[self.rows, self.positions]
        piece.copy_(values.flatten(1, 2)[:, : piece.shape[1]])

    def clear_padding(self, values: Tensor) -> None:
        if self.padding:
            values[:, -1, self.steps - self.padding :] = 0


class Plan:
    """The cut of one call, from its shapes alone."""

    def __init__(self, shape: torch.Size, groups: int, states: int, reverse: bool) -> None:
        self.batch, self.length, channels = shape
        self.reverse = reverse
        self.chunks = chunk_count(self.length)
        self.steps = -(-self.length // self.chunks)
        self.groups, self._group_width = groups, channels // groups
        lanes = min(LANES, self.batch * self.chunks * channels * states // SHARE)
        self.width = _even(self._group_width, max(16, lanes // (CHUNKS * states)))
        lanes //= self.width * states
        self.rows = _even(self.batch, max(1, lanes // min(self.chunks, CHUNKS)))
        self.segment_chunks = _even(self.chunks, max(1, lanes // self.rows))

    def row_blocks(self) -> Iterator[slice]:
        for first in range(0, self.batch, self.rows):
            yield slice(first, min(first + self.rows, self.batch))

    def segments(self, rows: slice) -> list[Segment]:
        """The segments of these rows, in the order of the scan."""
        segments = [
            Segment(rows, first, min(self.segment_chunks, self.chunks - first), self.steps, self.length)
            for first in range(0, self.chunks, self.segment_chunks)
        ]
        return segments[::-1] if self.reverse else segments

    def channel_blocks(self, group: int) -> Iterator[slice]:
        end = (group + 1) * self._group_width
        for first in range(group * self._group_width, end, self.width):
            yield slice(first, min(first + self.width, end))


def _even(total: int, limit: int) -> int:
    """The size of equal pieces of `total`, none above `limit`."""
    pieces = -(-total // limit)
    return -(-total // pieces)


class Block(NamedTuple):
    """A buffer of a block: whole, as a batch of matrices, and step by step in the order of the scan."""

    whole: Tensor  # (rows, chunks, steps, N, channels)
    matrices: Tensor  # (rows · chunks · steps, N, channels)
    steps: tuple[Tensor, ...]  # each (rows, chunks, N, channels)
    followers: Tensor  # `whole` without the first step of each chunk
    leaders: Tensor  # `whole` without the last step of each chunk


class Workspace:
    """Memory for a few block buffers, made once a call and viewed in the shape of each block."""

    def __init__(self, plan: Plan, states: int, buffers: int, like: Tensor) -> None:
        self._states, self._reverse = states, plan.reverse
        size = plan.rows * plan.segment_chunks * plan.steps * states * plan.width
        self._memory = [like.new_empty(size) for _ in range(buffers)]
        self._shaped: dict[tuple[int, ...], list[Block]] = {}

    def blocks(self, dt: Tensor) -> list[Block]:
        """The buffers for a block whose step sizes are `dt` (rows, chunks, steps, channels)."""
        shape = (*dt.shape[:3], self._states, dt.shape[3])
        if shape not in self._shaped:
            self._shaped[shape] = [self._block(memory, shape) for memory in self._memory]
        return self._shaped[shape]

    def _block(self, memory: Tensor, shape: tuple[int, ...]) -> Block:
        whole = memory[: torch.Size(shape).numel()].view(shape)
        steps, late, early = whole.unbind(2), whole[:, :, 1:], whole[:, :, :-1]
        if self._reverse:
            steps, late, early = steps[::-1], early, late
        return Block(whole, whole.flatten(0, 2), steps, followers=late, leaders=early)


class Marks(NamedTuple):
    """Positions of a segment at which packed sequences begin or end, and which sequences they are."""

    chunk: Tensor
    step: Tensor
    sequences: slice

    def of(self, block: Block) -> Tensor:
        """The entries of a block at these positions, (marks, N, channels)."""
        return block.whole[0, self.chunk, self.step]

    def cuts(self, steps: int, reverse: bool) -> Cuts:
        """These positions as beginnings; in a chunk steps are counted in the order of the scan."""
        order = steps - 1 - self.step if reverse else self.step
        return Cuts({int(step): self.chunk[order == step] for step in order.unique()}, set(self.chunk.tolist()))

    def put(self, block: Block, values: Tensor | float) -> None:
        block.whole[0, self.chunk, self.step] = values

    def add(self, block: Block, values: Tensor) -> None:
        block.whole[0, self.chunk, self.step] += values


class Packing:
    """Where the scan enters and leaves the sequences of a packed row."""

    def __init__(self, cu_seqlens: Tensor, reverse: bool) -> None:
        offsets = cu_seqlens.tolist()
        firsts, lasts = offsets[:-1], [offset - 1 for offset in offsets[1:]]
        self._begins, self._ends = (lasts, firsts) if reverse else (firsts, lasts)
        self._device = cu_seqlens.device

    def marks(self, segment: Segment) -> tuple[Marks | None, Marks | None]:
        """The beginnings and the ends in a segment, None where it has none."""
        return self._marks(self._begins, segment), self._marks(self._ends, segment)

    def _marks(self, places: list[int], segment: Segment) -> Marks | None:
        start, stop = segment.positions.start, segment.positions.stop
        found = slice(bisect_left(places, start), bisect_left(places, stop))
        if found.start == found.stop:
            return None
        inside = torch.tensor(places[found], device=self._device) - start
        return Marks(inside // segment.steps, inside % segment.steps, found)


class Cuts(NamedTuple):
    """Where packed sequences begin in a segment: nothing crosses, not even NaN, which a decay of 0 would let pass."""

    by_step: dict[int, Tensor]  # the chunks in which a sequence begins at this step of the scan
    chunks: set[int]  # in which one begins

    def at(self, step: int, state: Tensor) -> Tensor:
        """What comes to a step from the one before it."""
        return state.index_fill(1, self.by_step[step], 0) if step in self.by_step else state


NO_CUTS = Cuts({}, set())


def zero_state_ends(decay: Block, drive: Block, cuts: Cuts) -> Tensor:
    """The state at the end of each chunk that starts from zero, (rows, chunks, N, channels)."""
    h = drive.steps[0].clone()
    for step, (a, x) in enumerate(zip(decay.steps[1:], drive.steps[1:], strict=True), 1):
        torch.addcmul(x, a, cuts.at(step, h), out=h)
    return h


def zero_state_adjoints(decay: Block, drive: Block, cuts: Cuts) -> Tensor:
    """What each chunk passes to the one before it when nothing comes from the one after."""
    g = drive.steps[-1].clone()
    for step in range(len(drive.steps) - 1, 0, -1):
        torch.addcmul(drive.steps[step - 1], decay.steps[step], cuts.at(step, g), out=g)
    return cuts.at(0, g) * decay.steps[0]


def walk_chunks(local: Tensor, through: Tensor, carry: Tensor, descending: bool, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """From what enters the first chunk: what enters each (rows, chunks, N, channels), and what leaves the last."""
    order = slice(None, None, -1) if descending else slice(None)
    path = torch.stack([carry, *local.unbind(1)[order]], dim=1)
    places = path.unbind(1)
    for k, (before, after, decay) in enumerate(zip(places[:-1], places[1:], through.unbind(1)[order], strict=True)):
        if (through.shape[1] - 1 - k if descending else k) not in cuts.chunks:
            after.addcmul_(decay, before)
    enter = path[:, :-1]
    return enter.flip(1) if descending else enter, places[-1]


def rescan(decay: Block, h: Block, enter: Tensor, cuts: Cuts) -> None:
    """h_t = a_t h_{t-1} + x_t in the place of x, from the states that enter the chunks."""
    for step, (a, x) in enumerate(zip(decay.steps, h.steps, strict=True)):
        enter = x.addcmul_(a, cuts.at(step, enter))


def rescan_adjoint(decay: Block, g: Block, enter: Tensor, cuts: Cuts) -> None:
    """g_t = x_t + a_{t+1} g_{t+1} in the place of x; `enter` is a_{t+1} g_{t+1} for the last step of each chunk."""
    following = g.steps[-1].add_(enter)
    for step in range(len(g.steps) - 1, 0, -1):
        following = g.steps[step - 1].addcmul_(decay.steps[step], cuts.at(step, following))


def log_decay_gradient(decay: Block, g: Block, h: Block, enter: Tensor) -> None:
    """The gradient of Δ A, g_t a_t h_{t-1}, in the place of the decays a_t; `enter` is h before the first steps."""
    decay.whole.mul_(g.whole)
    decay.followers.mul_(h.leaders)
    decay.steps[0].mul_(enter)


def over_states(M: Tensor, block: Block) -> Tensor:
    """Σ_n M_n block_n: (rows, chunks, steps, N) with a block to (rows, chunks, steps, channels)."""
    return torch.bmm(M.flatten(0, 2).unsqueeze(1), block.matrices).view(*M.shape[:3], -1)


def over_channels(values: Tensor, block: Block, into: Tensor) -> None:
    """into_n += Σ_d values_d block_{n,d}; as a row times a transpose, three times faster than with a column."""
    rows = into.view(-1, 1, into.shape[3])
    rows.baddbmm_(values.flatten(0, 2).unsqueeze(1), block.matrices.transpose(1, 2))
