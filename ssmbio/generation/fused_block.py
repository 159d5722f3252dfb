"""One position of a residual block in few kernels, those of `dense_step` and its kin, which take each row by itself.

A block is a function of x (B, D), a row of the residual stream each contiguous, and of its state; it gives the new x in
a tensor of its own, and the new state: the tensors it was given if it has overwritten them, new ones otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.backbones.feed_forward import FeedForwardBlock
from ssmbio.backbones.stack import Block
from ssmbio.kernels import causal_conv1d_step, selective_scan_step
from ssmbio.kernels.dense_step import dense_step
from ssmbio.kernels.s4d_layer_step import s4d_layer_step
from ssmbio.mixers import Mamba
from ssmbio.mixers.scanned_ssm import ScannedSSM
from ssmbio.mixers.selective_ssm import SelectiveState
from ssmbio.mixers.ssm_layer import SSMLayer

Run = Callable[[Tensor, Any], tuple[Tensor, Any]]
Linear = Callable[..., Tensor]


class BlockStep(NamedTuple):
    run: Run
    inexact: str | None
    """What sums in an order that may depend on the batch; None: a row's result is its own, bit for bit."""


def block_step(block: nn.Module, backend: str) -> BlockStep:
    """The step of a `Block` or a `FeedForwardBlock` in evaluation mode; what no kernel knows is the module's own."""
    if type(block) is FeedForwardBlock:
        return _feed_forward(block, backend)
    if type(block) is not Block:
        raise TypeError(f"a block must be a Block or a FeedForwardBlock; got {type(block).__name__}")
    mixer = block.mixer
    if is_diagonal(mixer) and has_bias(block.norm):
        return _diagonal(block, backend)
    if type(mixer) is Mamba:
        return _mamba(block, backend)
    if isinstance(mixer, SSMLayer) and type(mixer).step is SSMLayer.step and mixer.causal:
        return _ssm_layer(block, backend)
    return BlockStep(block.step, f"{type(mixer).__name__} has no fused step")


def is_diagonal(mixer: nn.Module) -> bool:
    """Whether it is S4D, DSS, or another causal layer round a `ScannedSSM`."""
    if not isinstance(mixer, SSMLayer) or type(mixer).step is not SSMLayer.step or not mixer.causal:
        return False
    return type(mixer.ssm).step is ScannedSSM.step


def has_bias(norm: nn.Module) -> bool:
    """Whether it is a LayerNorm as the kernels have it."""
    return isinstance(norm, nn.LayerNorm) and norm.bias is not None and len(norm.normalized_shape) == 1


def diagonal_system(ssm: ScannedSSM) -> tuple[Tensor, Tensor, Tensor]:
    """a = exp(log_a), b and c, each (D, N), complex64 (complex128 in a model of float64), contiguous."""
    log_a, b, c = (tensor.detach() for tensor in ssm.system())
    wide = next(ssm.parameters()).dtype == torch.float64
    a, b, c = log_a.to(torch.complex128).exp(), b.expand_as(log_a), c.expand_as(log_a)
    dtype = torch.complex128 if wide else torch.complex64
    return tuple(t.to(dtype).resolve_conj().contiguous() for t in (a, b, c))  # type: ignore[return-value]


def linear_step(linear: nn.Linear, backend: str, norm: nn.Module | None = None) -> Linear:
    """`dense_step` with these weights, behind a norm if there is one: takes x, `activation`, `residual` and `out`."""
    weight = linear.weight.detach().contiguous()
    bias = None if linear.bias is None else linear.bias.detach()
    inside: dict[str, Any] = {}
    if norm is not None and has_bias(norm):
        inside = {"norm_weight": norm.weight, "norm_bias": norm.bias, "eps": norm.eps}

    def step(x: Tensor, activation: str | None = None, residual: Tensor | None = None, out: Tensor | None = None):
        # The norms of torch take each row by itself too.
        x = x if norm is None or inside else norm(x)
        return dense_step(x, weight, bias, **inside, activation=activation, residual=residual, out=out, backend=backend)

    return step


def _feed_forward(block: FeedForwardBlock, backend: str) -> BlockStep:
    widen = linear_step(block.feed_forward.widen, backend, block.norm)
    narrow = linear_step(block.feed_forward.narrow, backend)
    return BlockStep(lambda x, state: (narrow(widen(x, "gelu"), residual=x), state), None)


def _diagonal(block: Block, backend: str) -> BlockStep:
    layer, norm = cast(SSMLayer, block.mixer), cast(nn.LayerNorm, block.norm)
    system, mix = diagonal_system(cast(ScannedSSM, layer.ssm)), linear_step(layer.mix, backend)

    def run(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        g = s4d_layer_step(x, norm.weight, norm.bias, *system, layer.D, state, norm.eps, backend)
        return mix(g, "glu", residual=x), state

    return BlockStep(run, None)


def _ssm_layer(block: Block, backend: str) -> BlockStep:
    layer, mix = cast(SSMLayer, block.mixer), linear_step(cast(SSMLayer, block.mixer).mix, backend)

    def run(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = layer.ssm.step(block.norm(x), layer.D, state)
        return mix(F.gelu(y), "glu", residual=x), state

    kind = type(layer.ssm).__name__
    return BlockStep(run, f"{kind} behind {type(block.norm).__name__} has no fused step")


def _mamba(block: Block, backend: str) -> BlockStep:
    mixer = cast(Mamba, block.mixer)
    ssm = mixer.ssm
    A = -ssm.A_log.detach().exp()
    into, select, out = (
        linear_step(mixer.in_proj, backend, block.norm),
        linear_step(ssm.x_proj, backend),
        linear_step(mixer.out_proj, backend),
    )
    sizes = [ssm.dt_rank, ssm.d_state, ssm.d_state]

    # As `mamba_step`, whose products change over to torch's at larger batches.
    def run(x: Tensor, state: SelectiveState) -> tuple[Tensor, SelectiveState]:
        u, z = into(x).chunk(2, dim=-1)
        u, conv = causal_conv1d_step(u, ssm.conv_weight, ssm.conv_bias, "silu", state.conv, backend=backend)
        low, B, C = select(u).split(sizes, dim=-1)
        delta = dense_step(low, ssm.dt_weight, backend=backend)
        y, h = selective_scan_step(u, delta, A, B, C, state.ssm, ssm.D, z, ssm.dt_bias, True, backend=backend)
        return out(y, residual=x), SelectiveState(conv, h)

    return BlockStep(run, None)
