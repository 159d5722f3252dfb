"""One position of a backbone, a U-Net or a stack, by the fused steps; what it carries is overwritten.

What enters a rate does not depend on what comes back to it, and what comes back is late by a pool. So when a pool has
filled, the lower rates have their lane, and time: the next pool's first position for what they make, all of it for
what the rates below them make.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack, UNet
from ssmbio.backbones.unet_walks import UNetState, places
from ssmbio.generation.fused_block import linear_step
from ssmbio.generation.fused_stage import Blocks, StageStep, stage_step
from ssmbio.generation.lanes import Lanes


@dataclass(frozen=True)
class FusedState:
    """To `torch.utils._pytree` its leaves are tensors alone, and the phase belongs to the structure, as in `UNetState`.

    Attributes:
        phase: positions so far, modulo the period.
        stages: the states of the stages, by name.
        rows: of each rate, (B, pool, D), its inputs since its pool last filled; the lowest rate's pool counts as 1.
        pending: of each pool, (B, pool, D), what came up from below for the pool that is filling.
    """

    phase: int
    stages: dict[str, Any]
    rows: list[Tensor]
    pending: list[Tensor]


pytree.register_pytree_node(
    FusedState,
    lambda state: ([state.stages, state.rows, state.pending], state.phase),
    lambda children, phase: FusedState(phase, *children),
)


class FusedNet:
    """A U-Net, or a stack as one without pools.

    Args:
        backbone: in evaluation mode.
        backend: of the kernels.

    Attributes:
        pool: positions that become one, of each rate; 1 for the lowest.
        inexact: what of it sums in an order that may depend on the batch.

    Raises:
        TypeError: a block that is none of ours.
    """

    def __init__(self, backbone: UNet | Stack, backend: str) -> None:
        self._net = backbone
        if isinstance(backbone, Stack):
            self.pool: tuple[int, ...] = (1,)
            blocks: dict[str, list[nn.Module]] = {"centre": list(backbone.blocks)}
            self._both_ways, self._add_input, inputs, down, up = False, False, [], [], []
        else:
            self.pool = (*backbone.pool, 1)
            blocks = {name: list(backbone.stage(name).blocks) for name in backbone.stages}
            self._both_ways, self._add_input = backbone.unet, True
            levels = range(len(backbone.pool))
            inputs = [backbone.down_pool(level).d_model for level in levels]
            down = [backbone.down_pool(level).linear for level in levels]
            up = [backbone.up_pool(level).linear for level in levels]
        self._widths = [*inputs, down[-1].out_features if down else backbone.d_model]
        self._down = [linear_step(linear, backend) for linear in down]
        self._up = [linear_step(linear, backend) for linear in up]
        self._stages: dict[str, StageStep] = {
            # With layers both ways, what happens between blocks keeps a stage from being one call.
            name: Blocks(of, backend) if self._both_ways and name != "centre" else stage_step(of, backend)
            for name, of in blocks.items()
        }
        self.inexact = sorted({part for stage in self._stages.values() for part in stage.inexact})
        self._period = math.prod(self.pool)

    def place(self, state: FusedState) -> Tensor:
        """(B, D), where the next position's input goes; it is part of the buffer ("rows", 0)."""
        return state.rows[0][:, places(self.pool, state.phase)[0]]

    def step(self, state: FusedState, lanes: Lanes) -> tuple[Tensor, FusedState]:
        """y (B, D) of the position whose input is in its place, before the last norm; and the state after it."""
        made: dict[int, Tensor] = {}
        self._from_level(0, places(self.pool, state.phase), state, made, lanes)
        return made[0], replace(state, phase=(state.phase + 1) % self._period)

    def _from_level(
        self, level: int, places: list[int], state: FusedState, made: dict[int, Tensor], lanes: Lanes
    ) -> None:
        """This rate's position, and below it those for which pools have filled; level l has lane l."""
        row, place = state.rows[level], places[level]
        x = row[:, place]
        kept: list[Tensor] = []
        lowest = level == len(self._down)

        def through() -> None:
            if lowest:
                made[level] = self._stages["centre"](x, state.stages["centre"], None, self._add_input)
                return
            name, extra = f"up_{level}", state.pending[level][:, place]
            if self._both_ways:
                stage = cast(Blocks, self._stages[name])
                made[level] = stage.through(extra + kept.pop(), state.stages[name], lambda x: x + kept.pop())
            else:
                made[level] = self._stages[name](x, state.stages[name], extra, True)

        def on_the_way_down() -> None:
            kept.append(x.clone())
            stage = cast(Blocks, self._stages[f"down_{level}"])
            x.copy_(stage.through(kept[0], state.stages[f"down_{level}"], partial(_kept, kept)))

        def down() -> None:
            self._down[level](row.flatten(1), out=state.rows[level + 1][:, places[level + 1]])

        def up() -> None:
            self._up[level](made[level + 1], out=state.pending[level].flatten(1))

        if self._both_ways and not lowest:
            lanes.run(level, on_the_way_down, writes=[("rows", level)])
        lanes.run(level, through, reads=[("rows", level), ("pending", level)])
        if not lowest and place == self.pool[level] - 1:
            lanes.run(level + 1, down, reads=[("rows", level)], writes=[("rows", level + 1)])
            self._from_level(level + 1, places, state, made, lanes)
            lanes.run(level + 1, up, writes=[("pending", level)])

    def own(self, state: Any) -> FusedState:
        """The backbone's state in tensors of its own."""
        if isinstance(self._net, Stack):
            first = pytree.tree_leaves(state)[0]
            return FusedState(0, {"centre": self._stages["centre"].own(state)}, self._rows(len(first)), [])
        stages = {name: stage.own(state.mixers[name]) for name, stage in self._stages.items()}
        rows = self._rows(len(state.pending[0]))
        for row, gathered in zip(rows, state.gathered, strict=False):
            row[:, :-1] = torch.stack(gathered, 1)
        return FusedState(state.phase, stages, rows, [part.clone() for part in state.pending])

    def of_backbone(self, state: FusedState) -> Any:
        """The way back."""
        stages = {name: stage.of_mixers(state.stages[name]) for name, stage in self._stages.items()}
        if isinstance(self._net, Stack):
            return stages["centre"]
        gathered = [tuple(row[:, :-1].clone().unbind(1)) for row in state.rows[:-1]]
        return UNetState(state.phase, stages, gathered, [part.clone() for part in state.pending])

    def _rows(self, batch: int) -> list[Tensor]:
        like = next(self._net.parameters())
        return [like.new_zeros(batch, pool, width) for pool, width in zip(self.pool, self._widths, strict=True)]


def _kept(kept: list[Tensor], x: Tensor) -> Tensor:
    kept.append(x)
    return x
