"""HiPPO transitions: the identities their normal-plus-low-rank forms rest on, and the bases they compute."""

from __future__ import annotations

import pytest
import torch
from numpy.polynomial import laguerre, legendre

from ssmbio.mixers.hippo import HIPPO_NAMES, hippo, normal_plus_low_rank

NAMES = pytest.mark.parametrize("name", HIPPO_NAMES)
SIZES = pytest.mark.parametrize("n", [2, 4, 10, 64])
REAL_PART = {"legs": -0.5, "legt": 0.0, "lagt": 0.0, "fourier": 0.0}


@NAMES
@SIZES
def test_adding_the_low_rank_part_leaves_a_multiple_of_one_plus_a_skew_matrix(name, n):
    A, _, P = hippo(name, n)
    assert A.dtype == torch.float64
    assert P.shape == (2 if name == "legt" else 1, n)
    rest = A + P.T @ P - REAL_PART[name] * torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(rest, -rest.T, rtol=0, atol=1e-12 * n)


@NAMES
@SIZES
def test_the_form_is_unitarily_the_transition(name, n):
    A, B, _ = hippo(name, n)
    form = normal_plus_low_rank(name, n)
    U = torch.cat([form.basis, form.basis.conj()], 1)
    P, diagonal = torch.cat([form.P, form.P.conj()], 1), torch.cat([form.eigenvalues, form.eigenvalues.conj()])
    torch.testing.assert_close(U.mH @ U, torch.eye(n, dtype=U.dtype), rtol=0, atol=1e-11)
    torch.testing.assert_close(U @ (torch.diag(diagonal) - P.T @ P.conj()) @ U.mH, A + 0j, rtol=0, atol=1e-10)
    torch.testing.assert_close(U @ torch.cat([form.B, form.B.conj()]), B + 0j, rtol=0, atol=1e-11)
    assert form.eigenvalues.imag.min() >= 0
    assert form.B.imag.abs().max() == 0
    assert form.B.real.min() > 0


@NAMES
def test_the_continuous_system_loses_energy(name):
    """A + Aᵀ has no positive eigenvalue, so its discretization is a contraction."""
    A, _, _ = hippo(name, 32)
    assert torch.linalg.eigvalsh(A + A.T).max() <= 1e-9


def impulse_response(name: str, n: int, times: torch.Tensor) -> torch.Tensor:
    """exp(tA) B, (times, n)."""
    A, B, _ = hippo(name, n)
    return torch.linalg.matrix_exp(times[:, None, None] * A) @ B


def test_legs_remembers_through_legendre_polynomials_of_exponential_time():
    """exp(tA)B = √(2n+1) e^{-t} P_n(2e^{-t} - 1), up to the sign of odd n (How to Train Your HiPPO, corollary 3.3)."""
    times = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    found = impulse_response("legs", 6, times)
    for n in range(6):
        basis = torch.from_numpy(legendre.legval(1 - 2 * torch.exp(-times).numpy(), [0] * n + [1]))
        expected = (2 * n + 1) ** 0.5 * torch.exp(-times) * basis * (-1) ** n
        torch.testing.assert_close(found[:, n], expected, rtol=0, atol=1e-12)


def test_lagt_remembers_through_laguerre_functions():
    times = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    found = impulse_response("lagt", 6, times)
    for n in range(6):
        basis = torch.from_numpy(laguerre.lagval(times.numpy(), [0] * n + [1]))
        torch.testing.assert_close(found[:, n], torch.exp(-times / 2) * basis, rtol=0, atol=1e-12)


def test_legt_is_the_legendre_memory_unit_of_a_window_of_two():
    """Voelker, Kajić and Eliasmith (2019), equations 1 and 2, in an orthonormal basis; A / θ with θ = 2."""
    n = 12
    i = torch.arange(n, dtype=torch.float64)
    signs = (-1.0) ** (i[:, None] - i + 1)
    A = (2 * i[:, None] + 1) * torch.where(i[:, None] < i, -torch.ones_like(signs), signs)
    B = (2 * i + 1) * (-1.0) ** i
    scale = (-1.0) ** i / torch.sqrt(2 * i + 1)
    ours = hippo("legt", n)
    torch.testing.assert_close(scale[:, None] * A / scale / 2, ours.A)
    torch.testing.assert_close(scale * B / 2, ours.B)


@pytest.mark.parametrize(("name", "slack"), [("legt", 0.05), ("fourier", 0.15)])
def test_a_sliding_window_forgets_what_left_it(name, slack):
    """The energy of the impulse response lies inside [0, 2]."""
    times = torch.linspace(0, 6, 601, dtype=torch.float64)
    energy = impulse_response(name, 64, times).square().sum(1)
    assert energy[times > 2.2].sum() < slack * energy[times < 1.8].sum()


@pytest.mark.parametrize(("name", "n"), [("hermite", 4), ("legs", 3), ("legs", 0)])
def test_what_is_not_there_is_refused(name, n):
    with pytest.raises(ValueError, match="HiPPO"):
        hippo(name, n)
