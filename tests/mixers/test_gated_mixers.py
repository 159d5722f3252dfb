"""H3, Hyena and GSS against their papers' formulae, written out with plain convolutions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ssmbio.mixers import GSS, H3, Hyena
from ssmbio.mixers.hyena_filter import HyenaFilter
from ssmbio.mixers.long_filter import long_filter

B, L, D = 2, 37, 6


def convolved(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Σ_k taps_k x_{l-k}, one tap after the other: x (B, L, D), taps (D, K)."""
    shifted = [F.pad(x, (0, 0, k, 0))[:, : x.shape[1]] * taps[:, k] for k in range(min(taps.shape[1], x.shape[1]))]
    return torch.stack(shifted).sum(0)


def scanned(x: torch.Tensor, ssm, D: torch.Tensor) -> torch.Tensor:
    log_a, b, c = ssm.system()
    taps = 2 * (b * c * torch.exp(log_a * torch.arange(x.shape[1])[:, None, None])).real.sum(-1).T
    return convolved(x, taps) + D * x


def test_h3_is_its_equation():
    torch.manual_seed(0)
    layer, x = H3(D, d_shift=5, d_state=8).double(), torch.randn(B, L, D, dtype=torch.float64)
    q, k, v = layer.in_proj(x).chunk(3, -1)
    expected = layer.out_proj(q * scanned(convolved(k, layer.shift) * v, layer.ssm, layer.D))
    torch.testing.assert_close(layer(x)[0], expected)


def test_gss_is_its_equation():
    torch.manual_seed(0)
    layer, x = GSS(D, d_state=8, expand=3, shrink=2).double(), torch.randn(B, L, D, dtype=torch.float64)
    assert layer.D.shape == (3,)
    y = scanned(F.gelu(layer.to_ssm(x)), layer.ssm, layer.D)
    expected = layer.out_proj(F.gelu(layer.to_gate(x)) * layer.from_ssm(y))
    torch.testing.assert_close(layer(x)[0], expected)


@pytest.mark.parametrize("l_max", [10, 37, 200])
def test_hyena_of_order_two_is_its_equation(l_max):
    torch.manual_seed(0)
    layer, x = Hyena(D, l_max, width=8).double(), torch.randn(B, L, D, dtype=torch.float64)
    projected = layer.in_proj(x)
    first, second, v = (convolved(projected, layer.conv_weight.flip(1)) + layer.conv_bias).chunk(3, -1)
    taps, skip = layer.filter(l_max).chunk(2), layer.skip.chunk(2)
    v = first * (convolved(v, taps[0]) + skip[0] * v)
    v = second * (convolved(v, taps[1]) + skip[1] * v)
    torch.testing.assert_close(layer(x)[0], layer.out_proj(v))


def test_hyena_reaches_back_as_far_as_its_filters_and_no_further():
    torch.manual_seed(0)
    layer = Hyena(D, l_max=8, order=1, d_conv=2, width=8).double()
    x = torch.randn(1, 30, D, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    (gradient,) = torch.autograd.grad(y[:, 20].sum(), x)
    reach = 20 - 7 - 1  # seven places by the filter, one by the short convolution
    scale = gradient.abs().max()
    assert gradient[:, :reach].abs().max() < 1e-12 * scale
    assert gradient[:, reach].abs().max() > 1e-6 * scale


def test_filters_are_a_network_of_the_position_under_a_window():
    torch.manual_seed(0)
    made = HyenaFilter(4, l_max=101, features=5, width=8, sine=2.0)
    taps = made(101)
    assert taps.shape == (4, 101)
    # Shorter ones are their beginning: what depends on a length is fixed by l_max.
    torch.testing.assert_close(made(30), taps[:, :30])
    t = 17
    angles = 2 * math.pi * t / 101 * torch.tensor([1e-4, 1.0])
    hidden = torch.cat([torch.tensor([t / 100]), angles.cos(), -angles.sin()])
    for layer in made.layers:
        hidden = torch.sin(2.0 * layer(hidden))
    window = torch.exp(-torch.linspace(math.log(100) / 1.5, math.log(100) / 0.3, 4) * t / 100)
    torch.testing.assert_close(taps[:, t], made.last(hidden) * window)


def test_cached_inputs_continue_a_convolution_packed_or_not():
    torch.manual_seed(0)
    taps, D_skip = torch.randn(D, 9, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    lengths = [1, 4, 8, 20]
    histories = [torch.randn(1, 15, D, dtype=torch.float64) for _ in lengths]
    pieces = [torch.randn(1, n, D, dtype=torch.float64) for n in lengths]
    cache = torch.cat([history[:, -8:] for history in histories])
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    y, last = long_filter(torch.cat(pieces, 1), taps, 9, D_skip, cache, cu_seqlens)
    wholes = [torch.cat(pair, 1) for pair in zip(histories, pieces, strict=True)]
    expected = [(convolved(whole, taps) + D_skip * whole)[:, 15:] for whole in wholes]
    torch.testing.assert_close(y, torch.cat(expected, 1))
    assert torch.equal(last, torch.cat([whole[:, -8:] for whole in wholes]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hyena(4, l_max=0), "l_max must be at least 1"),
        (lambda: Hyena(4, order=0), "order must be at least 1"),
        (lambda: Hyena(4, d_conv=1), "d_conv must be from 2 to 8"),
        (lambda: Hyena(4, features=4), "features must be odd"),
        (lambda: H3(4, d_shift=0), "d_shift must be at least 1"),
        (lambda: GSS(4, shrink=0), "shrink must be at least 1"),
    ],
)
def test_bad_choices_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
