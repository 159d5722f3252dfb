"""Codes are drawn with exactly the probabilities that the settings leave; in Triton the same codes as in torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssmbio.kernels.code_draw import draw_codes
from ssmbio.kernels.code_draw.reference import units

LEVELS = 256
ALMOST_ONE = 1 - 2.0**-53
BACKENDS = ["torch", "triton"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = [
    (1, 256, 1, 0), (0.7, 256, 1, 0), (1.6, 256, 1, 0), (1, 1, 1, 0), (1, 20, 1, 0), (1, 256, 0.8, 0),
    (1, 256, 1e-17, 0), (1, 256, 1, 0.05), (1, 256, 1, 1), (0.9, 30, 0.95, 0.01), (1.3, 5, 0.5, 0.2),
]  # fmt: skip
Settings = tuple[float, int, float, float]


def random_logits(rows: int = 40, levels: int = LEVELS) -> Tensor:
    return 3 * torch.randn(rows, levels, generator=torch.Generator().manual_seed(0))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_definition(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Probabilities (V,) of one row as Hugging Face's warpers leave them, one after another."""
    probabilities = (logits.double() / temperature).softmax(0)
    probabilities[probabilities < probabilities.sort().values[-top_k]] = 0
    probabilities /= probabilities.sum()
    if top_p < 1:
        order = probabilities.argsort(descending=True).tolist()
        together, kept = 0.0, []
        while together < top_p:
            kept.append(order.pop(0))
            together += float(probabilities[kept[-1]])
        probabilities[order] = 0
    probabilities[probabilities < min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize("settings", SETTINGS)
def test_probabilities_are_those_that_the_definitions_leave(settings: Settings) -> None:
    logits = random_logits()
    counts = units(logits.double(), *settings)
    expected = torch.stack([by_definition(row, *settings) for row in logits])
    assert torch.equal(counts > 0, expected > 2.0**-46)
    torch.testing.assert_close(counts.double() / counts.sum(1, keepdim=True), expected, rtol=0, atol=1e-12)


def test_the_settings_act_in_their_order() -> None:
    """0.5, 0.3 and 0.2: after top_k=2 the first is 0.625 of the rest, more than top_p; and at T=½ it is 0.66 of all."""
    logits = numbers(0.5, 0.3, 0.2).log()[None]
    assert (units(logits, 1, 3, 0.6, 0) > 0).tolist() == [[True, True, False]]
    assert (units(logits, 1, 2, 0.6, 0) > 0).tolist() == [[True, False, False]]
    assert (units(logits, 0.5, 3, 0.6, 0) > 0).tolist() == [[True, False, False]]


@pytest.mark.parametrize("settings", [(1, 256, 1, 0), (0.8, 40, 0.9, 0.02)])
def test_evenly_spread_numbers_draw_codes_as_often_as_they_are_likely(settings: Settings) -> None:
    count, (logits,) = 20_000, random_logits(1)
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    codes, _ = draw_codes(logits.expand(count, -1), uniforms, *settings)
    often = torch.bincount(codes, minlength=LEVELS) / count
    assert (often - by_definition(logits, *settings)).abs().max() <= 1.01 / count
    assert (codes.diff() >= 0).all(), "a larger number draws a code that is no lower"


@pytest.mark.parametrize("levels", [256, 200, 5])
@pytest.mark.parametrize("settings", [*SETTINGS, (0, 256, 1, 0)])
def test_triton_draws_the_codes_that_torch_draws(settings: Settings, levels: int) -> None:
    """Also where many are equally likely, at every edge, and with rows that are not contiguous."""
    logits = random_logits(6, 2 * levels)[:, ::2].contiguous() if levels == 5 else random_logits(6, 2 * levels)[:, ::2]
    logits[1:3] = logits[1:3].round()
    logits[3, : levels // 2] = -math.inf
    logits[4] = 0
    uniforms = torch.linspace(0, ALMOST_ONE, 12, dtype=torch.float64)[::2]
    expected, bits = draw_codes(logits, uniforms, *settings, backend="torch")
    found = draw_codes(logits.to(DEVICE), uniforms.to(DEVICE), *settings, backend="triton")
    assert torch.equal(found[0].cpu(), expected)
    torch.testing.assert_close(found[1].cpu(), bits, rtol=1e-12, atol=1e-12)
    assert (found[0].dtype, found[1].dtype) == (torch.int64, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_zero_takes_the_first_of_the_likeliest(backend: str) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 2.9]], device=DEVICE)
    codes, _ = draw_codes(logits, numbers(0.9, 0.9).to(DEVICE), temperature=0, backend=backend)
    assert codes.tolist() == [1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("uniform", [0.0, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("settings", [(1, None, 1, 0), (1, 3, 0.99, 1e-3)])
def test_a_code_of_probability_zero_is_never_drawn(backend: str, uniform: float, settings: Settings) -> None:
    """Between, before and behind the codes that can be; and with many that are all but impossible."""
    logits = torch.full((3, LEVELS), -math.inf)
    logits[0, 17], logits[1, [3, 250]] = -1000.0, torch.tensor([5.0, 5.0])
    logits[2] = torch.linspace(-80, 0, LEVELS)
    logits[2, ::2] = -math.inf
    codes, bits = draw_codes(logits.to(DEVICE), numbers(*[uniform] * 3).to(DEVICE), *settings, backend=backend)
    assert torch.isfinite(logits[torch.arange(3), codes.cpu()]).all()
    assert codes[:2].tolist() == [17, 3 if uniform < 0.5 else 250]
    assert bits[:2].tolist() == pytest.approx([0, 1])


def test_every_possible_code_can_be_drawn_from_flat_logits() -> None:
    uniforms, flat = torch.arange(LEVELS, dtype=torch.float64) / LEVELS, torch.zeros(LEVELS, LEVELS)
    assert torch.equal(draw_codes(flat, uniforms)[0], torch.arange(LEVELS))
    assert draw_codes(flat[:1], numbers(ALMOST_ONE))[0].item() == LEVELS - 1


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    logits, uniforms = random_logits(100), torch.rand(100, dtype=torch.float64)
    together, _ = draw_codes(logits, uniforms, 1.1, 100, 0.97, 1e-4)
    alone = [draw_codes(logits[i : i + 1], uniforms[i : i + 1], 1.1, 100, 0.97, 1e-4)[0].item() for i in range(100)]
    assert together.tolist() == alone


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_are_not_numbers_give_a_code_and_no_likelihood(backend: str) -> None:
    logits = torch.full((1, 4), math.nan, device=DEVICE)
    code, bits = draw_codes(logits, numbers(0.5).to(DEVICE), backend=backend)
    assert 0 <= code.item() < 4
    assert math.isnan(bits.item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_are_of_the_whole_distribution_whatever_is_drawn_from(backend: str) -> None:
    logits = (numbers(0.5, 0.25, 0.125, 0.125).log() + 3).float().expand(4, -1).to(DEVICE)
    codes, bits = draw_codes(logits, numbers(0.1, 0.5, 0.8, 0.95).to(DEVICE), temperature=2, backend=backend)
    assert codes.tolist() == [0, 1, 2, 3]
    assert bits.tolist() == pytest.approx([1, 2, 3, 3], abs=1e-6)
    assert not draw_codes(logits.clone().requires_grad_(), numbers(0, 0, 0, 0).to(DEVICE))[1].requires_grad


@pytest.mark.parametrize(
    ("logits", "uniforms", "error", "message"),
    [
        (torch.zeros(2, 257), torch.zeros(2), ValueError, r"logits must be \(B, V\), V at most 256; got \(2, 257\)"),
        (torch.zeros(4), torch.zeros(4), ValueError, r"logits must be \(B, V\)"),
        (torch.zeros(2, 4), torch.zeros(3), ValueError, r"uniforms must be \(B,\) = \(2,\); got \(3,\)"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2), TypeError, "logits must be floating; got torch.int64"),
    ],
)
def test_arguments_of_wrong_shape_or_type_are_named(logits, uniforms, error, message: str) -> None:
    with pytest.raises(error, match=message):
        draw_codes(logits, uniforms)
