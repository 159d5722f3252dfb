"""The three ways through a U-Net: whole sequences without a state, pieces with the state carried, single positions.

`UNet` says in which order stages and pools follow each other; a walk says what each of them is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmbio.backbones.pooling import Gathered, PackedPooling
from ssmbio.backbones.stage import After

if TYPE_CHECKING:
    from ssmbio.backbones.unet import UNet


@dataclass(frozen=True)
class UNetState:
    """Of a causal U-Net between two positions.

    To `torch.utils._pytree` its leaves are tensors alone, each with the batch as its first axis, and number, order and
    shapes are the same at every phase. The phase belongs to the structure, as a number known beforehand: it decides
    which stages a step runs, so a CUDA graph is one of a phase, or of a whole period from a phase round to itself.

    Attributes:
        phase: positions so far, modulo the period.
        mixers: the mixers' states, by the name of the stage.
        gathered: of each pool on the way down, the inputs of a pool that is filling.
        pending: of each pool on the way up, (B, pool, D), the outputs for the pool that is filling.
    """

    phase: int
    mixers: dict[str, Any]
    gathered: list[Any]
    pending: list[Any]

    def advanced(self, positions: int, period: int) -> UNetState:
        """A copy to fill in, so many positions later; what is not filled in stays."""
        phase = (self.phase + positions) % period
        return UNetState(phase, dict(self.mixers), list(self.gathered), list(self.pending))


def _flatten(state: UNetState) -> tuple[list[Any], int]:
    return [state.mixers, state.gathered, state.pending], state.phase


def _unflatten(children: Any, phase: int) -> UNetState:
    return UNetState(phase, *children)


pytree.register_pytree_node(UNetState, _flatten, _unflatten)


def places(pool: Sequence[int], phase: int) -> list[int]:
    """For each pool, how many positions it has gathered at this phase."""
    gathered = []
    for size in pool:
        gathered.append(phase % size)
        phase //= size
    return gathered


class Walk(Protocol):
    def stage(self, name: str, level: int, x: Tensor, after: After | None = None) -> Tensor:
        """x through a stage."""

    def lower(self, level: int, x: Tensor) -> Tensor | None:
        """x to the next lower rate; None if no pool fills."""

    def raised(self, level: int, low: Tensor | None, length: int) -> Tensor:
        """Back from there, for so many positions."""


class Whole:
    """Whole sequences (B, L, D), or packed ones, of any lengths: a last pool that is not full is filled with zeros."""

    def __init__(self, net: UNet, cu_seqlens: Tensor | None) -> None:
        self._net = net
        self._offsets: list[Tensor | None] = [cu_seqlens]
        self._packed: list[PackedPooling] = []
        if cu_seqlens is not None:
            for pool in net.pool:
                self._packed.append(PackedPooling(cu_seqlens, pool))
                cu_seqlens = self._packed[-1].cu_seqlens
                self._offsets.append(cu_seqlens)
        else:
            self._offsets += [None] * len(net.pool)

    def stage(self, name: str, level: int, x: Tensor, after: After | None = None) -> Tensor:
        return self._net.stage(name)(x, None, self._offsets[level], after)[0]

    def lower(self, level: int, x: Tensor) -> Tensor:
        pool = self._net.down_pool(level)
        if self._packed:
            return pool.whole(self._packed[level].padded(x))
        missing = -x.shape[1] % pool.pool
        return pool.whole(F.pad(x, (0, 0, 0, missing)) if missing else x)

    def raised(self, level: int, low: Tensor | None, length: int) -> Tensor:
        assert low is not None, "whole sequences reach every rate"
        pool = self._net.up_pool(level)
        if self._packed:
            return self._packed[level].late(pool.whole(low))
        return pool(low, length)[0]


class Pieces:
    """(B, L, D), a piece of any length of a sequence; `states` is that before it, and after the walk that after it."""

    def __init__(self, net: UNet, states: UNetState, length: int) -> None:
        self._net = net
        self._q = places(net.pool, states.phase)
        self.states = states.advanced(length, net.period)

    def stage(self, name: str, level: int, x: Tensor, after: After | None = None) -> Tensor:
        x, self.states.mixers[name] = self._net.stage(name)(x, self.states.mixers[name], None, after)
        return x

    def lower(self, level: int, x: Tensor) -> Tensor | None:
        gathered: Gathered | None = self.states.gathered[level]
        low, self.states.gathered[level] = self._net.down_pool(level)(x, gathered, self._q[level])
        return low if low.shape[1] else None

    def raised(self, level: int, low: Tensor | None, length: int) -> Tensor:
        q, pending = self._q[level], self.states.pending[level]
        if low is None:
            return pending[:, q : q + length]
        y, self.states.pending[level] = self._net.up_pool(level)(low, length, pending, q)
        return y


class SingleStep:
    """(B, D), one position; `states` as in `Pieces`."""

    def __init__(self, net: UNet, states: UNetState) -> None:
        self._net = net
        self._q = places(net.pool, states.phase)
        self.states = states.advanced(1, net.period)

    def stage(self, name: str, level: int, x: Tensor, after: After | None = None) -> Tensor:
        x, self.states.mixers[name] = self._net.stage(name).step(x, self.states.mixers[name], after)
        return x

    def lower(self, level: int, x: Tensor) -> Tensor | None:
        pool, q = self._net.down_pool(level), self._q[level]
        low, self.states.gathered[level] = pool.step(x, self.states.gathered[level], q)
        return low

    def raised(self, level: int, low: Tensor | None, length: int) -> Tensor:
        y = self.states.pending[level][:, self._q[level]]
        if low is not None:
            self.states.pending[level] = self._net.up_pool(level).step(low)
        return y
