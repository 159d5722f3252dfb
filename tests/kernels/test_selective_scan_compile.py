"""The first forward pass has the kernels of the backward pass compiled beside its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

from op_cases import DEVICE, ScanCase, Tensors

from ssmbio.kernels import launches

CASES = (
    ScanCase(40, batch=1, channels=4, states=16, dtype=torch.bfloat16, initial=False),
    ScanCase(35, batch=1, channels=4, states=5, reverse=True, groups=2),
    ScanCase(33, batch=1, channels=4, states=40, bare=True, initial=False),
    ScanCase(40, channels=4, states=16, offsets=(0, 1, 5, 40), dtype=torch.float16),
)
ON_GPU = (
    ScanCase(5000, channels=72, states=16, dtype=torch.bfloat16, initial=False),
    ScanCase(3000, channels=144, states=40, reverse=True, groups=2),
    ScanCase(2048, channels=72, states=5, bare=True, initial=False),
    ScanCase(2048, channels=72, states=32),
)


def gradient_of_outputs(case: ScanCase, tensors: Tensors) -> Any:
    """The forward pass; what is returned runs the backward pass, with no gradient of the final state."""
    y, _ = case.outputs(tensors, "triton")
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    return lambda: torch.autograd.grad(y, leaves, tensors["dy"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_launches_of_the_backward_pass_are_those_expected(case: ScanCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, types, sizes and constants, all that a compilation depends on, as the interpreter meets them."""
    compiled: list[Any] = []
    monkeypatch.setattr(launches, "_is_known", lambda *_: False)
    monkeypatch.setattr(launches, "_compile", compiled.extend)
    backward = gradient_of_outputs(case, case.inputs())
    before = [described(*launch) for launch in compiled]
    compiled.clear()
    backward()
    assert len(compiled) >= 4
    for launch in compiled:
        assert described(*launch) in before


def described(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> Any:
    types = [x.dtype if isinstance(x, torch.Tensor) else x for x in arguments]
    return kernel.fn.__name__, grid, types, constants


@pytest.mark.gpu
@pytest.mark.parametrize("case", ON_GPU, ids=str)
def test_the_backward_pass_compiles_nothing_after_a_forward_pass(
    case: ScanCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    heard: list[str] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda *, src, **_: heard.append(src.name))
    backward = gradient_of_outputs(case, case.inputs(device=DEVICE))
    assert "selective_scan_bwd_kernel" in heard
    heard.clear()
    backward()
    assert heard == []
