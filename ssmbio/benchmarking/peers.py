"""Other implementations, timed beside ours on the same numbers in the layout they prefer.

Each is imported when it is its turn; what is not installed, does not run or does not fit is reported as such.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.benchmarking.own import autocast_layer, decode_without_graph
from ssmbio.benchmarking.workload import Case, Tensors, Workload

HEAD = 64  # channels of a head, where a peer has heads
MOST_PAIRS = {"cuda": 2**34, "cpu": 2**26}  # B·L² up to which attention is timed: a second or so


class LeftOut(Exception):
    """This peer is not for this case; the message says why."""


@dataclass(frozen=True)
class Peer:
    """Another implementation of an op, or a yardstick for it.

    Attributes:
        name: what the report calls it.
        build: from the case and our tensors, its own workload; layouts are changed here, outside of what is timed.
        package: what has to be installed, as one imports it; None: nothing.
        same_op: whether it computes what ours does. If not, `note` says what it computes.
        devices: where it is tried.
    """

    name: str
    build: Callable[[Case, Tensors], Workload]
    package: str | None = None
    same_op: bool = True
    note: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def workload(self, case: Case, tensors: Tensors) -> Workload:
        """Raises LeftOut where it is not for this case, and whatever the package does where it cannot run."""
        # Their offsets have 32 bits: beyond, they would read others' memory and end the process's use of the GPU.
        if self.package is not None and case.positions * case.channels >= 2**31:
            raise LeftOut("2^31 elements or more")
        return self.build(case, tensors)


def mamba_ssm_scan(case: Case, tensors: Tensors) -> Workload:
    """u, delta, z (B, D, L) and B, C (B, N, L), all contiguous."""
    selective_scan_fn = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    u, delta, B, C, z = (as_leaf(channels_first(tensors[name])) for name in ("u", "delta", "B", "C", "z"))
    A, D, bias = (tensors[name] for name in ("A", "D", "delta_bias"))
    dy = channels_first(tensors["dy"])
    inputs = (u, delta, A, B, C, D, z, bias)
    return Workload(lambda: selective_scan_fn(*inputs, True), inputs, dy)


def gated_linear_attention(case: Case, tensors: Tensors) -> Workload:
    """q, k (B, L, H, N), v (B, L, H, 64), one decay a head: as many channels and as large a state."""
    chunk_simple_gla = import_module("fla.ops.simple_gla").chunk_simple_gla
    heads = _heads(case)
    if case.states < 16:
        raise LeftOut("it needs a state size of 16 or more")
    q, k = (as_leaf(tensors[name][:, :, None].expand(-1, -1, heads, -1).contiguous()) for name in ("B", "C"))
    v = tensors["u"].detach().view(case.batch, case.length, heads, HEAD).requires_grad_()
    g = as_leaf(F.logsigmoid(tensors["delta"].detach().view_as(v).float().mean(-1)))
    dy = tensors["dy"].view_as(v)
    return Workload(lambda: chunk_simple_gla(q, k, v, g)[0], (q, k, v, g), dy)


def attention(case: Case, tensors: Tensors) -> Workload:
    """Causal, q, k, v (B, H, L, 64)."""
    heads = _heads(case)
    if case.batch * case.length**2 > MOST_PAIRS[case.device]:
        raise LeftOut("too long for what is quadratic")

    def by_heads(name: str) -> Tensor:
        rows = tensors[name].detach().view(case.batch, case.length, heads, HEAD)
        return rows.transpose(1, 2).contiguous()

    q, k, v = (as_leaf(by_heads(name)) for name in ("u", "delta", "z"))
    return Workload(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), by_heads("dy"))


def loop(case: Case, tensors: Tensors) -> Workload:
    """The scan as a loop over the positions, in torch; states and sums in float32."""
    inputs = {name: tensor for name, tensor in tensors.items() if name != "dy"}
    return Workload(lambda: loop_over_positions(**inputs), tuple(inputs.values()), tensors["dy"])


def loop_over_positions(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The equations of `kernels/selective_scan/reference.py`; unbound inputs keep its backward pass linear in L."""
    x, dt = u.float(), F.softplus(delta.float() + delta_bias)
    h, outputs = torch.zeros(u.shape[0], *A.shape, device=u.device), []
    rows = (part.unbind(1) for part in (dt, dt * x, B.float(), C.float()))
    for dt_t, drive_t, B_t, C_t in zip(*rows, strict=True):
        h = torch.exp(dt_t.unsqueeze(-1) * A) * h + drive_t.unsqueeze(-1) * B_t.unsqueeze(1)
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))
    y = torch.stack(outputs, dim=1) + x * D
    return (y * F.silu(z.float())).to(u.dtype)


