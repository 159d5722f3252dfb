"""Which operations make up a model. What is not known here is refused, and then decodes by the plain loop."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack, UNet
from ssmbio.backbones.feed_forward import FeedForwardBlock
from ssmbio.backbones.stack import Block
from ssmbio.generation.packed_program import Program, by_lanes, padded, parts, whole_lanes
from ssmbio.mixers import Mamba
from ssmbio.mixers.s4 import LowRankSSM
from ssmbio.mixers.scanned_ssm import ScannedSSM
from ssmbio.mixers.ssm_layer import SSMLayer

CODES = 256
Take = Callable[[Any], Any]
"""From the state of the whole backbone to that of one mixer."""


class NotPacked(Exception):
    """There is no operation for a part of this model."""


def program_of(model: Any) -> Program:
    """The program of a model that is an embedding, a backbone and a linear head, in evaluation mode.

    Raises:
        NotPacked: it is made of something else.
    """
    embedding, backbone, head = (getattr(model, name, None) for name in ("embedding", "backbone", "head"))
    if type(embedding) is not nn.Embedding or not isinstance(head, nn.Linear) or head.out_features > CODES:
        raise NotPacked("it is not an embedding, a backbone and a linear head of at most 256 codes")
    program = Program()
    with torch.no_grad():
        width = whole_lanes(embedding.embedding_dim)
        x = program.place(width)
        program.add("embed", 1, out=x, n=width, weights=program.weights(padded(embedding.weight)))
        if type(backbone) is UNet:
            x = _pack_level(program, backbone, 0, 1, x)
        elif type(backbone) is Stack:
            for i, block in enumerate(backbone.layers):
                _pack_mixer(program, 1, block, partial(_state_in_stack, i), x)
        else:
            raise NotPacked(f"its backbone is a {type(backbone).__name__}")
        logits = _linear(program, 1, _norm(program, 1, backbone.norm, x), head)
        program.add("draw", 1, source=logits, n=head.out_features)
    return program


def _pack_level(program: Program, net: UNet, level: int, every: int, x: int) -> int:
    """x through this rate and all below it, in the order of `UNet`; a stage of stride s runs at every s-th position."""
    if level == len(net.pool):
        width = whole_lanes(net.down_pool(level - 1).linear.out_features)
        return _plus_input(program, net, "centre", every, x, width)
    pool, down, up = net.pool[level], net.down_pool(level), net.up_pool(level)
    width = whole_lanes(down.d_model)
    kept = [x]
    if net.unet:
        for pack in _blocks(program, net, f"down_{level}", every):
            x = program.add("copy", every, x, program.place(width), width)
            pack(x)
            kept.append(x)
    gathered = program.place(pool * width)
    program.add("gather", every, x, n=width, state=gathered, pool=pool)
    weight = padded(down.linear.weight.unflatten(1, (pool, -1))).flatten(1)
    low = program.linear(every * pool, gathered, _rows(weight), padded(down.linear.bias))
    low = _pack_level(program, net, level + 1, every * pool, low)
    # What was made of the pool before this one is used up before what this one made takes its place.
    pending = program.state(pool * width, lambda state: padded(state.pending[level]))
    x = program.add("pending", every, kept.pop(), program.place(width), width, state=pending, pool=pool)
    weight, bias = (padded(t.unflatten(0, (pool, -1)).movedim(1, -1)) for t in (up.linear.weight, up.linear.bias))
    program.linear(every * pool, low, weight.movedim(-1, 1).flatten(0, 1), bias.flatten(), pending)
    if not net.unet:
        return _plus_input(program, net, f"up_{level}", every, x, width)
    for pack in _blocks(program, net, f"up_{level}", every):
        pack(x)
        program.add("add", every, kept.pop(), x, width)
    return x


def _plus_input(program: Program, net: UNet, stage: str, every: int, x: int, width: int) -> int:
    y = program.add("copy", every, x, program.place(width), width)
    for pack in _blocks(program, net, stage, every):
        pack(y)
    return program.add("add", every, x, y, width)


def _blocks(program: Program, net: UNet, stage: str, every: int) -> Iterator[Callable[[int], None]]:
    """For each block of a stage what packs it, given the place that it changes."""
    mixers = 0
    for block in net.stage(stage).blocks:
        if type(block) is FeedForwardBlock:
            yield partial(_pack_feed_forward, program, every, block)
        elif type(block) is Block:
            yield partial(_pack_mixer, program, every, block, partial(_state_in_net, stage, mixers))
            mixers += 1
        else:
            raise NotPacked(f"a block of it is a {type(block).__name__}")


def _state_in_net(stage: str, i: int, state: Any) -> Any:
    return state.mixers[stage][i]


def _state_in_stack(i: int, state: Any) -> Any:
    return state[i]


def _pack_feed_forward(program: Program, every: int, block: FeedForwardBlock, x: int) -> None:
    inner = block.feed_forward
    y = _linear(program, every, _norm(program, every, block.norm, x), inner.widen)
    program.add("gelu", every, y, y, whole_lanes(inner.widen.out_features))
    y = _linear(program, every, y, inner.narrow)
    program.add("add", every, y, x, whole_lanes(inner.narrow.out_features))


def _pack_mixer(program: Program, every: int, block: Block, take: Take, x: int) -> None:
    y = _norm(program, every, block.norm, x)
    mixer = block.mixer
    if type(mixer) is Mamba:
        y = _mamba(program, every, mixer, y, take)
    elif type(mixer).step is SSMLayer.step and mixer.causal:
        y = _ssm_layer(program, every, cast(SSMLayer, mixer), y, take)
    else:
        raise NotPacked(f"a mixer of it is {type(mixer).__name__}")
    program.add("add", every, y, x, whole_lanes(mixer.d_model))


def _norm(program: Program, every: int, norm: nn.Module, x: int) -> int:
    if isinstance(norm, nn.LayerNorm) and norm.weight is not None:
        kind, epsilon, bias = "layer_norm", norm.eps, norm.bias
    elif isinstance(norm, nn.RMSNorm) and norm.weight is not None:
        kind, bias = "rms_norm", None
        epsilon = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    else:
        raise NotPacked(f"a norm of it is {norm}")
    weight, n = norm.weight, len(norm.weight)
    weights = program.weights(torch.ones(n), weight, torch.zeros(n) if bias is None else bias)
    bits = struct.unpack("i", struct.pack("f", epsilon))[0]
    return program.add(kind, every, x, program.place(n), n, bits, weights)


def _linear(program: Program, every: int, x: int, linear: nn.Linear) -> int:
    return program.linear(every, x, _rows(linear.weight), None if linear.bias is None else padded(linear.bias))


def _rows(weight: Tensor) -> Tensor:
    """(n, m) with rows of zeros up to whole lanes."""
    return padded(weight.mT).mT


def _halves(weight: Tensor) -> Tensor:
    """(2n, …): each half of the rows up to whole lanes."""
    return torch.cat([padded(half.movedim(0, -1)).movedim(-1, 0) for half in weight.chunk(2)])


def _ssm_layer(program: Program, every: int, layer: SSMLayer, x: int, take: Take) -> int:
    ssm, D = cast(Any, layer.ssm), layer.D[:, None]
    width = whole_lanes(layer.d_model)

    def start(state: Any) -> Tensor:
        return by_lanes(parts(take(state)))

    if type(ssm).step is ScannedSSM.step:
        log_a, b, c = (t.to(torch.complex128) for t in ssm.system())
        rows, kind, rank = torch.stack([log_a.exp(), b, 2 * c], -1), "diagonal", 0
    elif type(ssm) is LowRankSSM:
        system = ssm.system()
        G, left, right, half = system.step_matrices()
        rows, kind, rank = torch.stack([half, *right, G, *left, 2 * system.C], -1), "low_rank", len(left)
    else:
        raise NotPacked(f"a state space of it is a {type(ssm).__name__}")
    weights = program.weights(by_lanes(torch.cat([D, parts(rows).flatten(1)], 1)))
    state = program.state(2 * ssm.pairs * width, start)
    y = program.add(kind, every, x, program.place(width), width, ssm.pairs, weights, state, rank)
    program.add("gelu", every, y, y, width)
    y = program.linear(every, y, _halves(layer.mix.weight), _halves(layer.mix.bias))
    return program.add("glu", every, y, program.place(width), width)


def _mamba(program: Program, every: int, mixer: Mamba, x: int, take: Take) -> int:
    ssm = mixer.ssm
    width, states, taps, rank = whole_lanes(ssm.d_inner), ssm.d_state, ssm.d_conv, ssm.dt_rank
    # u, z, Δ, B, C lie one after another, as "selective" reads them; the rest of x_proj follows.
    u = program.linear(every, x, _halves(mixer.in_proj.weight), out=program.place(3 * width + 2 * states + rank + 16))
    delta, B = u + 2 * width, u + 3 * width
    conv = program.state((taps - 1) * width, lambda state: padded(take(state).conv))
    weights = program.weights(padded(ssm.conv_bias), padded(ssm.conv_weight.mT))
    program.add("convolution", every, u, u, width, taps, weights, conv)
    low, mixing = ssm.x_proj.weight.split([rank, 2 * states])
    program.linear(every, u, _rows(torch.cat([mixing, low])), out=B)
    program.linear(every, B + 2 * states, _rows(ssm.dt_weight), out=delta)
    weights = program.weights(by_lanes(torch.cat([ssm.dt_bias[:, None], ssm.D[:, None], -ssm.A_log.exp()], 1)))
    scanned = program.state(width * states, lambda state: by_lanes(take(state).ssm))
    program.add("selective", every, u, u, width, states, weights, scanned)
    return _linear(program, every, u, mixer.out_proj)
