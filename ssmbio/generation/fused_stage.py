"""One position of a stage: all of its layers in one call where they are S4D or DSS, block after block elsewhere.

The state of a stage is overwritten at every step. `own` makes it from the states of the stage's mixers, one a mixer,
and `of_mixers` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.backbones.feed_forward import FeedForwardBlock
from ssmbio.backbones.stack import Block
from ssmbio.generation.fused_block import block_step, diagonal_system, has_bias, is_diagonal
from ssmbio.kernels.s4d_stage_step import S4DStage, s4d_stage_step
from ssmbio.mixers.scanned_ssm import ScannedSSM
from ssmbio.mixers.ssm_layer import SSMLayer

After = Callable[[Tensor], Tensor]


class StageStep(Protocol):
    inexact: list[str]
    """What of it sums in an order that may depend on the batch."""

    def __call__(self, x: Tensor, state: Any, extra: Tensor | None = None, add_input: bool = False) -> Tensor:
        """(B, D) x + extra through the stage, plus itself with `add_input`; the state goes on in place."""

    def own(self, states: list[Any]) -> Any: ...

    def of_mixers(self, state: Any) -> list[Any]: ...


def stage_step(blocks: Sequence[nn.Module], backend: str) -> StageStep:
    """The step of these blocks; TypeError if one is no block of ours."""
    weights = stacked(blocks)
    return Blocks(blocks, backend) if weights is None else WholeStage(*weights, backend)


class WholeStage:
    """`s4d_stage_step`; the state is (K, B, D, N) complex."""

    def __init__(self, weights: S4DStage, eps: float, backend: str) -> None:
        self.inexact: list[str] = []
        self._weights, self._eps, self._backend = weights, eps, backend

    def __call__(self, x: Tensor, state: Tensor, extra: Tensor | None = None, add_input: bool = False) -> Tensor:
        return s4d_stage_step(x, self._weights, state, extra, add_input, self._eps, self._backend)

    def own(self, states: list[Tensor]) -> Tensor:
        return torch.stack(states)

    def of_mixers(self, state: Tensor) -> list[Tensor]:
        return [layer.clone() for layer in state]


class Blocks:
    """Block after block, with a state for each mixer."""

    def __init__(self, blocks: Sequence[nn.Module], backend: str) -> None:
        self._steps = [block_step(block, backend) for block in blocks]
        self._with_state = [type(block) is not FeedForwardBlock for block in blocks]
        self.inexact = sorted({step.inexact for step in self._steps if step.inexact is not None})

    def __call__(self, x: Tensor, state: list[Any], extra: Tensor | None = None, add_input: bool = False) -> Tensor:
        x = x if extra is None else x + extra
        y = self.through(x, state)
        return y + x if add_input else y

    def through(self, x: Tensor, state: list[Any], after: After | None = None) -> Tensor:
        """x through all blocks; `after` is applied after each."""
        kept, made = iter(state), []
        for step, with_state in zip(self._steps, self._with_state, strict=True):
            x, new = step.run(x, next(kept) if with_state else None)
            made += [new] if with_state else []
            x = x if after is None else after(x)
        update(state, made)
        return x

    def own(self, states: list[Any]) -> list[Any]:
        return pytree.tree_map(lambda leaf: leaf.detach().clone(memory_format=torch.contiguous_format), states)

    of_mixers = own


def update(kept: Any, made: Any) -> None:
    """Copies a new state into the buffers of the old one; what is the same tensor in both was overwritten already."""
    pairs = zip(pytree.tree_leaves(kept), pytree.tree_leaves(made), strict=True)
    changed = [(old, new) for old, new in pairs if old is not new]
    if changed:
        old, new = zip(*changed, strict=True)
        torch._foreach_copy_(list(old), list(new))


def stacked(blocks: Sequence[nn.Module]) -> tuple[S4DStage, float] | None:
    """The weights of `s4d_stage_step` and the eps of its norms; None if these blocks are not what it computes."""
    pairs = list(zip(blocks[::2], blocks[1::2], strict=False))
    if len(blocks) != 2 * len(pairs) or not all(_is_pair(*pair) for pair in pairs):
        return None
    layers = [_layer(cast(Block, mixing), cast(FeedForwardBlock, feed)) for mixing, feed in pairs]
    norms = [cast(nn.LayerNorm, block.norm) for block in blocks]
    alike = len({tuple(tensor.shape for tensor in layer) for layer in layers}) == 1
    if not alike or len({norm.eps for norm in norms}) > 1:
        return None
    weights = S4DStage(*(torch.stack(tensors).contiguous() for tensors in zip(*layers, strict=True)))
    return weights, norms[0].eps


def _is_pair(mixing: nn.Module, feed: nn.Module) -> bool:
    """Whether they are one layer of `s4d_stage_step`."""
    if type(mixing) is not Block or type(feed) is not FeedForwardBlock:
        return False
    inner = feed.feed_forward
    biases = inner.widen.bias is not None and inner.narrow.bias is not None
    return is_diagonal(mixing.mixer) and has_bias(mixing.norm) and has_bias(feed.norm) and biases


def _layer(mixing: Block, feed: FeedForwardBlock) -> S4DStage:
    layer, inner = cast(SSMLayer, mixing.mixer), feed.feed_forward
    norm, ff_norm = cast(nn.LayerNorm, mixing.norm), feed.norm
    tensors = S4DStage(
        *(norm.weight, norm.bias, *diagonal_system(cast(ScannedSSM, layer.ssm)), layer.D),
        *(layer.mix.weight, layer.mix.bias, ff_norm.weight, ff_norm.bias),
        *(inner.widen.weight, inner.widen.bias, inner.narrow.weight, inner.narrow.bias),
    )
    return S4DStage(*(tensor.detach() for tensor in tensors))
