"""One rate of a U-Net: residual blocks of mixers and feed-forward networks in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmbio.backbones.feed_forward import FeedForwardBlock
from ssmbio.backbones.stack import Block
from ssmbio.layers import LayerNorm
from ssmbio.mixers import Mixer

MixerMaker = Callable[[int], Mixer]
After = Callable[[Tensor], Tensor]
"""What becomes of the residual stream after each block."""


class Stage(nn.Module):
    """Residual blocks at one rate: a mixer, a feed-forward network, a mixer, … each behind a LayerNorm.

    Args:
        d_model: D, channels in and out.
        n_layers: mixers.
        mixer: makes a mixer from d_model.
        ff: inner channels of the feed-forward networks / d_model; 0: none of them.
        dropout: on each block's output, and inside the feed-forward networks.
        activation_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self, d_model: int, n_layers: int, mixer: MixerMaker, ff: float, dropout: float, activation_checkpointing: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            self.blocks.append(Block(mixer(d_model), dropout, LayerNorm(d_model, narrow=True)))
            if ff:
                self.blocks.append(FeedForwardBlock(d_model, ff, dropout))
        self.activation_checkpointing = activation_checkpointing

    @property
    def mixers(self) -> list[Mixer]:
        return [block.mixer for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        x: Tensor,
        states: list[Any] | None = None,
        cu_seqlens: Tensor | None = None,
        after: After | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """x (B, L, D), or packed → y like x and one state a mixer; `after` is applied after each block."""
        before = iter([None] * len(self.mixers) if states is None else states)
        new_states = []
        for block in self.blocks:
            if isinstance(block, Block):
                x, state = self._run(block, x, next(before), cu_seqlens)
                new_states.append(state)
            else:
                x = self._run(block, x)
            x = x if after is None else after(x)
        return x, new_states

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.activation_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def step(self, x: Tensor, states: list[Any], after: After | None = None) -> tuple[Tensor, list[Any]]:
        """x (B, D) and the states before it → y (B, D) and the states after it."""
        before = iter(states)
        new_states = []
        for block in self.blocks:
            if isinstance(block, Block):
                x, state = block.step(x, next(before))
                new_states.append(state)
            else:
                x = block(x)
            x = x if after is None else after(x)
        return x, new_states

    def initial_state(self, batch_size: int) -> list[Any]:
        return [mixer.initial_state(batch_size) for mixer in self.mixers]
