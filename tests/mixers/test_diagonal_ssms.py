"""S4D, DSS and S5 against their papers' formulae in float64, and their scans against their steps."""

from __future__ import annotations

import math

import pytest
import torch

from ssmbio.mixers import DSS, S4D, S5
from ssmbio.mixers.dss import DSS_SCALES, DiagonalSoftmaxSSM
from ssmbio.mixers.s4d import S4D_INITS, DiagonalSSM, s4d_eigenvalues
from ssmbio.mixers.s5 import SharedSSM

LENGTHS = [1, 2, 3, 63, 64, 65, 1000, 16384]


def impulse_response(ssm, length: int, channels: int) -> torch.Tensor:
    """(D, L)"""
    u = torch.zeros(1, length, channels, dtype=torch.float64)
    u[:, 0] = 1
    with torch.no_grad():
        return ssm(u)[0][0].T


def powers(log_a: torch.Tensor, length: int) -> torch.Tensor:
    return torch.exp(log_a[..., None] * torch.arange(length))


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", S4D_INITS)
@pytest.mark.parametrize("length", LENGTHS)
def test_s4d_kernel_is_the_dense_one(init, discretization, length):
    """K_l = C Ā^l B̄ of the whole diagonal system, by the definitions of the discretizations (S4D, section 3)."""
    torch.manual_seed(0)
    ssm = DiagonalSSM(2, 64, init, discretization).double()
    with torch.no_grad():
        A, B, C, dt = ssm.A(), torch.view_as_complex(ssm.B), torch.view_as_complex(ssm.C), ssm.dt()[:, None]
        if discretization == "zoh":
            a, b = torch.exp(dt * A), (torch.exp(dt * A) - 1) / A * B
        else:
            a, b = (1 + dt * A / 2) / (1 - dt * A / 2), dt / (1 - dt * A / 2) * B
        steps = torch.arange(length)
        expected = 2 * torch.einsum("dn,dnl->dl", C * b, a[..., None] ** steps).real
    torch.testing.assert_close(impulse_response(ssm, length, 2), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [DiagonalSSM, DiagonalSoftmaxSSM, SharedSSM])
@pytest.mark.parametrize("length", LENGTHS)
def test_scan_equals_steps_with_states_in_and_out(make, length):
    torch.manual_seed(0)
    ssm = make(2, 8).double()
    with torch.no_grad():
        u, D = torch.randn(2, length, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
        before = ssm.initial_state(2)
        before = before + torch.randn(before.shape, dtype=before.dtype)
        whole, after = ssm(u, D, before)
        state, outputs = before, []
        for l in range(length):
            y, state = ssm.step(u[:, l], D, state)
            outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-9)


def test_s4d_eigenvalues_are_those_of_the_paper():
    n = torch.arange(32, dtype=torch.float64)
    for init in ("lin", "inv", "legs"):
        torch.testing.assert_close(s4d_eigenvalues(init, 64).real, torch.full_like(n, -0.5), rtol=0, atol=1e-12)
    torch.testing.assert_close(s4d_eigenvalues("lin", 64).imag, math.pi * n)
    torch.testing.assert_close(s4d_eigenvalues("inv", 64).imag, 64 / math.pi * (64 / (2 * n + 1) - 1))
    assert torch.equal(s4d_eigenvalues("real", 64), -(n + 1) + 0j)
    # Inv is what the spectrum of LegS tends to as N grows (S4D, conjecture 5).
    for size, distance in ((64, 0.1), (512, 0.015)):
        inv, legs = s4d_eigenvalues("inv", size).imag, s4d_eigenvalues("legs", size).imag.flip(0)
        torch.testing.assert_close(inv[:4], legs[:4], rtol=distance, atol=0)


def test_every_start_but_real_oscillates_and_none_grows():
    for init in S4D_INITS:
        eigenvalues = s4d_eigenvalues(init, 16)
        assert eigenvalues.real.max() < 0
        assert bool((eigenvalues.imag == 0).all()) == (init == "real")


@pytest.mark.parametrize("scale", DSS_SCALES)
def test_dss_kernels_are_those_of_the_paper(scale):
    """K = W Λ⁻¹ softmax(P), or W ((exp(ΔΛ) - 1) / Λ) exp(P), with P_nl = l Δ λ_n; twice the real part of each pair."""
    torch.manual_seed(0)
    ssm, length = DiagonalSoftmaxSSM(3, 16, scale, l_max=300).double(), 300
    with torch.no_grad():
        A, W, dt = ssm.A(), torch.view_as_complex(ssm.W), ssm.dt()[:, None]
        rows = powers(dt * A, length)
        weights = W / A / rows.sum(-1) if scale == "softmax" else W * (torch.exp(dt * A) - 1) / A
        expected = 2 * torch.einsum("dn,dnl->dl", weights, rows).real
    # The paper's reciprocal is regularized by 1e-7.
    torch.testing.assert_close(impulse_response(ssm, length, 3), expected, rtol=0, atol=1e-5 * expected.abs().max())


def test_the_softmax_of_dss_is_over_l_max_whatever_the_length():
    torch.manual_seed(0)
    ssm = DiagonalSoftmaxSSM(3, 16, l_max=50).double()
    long = impulse_response(ssm, 400, 3)
    torch.testing.assert_close(impulse_response(ssm, 20, 3), long[:, :20])
    ssm.l_max = 51
    assert (impulse_response(ssm, 20, 3) - long[:, :20]).abs().max() > 1e-4


def test_s5_is_one_system_of_many_inputs_and_outputs():
    """h_l = diag(ā) h_{l-1} + B̄ u_l, y_l = 2 Re(C h_l) + D u_l, a position at a time."""
    torch.manual_seed(0)
    ssm = SharedSSM(5, 12, blocks=2).double()
    u, D = torch.randn(2, 40, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        A, B, C = ssm.A(), torch.view_as_complex(ssm.B), torch.view_as_complex(ssm.C)
        a = torch.exp(ssm.dt() * A)
        b = ((a - 1) / A)[:, None] * B
        h, expected = torch.zeros(2, 6, dtype=torch.complex128), []
        for l in range(40):
            h = a * h + u[:, l].to(b.dtype) @ b.T
            expected.append(2 * (h @ C.T).real + D * u[:, l])
        found, state = ssm(u, D)
    torch.testing.assert_close(found, torch.stack(expected, 1))
    torch.testing.assert_close(state, h)
    assert ssm.dt().shape == (6,)
    one = SharedSSM(5, 6).double().A()
    torch.testing.assert_close(A, one.repeat(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S4D(4, init="hippo"), "init must be one of lin, inv, legs, real; got 'hippo'"),
        (lambda: S4D(4, discretization="euler"), "discretization must be one of zoh, bilinear; got 'euler'"),
        (lambda: S4D(4, d_state=3), "d_state must be even"),
        (lambda: S4D(4, dt_min=0.2), "dt_min and dt_max must be"),
        (lambda: S4D(4, rate=0), "rate must be positive"),
        (lambda: DSS(4, scale="linear"), "scale must be one of softmax, exp"),
        (lambda: DSS(4, l_max=0), "l_max must be at least 1"),
        (lambda: S5(4, d_state=8, blocks=3), "blocks must divide d_state"),
    ],
)
def test_bad_choices_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
