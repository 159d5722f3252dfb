"""Discrete systems against matrix exponentials and rational functions in float64, and their digits in float32."""

from __future__ import annotations

import pytest
import torch

from ssmbio.mixers.discretization import bilinear, expm1, log_ratio, zero_order_hold

A = torch.tensor([-0.5 + 3.1j, -0.01 + 200j, -5.0 + 0j, -30.0 + 1j], dtype=torch.complex128)
B = torch.tensor([1.0 + 0j, 0.3 - 2j, 1j, -0.7 + 0j], dtype=torch.complex128)
DT = torch.tensor([1e-4, 1e-2, 0.1], dtype=torch.float64)[:, None]


def test_zero_order_hold_is_the_exponential_of_the_system_with_its_input():
    """exp(Δ [[A, B], [0, 0]]) = [[ā, b], [0, 1]] (a state of its own for the held input)."""
    log_a, b = zero_order_hold(A, B, DT)
    joint = torch.zeros(*log_a.shape, 2, 2, dtype=A.dtype)
    joint[..., 0, 0], joint[..., 0, 1] = A, B
    expected = torch.linalg.matrix_exp(DT[..., None, None] * joint)
    torch.testing.assert_close(torch.exp(log_a), expected[..., 0, 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b, expected[..., 0, 1], rtol=1e-10, atol=1e-12)


def test_bilinear_is_the_rational_function():
    log_a, b = bilinear(A, B, DT)
    torch.testing.assert_close(torch.exp(log_a), (1 + DT * A / 2) / (1 - DT * A / 2), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(b, DT * B / (1 - DT * A / 2), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("discretize", [zero_order_hold, bilinear])
def test_small_steps_keep_their_digits_in_float32(discretize):
    """Over a million steps, |ā|^L is wrong by L times the error of log |ā|."""
    dt = torch.tensor([1e-5], dtype=torch.float32)
    for wide, narrow in zip(
        discretize(A, B, dt.double()), discretize(A.to(torch.complex64), B.to(torch.complex64), dt), strict=True
    ):
        torch.testing.assert_close(narrow.real.double(), wide.real, rtol=2e-6, atol=0)
        torch.testing.assert_close(narrow.imag.double(), wide.imag, rtol=2e-6, atol=1e-12)


def test_gradients_are_those_of_the_plain_formulae():
    z = torch.randn(20, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    z = torch.complex(-z.real.abs() - 0.01, 2 * z.imag).requires_grad_()
    for ours, plain in ((expm1, lambda z: torch.exp(z) - 1), (log_ratio, lambda z: torch.log((1 + z) / (1 - z)))):
        (found,) = torch.autograd.grad(ours(z).abs().sum(), z)
        # The logarithm's branch may differ by 2πi, which no exponential sees.
        one, other = torch.exp(ours(z)), torch.exp(plain(z))
        torch.testing.assert_close(one, other)
        weight = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (found,) = torch.autograd.grad((torch.exp(ours(z)).real * weight).sum(), z)
        (expected,) = torch.autograd.grad((torch.exp(plain(z)).real * weight).sum(), z)
        torch.testing.assert_close(found, expected)


def test_where_the_bilinear_decay_is_zero_nothing_is_infinite():
    """A real A with ΔA = -2 gives ā = 0, whose logarithm a scan could not multiply by 0."""
    z = torch.tensor([-1.0 + 0j, -1.0 + 1e-3j, -0.999 + 0j], dtype=torch.complex64, requires_grad=True)
    log_a = log_ratio(z)
    assert torch.isfinite(torch.view_as_real(log_a)).all()
    assert torch.exp(log_a[0]).abs() < 1e-6
    torch.testing.assert_close(torch.exp(log_a), ((1 + z) / (1 - z)), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(log_a.abs().sum(), z)
    assert torch.isfinite(torch.view_as_real(gradient)).all()
