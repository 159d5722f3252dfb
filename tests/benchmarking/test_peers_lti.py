"""The convolution by transforms computes what our scan and our long convolution do, on the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssmbio.backbones import Block
from ssmbio.benchmarking.cases import OPS
from ssmbio.benchmarking.peers import LeftOut, Peer
from ssmbio.benchmarking.peers_lti import FFT, FFT_OF_ITS_KERNEL
from ssmbio.benchmarking.workload import Case, Workload
from ssmbio.mixers import S4D


def case(op: str, dtype: torch.dtype = torch.float32, length: int = 37) -> Case:
    return Case(op, "cpu", dtype, 2, 6, length, OPS[op].states)


def both(peer: Peer, op: str) -> tuple[Workload, Workload]:
    torch.manual_seed(0)
    tensors = OPS[op].tensors(case(op))
    return OPS[op].build(case(op), tensors), peer.workload(case(op), tensors)


def first(rows: Tensor) -> Tensor:
    return rows.detach().transpose(1, 2)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_scan_is_a_convolution_with_its_response_to_an_impulse():
    """Output and the gradient of u are ours; the kernel's gradient is that of D at its first tap."""
    ours, peer = both(FFT_OF_ITS_KERNEL, "lti_scan")
    close(peer.call().detach(), first(ours.call()))
    du, _, _, _, dD = ours.forward_backward()
    du_, dkernel = peer.forward_backward()
    close(du_, first(du))
    close(dkernel[:, 0], dD)


def test_the_long_convolution_is_ours():
    ours, peer = both(FFT, "fft_convolution")
    close(peer.call().detach(), first(ours.call()))
    (du, dkernel, dD), (du_, dkernel_, dD_) = ours.forward_backward(), peer.forward_backward()
    close(du_, first(du))
    close(dkernel_, dkernel)
    close(dD_, dD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("op", "peer"), [("lti_scan", FFT_OF_ITS_KERNEL), ("fft_convolution", FFT)])
def test_the_peer_computes_in_float32_whatever_ours_does(op, peer, dtype):
    tensors = OPS[op].tensors(case(op, dtype))
    assert OPS[op].build(case(op, dtype), tensors).call().dtype == dtype
    work = peer.workload(case(op, dtype), tensors)
    assert work.call().dtype == work.dy.dtype == torch.float32


def test_transforms_of_many_gibibytes_are_left_out():
    long = Case("lti_scan", "cuda", torch.bfloat16, 1, 256, 2**22, 32)
    with pytest.raises(LeftOut, match="points"):
        FFT_OF_ITS_KERNEL.workload(long, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_block_keeps_its_residual_in_float32_and_has_gradients_of_everything(dtype):
    tensors = OPS["s4d"].tensors(case("s4d", dtype))
    work = OPS["s4d"].build(case("s4d", dtype), tensors)
    assert work.call().dtype == torch.float32
    assert len(work.inputs) == 1 + len(list(Block(S4D(6), 0.0).parameters()))
    for given, gradient in zip(work.inputs, work.forward_backward(), strict=True):
        assert gradient.shape == given.shape
        assert gradient.abs().sum() > 0
    # Without its last layer the mixer adds nothing to the residual stream.
    with torch.no_grad():
        for given in work.inputs:
            if given.shape in ((12, 6), (12,)):
                given.zero_()
    torch.testing.assert_close(work.call(), tensors["x"])


def test_bfloat16_rounds_the_products_of_the_block():
    torch.manual_seed(1)
    tensors = OPS["s4d"].tensors(case("s4d"))
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(2)
        outputs.append(OPS["s4d"].build(case("s4d", dtype), tensors).call())
    error = (outputs[0] - outputs[1]).abs().max()
    assert 1e-5 < error < 0.1
