"""What is measured: every op with its shapes, counts and peers. Another op is one more entry of `OPS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ssmbio.benchmarking import own, own_lti, peers, peers_lti, roofline
from ssmbio.benchmarking.peers import Peer
from ssmbio.benchmarking.roofline import Costs
from ssmbio.benchmarking.workload import Case, Tensors, Workload

Shape = tuple[int, int, int]
"""B, D, L"""


@dataclass(frozen=True)
class Series:
    """Shapes of an op on one kind of device.

    Attributes:
        shapes: those of the table.
        batch, channels: of the series over lengths.
        lengths: of that series; empty: the op does not depend on the length and is measured at `shapes` alone.
    """

    shapes: tuple[Shape, ...]
    batch: int
    channels: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """An op or a layer that is measured.

    Attributes:
        tensors: draws its inputs on the device, and `dy`.
        build: our workload on them.
        costs: what it has to do.
        gpu, cpu: its shapes there.
        states, taps: N (pairs of conjugates, where they are complex) and K, 0 for none.
        peers: what it is timed beside.
    """

    tensors: Callable[[Case], Tensors]
    build: Callable[[Case, Tensors], Workload]
    costs: Callable[[Case], Costs]
    gpu: Series
    cpu: Series
    states: int = 0
    taps: int = 0
    peers: tuple[Peer, ...] = ()


def powers(first: int, last: int) -> tuple[int, ...]:
    return tuple(2**exponent for exponent in range(first, last + 1))


LAYER_ON_GPU = Series(shapes=((8, 256, 2**17),), batch=1, channels=256, lengths=powers(17, 20))
LAYER_ON_CPU = Series(shapes=(), batch=1, channels=64, lengths=powers(10, 12))

OPS: dict[str, Op] = {
    "selective_scan": Op(
        tensors=own.scan_tensors,
        build=own.scan,
        costs=roofline.scan_costs,
        states=16,
        gpu=Series(
            shapes=(
                (1, 512, 2**20),
                (8, 512, 2**17),
                (1, 512, 2**17),
                (64, 512, 4096),
                (2048, 512, 128),
            ),
            batch=1,
            channels=512,
            lengths=powers(17, 22),
        ),
        cpu=Series(
            shapes=((1, 16, 4096), (1, 64, 4096), (1, 512, 4096), (8, 128, 4096)),
            batch=1,
            channels=64,
            lengths=powers(8, 13),
        ),
        peers=(peers.LOOP, peers.MAMBA_SSM, peers.FLA, peers.SDPA),
    ),
    "causal_conv1d": Op(
        tensors=own.convolution_tensors,
        build=own.convolution,
        costs=roofline.convolution_costs,
        taps=4,
        gpu=Series(shapes=((1, 512, 2**20),), batch=1, channels=512, lengths=powers(17, 22)),
        cpu=Series(shapes=((1, 512, 4096),), batch=1, channels=64, lengths=powers(10, 14)),
        peers=(peers.CAUSAL_CONV1D, peers.FLA_CONVOLUTION, peers.TORCH_CONVOLUTION),
    ),
    "mamba": Op(
        tensors=own.layer_tensors,
        build=own.mamba,
        costs=roofline.mamba_costs,
        states=16,
        taps=4,
        gpu=LAYER_ON_GPU,
        cpu=LAYER_ON_CPU,
        peers=(peers.MAMBA_SSM_LAYER,),
    ),
    "bimamba": Op(
        tensors=own.layer_tensors,
        build=own.bimamba,
        costs=roofline.bimamba_costs,
        states=16,
        taps=4,
        gpu=LAYER_ON_GPU,
        cpu=LAYER_ON_CPU,
        peers=(peers.MAMBA_SSM_BOTH_WAYS,),
    ),
    "lti_scan": Op(
        tensors=own_lti.scan_tensors,
        build=own_lti.scan,
        costs=roofline.lti_costs,
        states=32,
        gpu=Series(shapes=((1, 256, 2**20), (8, 256, 16384)), batch=1, channels=256, lengths=powers(16, 22)),
        cpu=Series(shapes=((8, 64, 4096),), batch=1, channels=64, lengths=powers(12, 16)),
        peers=(peers_lti.FFT_OF_ITS_KERNEL,),
    ),
    "fft_convolution": Op(
        tensors=own_lti.convolution_tensors,
        build=own_lti.convolution,
        costs=roofline.fft_convolution_costs,
        gpu=Series(shapes=((8, 256, 16384),), batch=1, channels=256, lengths=powers(16, 20)),
        cpu=Series(shapes=(), batch=1, channels=64, lengths=powers(10, 13)),
        peers=(peers_lti.FFT,),
    ),
    "s4d": Op(
        tensors=own_lti.block_tensors,
        build=own_lti.s4d,
        costs=roofline.s4d_costs,
        states=32,
        gpu=LAYER_ON_GPU,
        cpu=LAYER_ON_CPU,
    ),
    "decode": Op(
        tensors=own.step_tensors,
        build=own.decode,
        costs=roofline.decode_costs,
        states=16,
        taps=4,
        gpu=Series(shapes=((1, 256, 1000),), batch=1, channels=256, lengths=()),
        cpu=Series(shapes=((1, 256, 100),), batch=1, channels=256, lengths=()),
        peers=(peers.NO_GRAPH,),
    ),
}


def cases(name: str, op: Op, device: str, dtype: torch.dtype, lengths: Sequence[int] | None) -> list[Case]:
    """The table's shapes, then the series; with `lengths` the series alone, at those. No case twice."""
    series = op.gpu if device == "cuda" else op.cpu
    along = series.lengths if lengths is None or not series.lengths else tuple(lengths)
    table = series.shapes if lengths is None or not series.lengths else ()
    shapes = [*table, *((series.batch, series.channels, length) for length in along)]
    return [
        Case(name, device, dtype, batch, channels, length, op.states, op.taps)
        for batch, channels, length in dict.fromkeys(shapes)
    ]
