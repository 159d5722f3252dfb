"""Peers get our numbers in their layout, compute what they are said to, and are left out where they must be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssmbio.benchmarking import peers
from ssmbio.benchmarking.cases import OPS
from ssmbio.benchmarking.peers import LeftOut, Peer
from ssmbio.benchmarking.workload import Case, Workload

SMALL = {
    name: Case(name, "cpu", torch.float32, 2, 64, 7, OPS[name].states, OPS[name].taps)
    for name in ("selective_scan", "causal_conv1d", "mamba", "bimamba")
}

SCAN = """
import torch
seen = []
def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    assert delta_softplus
    seen.append({name: (tuple(value.shape), value.is_contiguous()) for name, value in
        dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias).items()})
    from ssmbio.kernels import selective_scan
    u, delta, B, C, z = (value.transpose(1, 2) for value in (u, delta, B, C, z))
    y = selective_scan(u, delta, A, B, C, D, z, delta_bias, True, backend="reference")
    return y.transpose(1, 2)
"""
LAYER = """
import torch
class Mamba(torch.nn.Module):
    def __init__(self, d_model, d_state, d_conv, expand):
        super().__init__()
        self.in_proj = torch.nn.Linear(d_model, expand * d_model)
        self.own = torch.nn.Parameter(torch.randn(expand * d_model))
        self.out_proj = torch.nn.Linear(expand * d_model, d_model)
    def forward(self, x):
        return self.out_proj(self.own * self.in_proj(x).cumsum(1))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a package of one module on the path; both are gone again afterwards."""
    made: list[str] = []

    def make(module: str, code: str) -> None:
        *folders, name = module.split(".")
        made.append(folders[0])
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == folders[0]]:
            monkeypatch.delitem(sys.modules, loaded)
        folder = Path(tmp_path)
        for part in folders:
            folder = folder / part
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield make
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] in made]:
        del sys.modules[loaded]


def results(work: Workload) -> tuple[Tensor, ...]:
    """The output and the gradients."""
    return (work.call().detach(), *work.forward_backward())  # type: ignore[misc]


def ours_and(peer: Peer, op: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    case = SMALL[op]
    tensors = OPS[op].tensors(case)
    return results(OPS[op].build(case, tensors)), results(peer.workload(case, tensors))


def test_the_loop_is_the_scan():
    for one, other in zip(*ours_and(peers.LOOP, "selective_scan"), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_torchs_convolution_is_ours_with_channels_first():
    (y, dx, dw, db), (y_, dx_, dw_, db_) = ours_and(peers.TORCH_CONVOLUTION, "causal_conv1d")
    expected = (y.transpose(1, 2), dx.transpose(1, 2), dw.unsqueeze(1), db)
    for one, other in zip(expected, (y_, dx_, dw_, db_), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_mamba_ssm_gets_channels_first_and_contiguous(package):
    package("mamba_ssm.ops.selective_scan_interface", SCAN)
    ours, theirs = ours_and(peers.MAMBA_SSM, "selective_scan")
    module = sys.modules["mamba_ssm.ops.selective_scan_interface"]
    rows, mixing, vector = ((2, 64, 7), True), ((2, 16, 7), True), ((64,), True)
    expected = {"u": rows, "delta": rows, "z": rows, "B": mixing, "C": mixing, "D": vector, "delta_bias": vector}
    assert module.seen[0] == expected | {"A": ((64, 16), True)}
    # The same numbers: its output and the gradients of u, delta, A, B, C, D, z, bias are ours, transposed.
    order = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    for at, name in zip(order, ("y", "u", "delta", "A", "B", "C", "D", "z", "bias"), strict=True):
        other = theirs[at].transpose(1, 2) if name in ("y", "u", "delta", "B", "C", "z") else theirs[at]
        torch.testing.assert_close(other, ours[at], rtol=1e-4, atol=1e-4, msg=name)


def test_both_ways_shares_the_projections_and_flips(package):
    """f(flip x) = flip f(x) with the directions' own weights exchanged; tied projections count once."""
    package("mamba_ssm.modules.mamba_simple", LAYER)
    case = SMALL["bimamba"]
    tensors = OPS["bimamba"].tensors(case)
    work = peers.MAMBA_SSM_BOTH_WAYS.workload(case, tensors)
    assert [tuple(one.shape) for one in work.inputs[1:]].count((64, 128)) == 1
    own = [one for one in work.inputs if one.shape == (128,) and one.std() > 0.5]
    y = work.call().detach()
    with torch.no_grad():
        swapped = own[0].clone()
        own[0].copy_(own[1])
        own[1].copy_(swapped)
        tensors["x"].copy_(tensors["x"].flip(1).clone())
    torch.testing.assert_close(work.call().detach(), y.flip(1), rtol=1e-4, atol=1e-4)


def test_attention_is_left_out_where_it_would_take_minutes():
    case = Case("selective_scan", "cuda", torch.bfloat16, 1, 512, 2**18, 16)
    with pytest.raises(LeftOut, match="quadratic"):
        peers.SDPA.workload(case, {})


def test_others_are_not_run_where_their_offsets_overflow():
    case = Case("selective_scan", "cuda", torch.bfloat16, 1, 512, 2**22, 16)
    with pytest.raises(LeftOut, match="2\\^31"):
        peers.MAMBA_SSM.workload(case, {})
    shorter = Case("selective_scan", "cuda", torch.bfloat16, 1, 512, 2**21, 16)
    with pytest.raises((ImportError, KeyError)):  # it is tried: the package or the tensors are what is missing
        peers.MAMBA_SSM.workload(shorter, {})


def test_attention_sees_nothing_of_what_is_to_come():
    """It is causal, as the scan is: the first outputs do not depend on the last inputs."""
    case = SMALL["selective_scan"]
    tensors = OPS["selective_scan"].tensors(case)
    first = peers.SDPA.workload(case, tensors).call()
    with torch.no_grad():
        tensors["z"][:, -1] += 1
    second = peers.SDPA.workload(case, tensors).call()
    torch.testing.assert_close(first[:, :, :-1], second[:, :, :-1])
    assert not torch.allclose(first[:, :, -1], second[:, :, -1])
