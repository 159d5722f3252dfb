"""A U-Net of mixers at several rates: SaShiMi (Goel, Gu, Donahue and Ré, arXiv 2202.09729)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmbio.backbones.pooling import DownPool, UpPool
from ssmbio.backbones.stage import MixerMaker, Stage
from ssmbio.backbones.unet_walks import Pieces, SingleStep, UNetState, Walk, Whole
from ssmbio.kernels.packing import check_offsets
from ssmbio.layers import LayerNorm
from ssmbio.mixers.inputs import check_sequences
from ssmbio.mixers.settings import check_dropout, check_flag, check_whole

STAGES = ("outer", "middle", "centre")


class UNet(nn.Module):
    """Down over pools to wider and shorter sequences, and up again, with blocks at every rate; on `Stack`'s contract.

    x → [blocks, with `unet`] → DownPool → … → blocks at the centre → … → UpPool + what was there on the way down →
    blocks → LayerNorm. The centre's input is added to its output. On the way up so is that of every stage; with `unet`
    what is added, and after every block, is what its counterpart on the way down was given. Any length will do, cut
    anywhere: a stage of stride s takes a step when s positions have come together.

    Causal mixers make it causal. Bidirectional ones see what is ahead too; the pools on the way up stay late by a step
    (as in the paper's bidirectional form), so the weights mean the same.

    Args:
        d_model: D, channels in and out.
        n_layers: mixers of a stage.
        pool: positions that become one, from the outermost pool inwards.
        expand: channels of a rate / channels of the next higher rate.
        ff: inner channels of the feed-forward networks / channels; 0: none of them.
        unet: blocks on the way down too.
        mixer: makes the mixers, from their number of channels, of the stages that `mixers` does not name.
        mixers: makers by stage: `outer` at the full rate, `centre` at the lowest, `middle` at those between.
        dropout: on each block's output, and inside the feed-forward networks.
        activation_checkpointing: recompute each block in the backward pass; parameter names do not depend on it.

    Attributes:
        period: product of the pools; the work of a step repeats after so many positions.

    Raises:
        ValueError: a size out of range, a stage without a mixer, an unknown stage, a mixer that no stage would use.
    """

    def __init__(
        self,
        d_model: int = 64,
        n_layers: int = 8,
        pool: Sequence[int] = (4, 4),
        expand: int = 2,
        ff: float = 2,
        unet: bool = False,
        mixer: MixerMaker | None = None,
        mixers: Mapping[str, MixerMaker] | None = None,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_whole(1, d_model=d_model, n_layers=n_layers, expand=expand)
        check_flag(unet=unet, activation_checkpointing=activation_checkpointing)
        check_dropout(dropout)
        if isinstance(ff, (bool, str)) or ff < 0:
            raise ValueError(f"ff must be a number of at least 0; got {ff!r}")
        if isinstance(pool, int) or not pool or min(pool) < 2:
            raise ValueError(f"pool must be a list of numbers from 2 up, such as [4, 4]; got {pool}")
        self.pool = tuple(pool)
        self.d_model, self.unet, self.period = d_model, unet, math.prod(self.pool)
        depth = len(self.pool)
        widths = [d_model * expand**level for level in range(depth + 1)]
        makers = _makers(mixer, mixers or {}, depth)

        def stage(level: int) -> Stage:
            return Stage(widths[level], n_layers, makers[level], ff, dropout, activation_checkpointing)

        self.stages = nn.ModuleDict({f"down_{level}": stage(level) for level in range(depth) if unet})
        self.stages["centre"] = stage(depth)
        self.stages.update({f"up_{level}": stage(level) for level in reversed(range(depth))})
        sizes_of_pools = list(zip(widths[:-1], widths[1:], self.pool, strict=True))
        self.down_pools = nn.ModuleList(DownPool(wide, low, pool) for wide, low, pool in sizes_of_pools)
        self.up_pools = nn.ModuleList(UpPool(low, wide, pool) for wide, low, pool in sizes_of_pools)
        self.norm = LayerNorm(d_model)
        # As in `Stack`: residual branches add up.
        with torch.no_grad():
            for name, parameter in self.stages.named_parameters():
                if name.endswith("out_proj.weight"):
                    parameter.div_(math.sqrt(n_layers))

    def stage(self, name: str) -> Stage:
        return cast(Stage, self.stages[name])

    def down_pool(self, level: int) -> DownPool:
        return cast(DownPool, self.down_pools[level])

    def up_pool(self, level: int) -> UpPool:
        return cast(UpPool, self.up_pools[level])

    @property
    def causal(self) -> bool:
        return all(mixer.causal for name in self.stages for mixer in self.stage(name).mixers)

    def forward(
        self, x: Tensor, states: UNetState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, UNetState | None]:
        """x (B, L, D), or packed (1, total, D) → y like x, and the state after it.

        The state is None for packed sequences and for bidirectional mixers.

        Raises:
            ValueError, TypeError: x or `cu_seqlens` of a wrong shape or kind; a state together with `cu_seqlens`.
            RuntimeError: a state, with bidirectional mixers.
        """
        check_sequences(x, self.d_model, cu_seqlens)
        check_offsets(cu_seqlens, x.shape[1])
        if states is not None and cu_seqlens is not None:
            raise ValueError("a U-Net carries no state over packed sequences: leave out states or cu_seqlens")
        if states is not None and not self.causal:
            raise RuntimeError("this U-Net has bidirectional mixers: a carried state has no meaning for it")
        if cu_seqlens is not None or not self.causal:
            return self._walk(Whole(self, cu_seqlens), x), None
        if states is None:
            states = self._start(x)
        walk = Pieces(self, states, x.shape[1])
        return self._walk(walk, x), walk.states

    def step(self, x: Tensor, states: UNetState) -> tuple[Tensor, UNetState]:
        """x (B, D) and the state before it → y (B, D) and the state after it.

        What a step at this phase does not touch is the same tensor in both states.
        """
        walk = SingleStep(self, states)
        return self._walk(walk, x), walk.states

    def initial_state(self, batch_size: int) -> UNetState:
        """Before the first position; raises RuntimeError with bidirectional mixers."""
        mixers = {name: self.stage(name).initial_state(batch_size) for name in self.stages}
        levels = range(len(self.pool))
        gathered = [self.down_pool(level).initial_state(batch_size) for level in levels]
        return UNetState(0, mixers, gathered, [self.up_pool(level).initial_state(batch_size) for level in levels])

    def _start(self, x: Tensor) -> UNetState:
        """The state before the first position; where every stage runs, mixers start from None, which costs nothing."""
        if x.shape[1] < self.period:
            return self.initial_state(x.shape[0])
        nothing: list[Any] = [None] * len(self.pool)
        return UNetState(0, dict.fromkeys(self.stages), nothing, nothing)

    def _walk(self, walk: Walk, x: Tensor) -> Tensor:
        return self.norm(self._from_level(0, walk, x))

    def _from_level(self, level: int, walk: Walk, x: Tensor) -> Tensor:
        """x through this rate and all below it; all of the skips are here."""
        if level == len(self.pool):
            return walk.stage("centre", level, x) + x
        length, kept = x.shape[1], [x]
        if self.unet:

            def keep(x: Tensor) -> Tensor:
                kept.append(x)
                return x

            x = walk.stage(f"down_{level}", level, x, keep)
        low = walk.lower(level, x)
        if low is not None:
            low = self._from_level(level + 1, walk, low)
        x = walk.raised(level, low, length) + kept.pop()
        if self.unet:
            return walk.stage(f"up_{level}", level, x, lambda x: x + kept.pop())
        return walk.stage(f"up_{level}", level, x) + x


def _makers(mixer: MixerMaker | None, mixers: Mapping[str, MixerMaker], depth: int) -> list[MixerMaker]:
    """For each rate, from the full one down, what makes its mixers."""
    unknown = sorted(set(mixers) - set(STAGES))
    if unknown:
        raise ValueError(f"mixers has no stage {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
    if mixer is not None and len(mixers) == len(STAGES):
        raise ValueError("mixer would have no effect, for mixers names every stage: set those of the stages")
    names = ["outer", *["middle"] * (depth - 1), "centre"]
    found = {name: mixers.get(name, mixer) for name in names}
    for name, maker in found.items():
        if maker is None:
            raise ValueError(f"the {name} stage has no mixer: give mixers.{name}, or mixer for all stages")
    return [cast(MixerMaker, found[name]) for name in names]
