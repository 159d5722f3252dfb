"""Our layers are torch's: same parameters, same numbers, on a CPU and on a GPU (`pytest -m gpu`)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssmbio.kernels.linear import linear
from ssmbio.layers import LayerNorm, Linear, RMSNorm

PAIRS = {
    "layer norm": (lambda: LayerNorm(24), lambda: nn.LayerNorm(24)),
    "narrow layer norm": (lambda: LayerNorm(24, narrow=True), lambda: nn.LayerNorm(24)),
    "rms norm": (lambda: RMSNorm(24), lambda: nn.RMSNorm(24, eps=1e-5)),
    "narrow rms norm": (lambda: RMSNorm(24, narrow=True), lambda: nn.RMSNorm(24, eps=1e-5)),
    "linear": (lambda: Linear(24, 40), lambda: nn.Linear(24, 40)),
    "linear without bias": (lambda: Linear(24, 40, bias=False), lambda: nn.Linear(24, 40, bias=False)),
}
DEVICES = ["cpu", "cpu, our way", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU also by our ops, as their torch path has them: arguments and wiring are those of a GPU."""
    if request.param == "cpu, our way":
        monkeypatch.setattr("ssmbio.layers.norms._fits", lambda x: x.numel() > 0)
        monkeypatch.setattr(
            Linear,
            "forward",
            lambda self, x: linear(x, self.weight, self.bias) if self.bias is not None else nn.Linear.forward(self, x),
        )
    return request.param.split(",")[0]


def of_both(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's, with the same weights."""
    torch.manual_seed(0)
    ours, theirs = (make().to(device) for make in PAIRS[name])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def results(layer: nn.Module, x: Tensor, autocast: bool) -> list[Tensor]:
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        y = layer(x)
    # All of one sign: sums that cancel would show the rounding of torch's own.
    weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(2)).to(y.device)
    return [y.detach(), *torch.autograd.grad((y.float() * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", PAIRS)
def test_output_and_gradients_are_those_of_torch(name: str, autocast: bool, device: str) -> None:
    ours, theirs = of_both(name, device)
    x = torch.randn(3, 50, 24, generator=torch.Generator().manual_seed(1)).to(device)
    for found, expected in zip(results(ours, x, autocast), results(theirs, x, autocast), strict=True):
        assert ((found.float() - expected.float()).norm() / expected.float().norm()).item() < (
            1e-2 if autocast else 1e-6
        )


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("name", [name for name in PAIRS if "norm" in name])
def test_a_residual_block_has_the_gradients_of_its_formula(name: str, device: str) -> None:
    ours, theirs = of_both(name, device)
    random = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(3, 50, 24, generator=random).to(device) for _ in range(2))
    found, expected = (leaf.detach().requires_grad_() for leaf in (x, x))
    residual, y = ours(found, beside=True)
    (residual + y.sin()).backward(dy)
    (expected + theirs(expected).sin()).backward(dy)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
    for parameter, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, right.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_a_narrow_norm_gives_the_dtype_of_autocast(make: type[nn.Module]) -> None:
    x = torch.randn(2, 24, device="cuda")
    for narrow, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        layer = make(24, narrow=narrow).cuda()
        assert layer(x).dtype == torch.float32
        with torch.autocast("cuda", torch.bfloat16):
            assert layer(x).dtype == dtype


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("name", PAIRS)
def test_nothing_in_gives_nothing_out(name: str, device: str) -> None:
    ours, theirs = of_both(name, device)
    x = torch.zeros(2, 0, 24, device=device)
    assert ours(x).shape == theirs(x).shape


@pytest.mark.gpu
def test_rows_past_two_to_the_31_elements_are_normed_as_they_are_alone() -> None:
    rows = 2**25 + 5
    x = torch.zeros(rows, 64, dtype=torch.bfloat16, device="cuda")
    x[-3:] = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(x)
    layer = LayerNorm(64).cuda()
    alone, among = x[-3:].clone().requires_grad_(), x.requires_grad_()
    expected, y = layer(alone), layer(among)
    assert torch.equal(y[-3:], expected)
    (right,) = torch.autograd.grad(expected.float().sin().sum(), alone)
    dy = torch.zeros_like(y)
    dy[-3:] = expected.detach().float().cos().to(dy)
    (found,) = torch.autograd.grad(y, among, dy)
    assert torch.equal(found[-3:], right)
    assert not found[:-3].any()


@pytest.mark.gpu
def test_a_bias_sums_rows_past_two_to_the_31_elements() -> None:
    rows = 2**25 + 5
    layer = Linear(1, 64).cuda().bfloat16()
    y = layer(torch.zeros(rows, 1, dtype=torch.bfloat16, device="cuda"))
    dy = torch.zeros_like(y)
    dy[-2:], dy[:1] = 1, 3
    (found,) = torch.autograd.grad(y, layer.bias, dy)
    assert torch.equal(found, torch.full_like(found, 5))