def causal_conv1d_cuda(case: Case, tensors: Tensors) -> Workload:
    """x (B, D, L) contiguous."""
    causal_conv1d_fn = import_module("causal_conv1d").causal_conv1d_fn
    x, weight, bias = as_leaf(channels_first(tensors["x"])), tensors["weight"], tensors["bias"]
    dy = channels_first(tensors["dy"])
    return Workload(lambda: causal_conv1d_fn(x, weight, bias, activation="silu"), (x, weight, bias), dy)


def fla_convolution(case: Case, tensors: Tensors) -> Workload:
    """x (B, L, D), as ours."""
    causal_conv1d = import_module("fla.modules.convolution").causal_conv1d
    x, weight, bias = tensors["x"], tensors["weight"], tensors["bias"]
    return Workload(lambda: causal_conv1d(x, weight, bias, activation="silu")[0], (x, weight, bias), tensors["dy"])


def torch_convolution(case: Case, tensors: Tensors) -> Workload:
    """x (B, D, L) contiguous, padded on both sides and cut; parameters in the dtype of x."""
    x = as_leaf(channels_first(tensors["x"]))
    weight, bias = as_leaf(tensors["weight"].unsqueeze(1).to(x.dtype)), as_leaf(tensors["bias"].to(x.dtype))

    def call() -> Tensor:
        y = F.conv1d(x, weight, bias, padding=case.taps - 1, groups=case.channels)
        return F.silu(y[..., : case.length])

    return Workload(call, (x, weight, bias), channels_first(tensors["dy"]))


def mamba_ssm_layer(case: Case, tensors: Tensors) -> Workload:
    return autocast_layer(case, tensors, _mamba_ssm_layer(case))


def mamba_ssm_both_ways(case: Case, tensors: Tensors) -> Workload:
    """Two layers with tied projections, the second on the flipped sequence (Caduceus, arXiv 2403.03234)."""
    return autocast_layer(case, tensors, _BothWays(_mamba_ssm_layer(case), _mamba_ssm_layer(case)))


class _BothWays(nn.Module):
    def __init__(self, ahead: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.ahead, self.back = ahead, back
        for name in ("in_proj", "out_proj"):
            setattr(back, name, getattr(ahead, name))

    def forward(self, x: Tensor) -> Tensor:
        return self.ahead(x) + self.back(x.flip(1)).flip(1)


def _mamba_ssm_layer(case: Case) -> nn.Module:
    layer = import_module("mamba_ssm.modules.mamba_simple").Mamba
    return layer(case.channels, d_state=case.states, d_conv=case.taps, expand=2)


def _heads(case: Case) -> int:
    if case.channels % HEAD:
        raise LeftOut(f"its heads have {HEAD} channels")
    return case.channels // HEAD


def channels_first(tensor: Tensor) -> Tensor:
    """(B, L, D) → (B, D, L) contiguous."""
    return tensor.detach().transpose(1, 2).contiguous()


def as_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


MAMBA_SSM = Peer("mamba-ssm", mamba_ssm_scan, package="mamba_ssm")
FLA = Peer(
    "flash-linear-attention",
    gated_linear_attention,
    package="fla",
    same_op=False,
    note="another op: gated linear attention, state as large, one decay for a head of 64 channels",
)
SDPA = Peer("SDPA", attention, same_op=False, note="another op: causal attention, heads of 64 channels, torch's own")
LOOP = Peer("loop", loop, note="the scan as a loop over positions in torch", devices=("cpu",))
CAUSAL_CONV1D = Peer("causal-conv1d", causal_conv1d_cuda, package="causal_conv1d")
FLA_CONVOLUTION = Peer("flash-linear-attention", fla_convolution, package="fla")
TORCH_CONVOLUTION = Peer("torch conv1d", torch_convolution)
MAMBA_SSM_LAYER = Peer("mamba-ssm", mamba_ssm_layer, package="mamba_ssm")
MAMBA_SSM_BOTH_WAYS = Peer(
    "mamba-ssm", mamba_ssm_both_ways, package="mamba_ssm", note="two layers, projections tied, the sequence flipped"
)
NO_GRAPH = Peer("no graph", decode_without_graph, note="the same steps without a CUDA graph", devices=("cuda",))
