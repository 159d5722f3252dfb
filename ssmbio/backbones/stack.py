"""A pre-norm residual stack of mixers: the plain backbone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmbio.backbones.bidirectional import Bidirectional
from ssmbio.layers import LayerNorm, RMSNorm
from ssmbio.mixers import Mixer
from ssmbio.mixers.settings import check_dropout, check_flag, check_whole


class Block(nn.Module):
    """x + dropout(mixer(norm(x))): x stays float32 under autocast, so small changes are not rounded away.

    Args:
        mixer: of D channels.
        dropout: on the mixer's output.
        norm: of D channels; None: RMSNorm.
    """

    def __init__(self, mixer: Mixer, dropout: float, norm: LayerNorm | RMSNorm | None = None) -> None:
        super().__init__()
        self.norm = RMSNorm(mixer.d_model, narrow=True) if norm is None else norm
        self.mixer = mixer
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: Any = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Any]:
        x, y = self.norm(x, beside=True)
        y, state = self.mixer(y, state, cu_seqlens)
        return x + self.dropout(y), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.mixer.step(self.norm(x), state)
        return x + self.dropout(y), state


class Stack(nn.Module):
    """`n_layers` blocks and a final norm, on the mixer contract (a list of states, one a layer).

    Args:
        d_model: D, channels in and out.
        n_layers: number of blocks.
        mixer: makes a mixer from d_model (in a configuration: a mixer with `_partial_: true`).
        bidirectional: run a causal mixer from both ends, each with its own weights.
        dropout: on each block's output.
        activation_checkpointing: recompute each block in the backward pass; saves memory, costs about a third of time.
            Parameter names do not depend on it.

    Attributes:
        period: positions after which the work of a step repeats: 1, for all steps are alike.
    """

    period = 1

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        mixer: Callable[[int], Mixer],
        bidirectional: bool = False,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_whole(1, d_model=d_model, n_layers=n_layers)
        check_flag(bidirectional=bidirectional, activation_checkpointing=activation_checkpointing)
        check_dropout(dropout)
        self.d_model = d_model
        make = partial(Bidirectional, mixer=mixer) if bidirectional else mixer
        self.blocks = nn.ModuleList(Block(make(d_model), dropout) for _ in range(n_layers))
        self.norm = RMSNorm(d_model)
        self.activation_checkpointing = activation_checkpointing
        # Residual branches add up: each output projection starts smaller by √layers (GPT-2, and Mamba after it).
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("out_proj.weight"):
                    parameter.div_(math.sqrt(n_layers))

    @property
    def layers(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    @property
    def causal(self) -> bool:
        return all(block.mixer.causal for block in self.layers)

    def forward(
        self, x: Tensor, states: list[Any] | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """x (B, L, D), or packed (1, total, D) → y like x and one state a layer."""
        new_states = []
        for block, state in zip(self.layers, [None] * len(self.blocks) if states is None else states, strict=True):
            if self.activation_checkpointing and self.training:
                x, state = checkpoint(block, x, state, cu_seqlens, use_reentrant=False)
            else:
                x, state = block(x, state, cu_seqlens)
            new_states.append(state)
        return self.norm(x), new_states

    def step(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """x (B, D) and the states before it → y (B, D) and the states after it."""
        new_states = []
        for block, state in zip(self.layers, states, strict=True):
            x, state = block.step(x, state)
            new_states.append(state)
        return self.norm(x), new_states

    def initial_state(self, batch_size: int) -> list[Any]:
        return [block.mixer.initial_state(batch_size) for block in self.layers]
