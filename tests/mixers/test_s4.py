"""S4 against dense float64 matrices, its convolution against its recurrence, and what it starts from."""

from __future__ import annotations

import pytest
import torch

from ssmbio.mixers import S4
from ssmbio.mixers.hippo import HIPPO_NAMES, hippo, normal_plus_low_rank
from ssmbio.mixers.nplr_cauchy import nodes
from ssmbio.mixers.s4 import S4_KERNELS, LowRankSSM

LENGTHS = [1, 2, 3, 63, 64, 65, 1000, 16384]


def make(channels: int = 2, d_state: int = 16, **options) -> LowRankSSM:
    torch.manual_seed(0)
    ssm = LowRankSSM(channels, d_state, **options).double()
    with torch.no_grad():
        for parameter in ssm.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return ssm


def dense_system(ssm: LowRankSSM) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ā (D, 2N, 2N), B̄ and C (D, 2N), by the definitions, from the whole conjugate-symmetric system."""
    with torch.no_grad():
        whole = [torch.view_as_complex(part) for part in (ssm.B, ssm.C)]
        B, C = (torch.cat([part, part.conj()], -1).expand(ssm.d_model, -1) for part in whole)
        P = torch.view_as_complex(ssm.P)
        P = torch.cat([P, P.conj()], -1).expand(-1, ssm.d_model, -1)
        eigenvalues = torch.cat([ssm.A(), ssm.A().conj()], -1).expand(ssm.d_model, -1)
        A = torch.diag_embed(eigenvalues) - torch.einsum("rdn,rdm->dnm", P, P.conj())
        half = ssm.dt()[:, None, None] / 2 * A
        one = torch.eye(A.shape[-1], dtype=A.dtype)
        inverse = torch.linalg.inv(one - half)
        return inverse @ (one + half), (inverse @ (ssm.dt()[:, None] * B)[..., None])[..., 0], C


def dense_kernel(A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, length: int) -> torch.Tensor:
    """C Ā^l B̄, one l after the other."""
    taps, x = [], B
    for _ in range(length):
        taps.append((C * x).sum(-1))
        x = (A @ x[..., None])[..., 0]
    return torch.stack(taps, 1)


@pytest.mark.parametrize("kernel", S4_KERNELS)
@pytest.mark.parametrize(
    "options", [{"init": init} for init in HIPPO_NAMES] + [{"shared": True, "rate": 3.0}, {"d_state": 64}], ids=str
)
@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 1000])
def test_kernel_equals_powers_of_the_dense_matrix(kernel, options, length):
    ssm = make(kernel=kernel, **options)
    expected = dense_kernel(*dense_system(ssm), length)
    assert expected.imag.abs().max() < 1e-12
    found = ssm.kernel(length)
    assert found.shape == (2, length)
    torch.testing.assert_close(found, expected.real, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", S4_KERNELS)
def test_long_kernel_equals_powers_of_the_dense_matrix(kernel):
    """Slow enough that taps at the end are as large as those at the start; several blocks of nodes."""
    ssm = make(1, 64, kernel=kernel, dt_min=1e-5, dt_max=1e-5)
    expected = dense_kernel(*dense_system(ssm), 16384).real
    assert expected[:, -100:].abs().max() > 0.05 * expected.abs().max()
    torch.testing.assert_close(ssm.kernel(16384), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("init", HIPPO_NAMES)
def test_it_starts_as_the_hippo_system_itself(init):
    """With the real, dense A and B of the transition and any real C; nothing diagonal in it."""
    n, length = 32, 200
    torch.manual_seed(0)
    ssm = LowRankSSM(3, n, init).double()
    form, (A, B, _) = normal_plus_low_rank(init, n), hippo(init, n)
    row = torch.randn(3, n, dtype=torch.float64)
    with torch.no_grad():
        # Not through float32, and on the axis where the transition is: the module keeps a little to the left of it.
        ssm.A.log_decay.copy_((-form.eigenvalues.real).clamp(min=1e-30).log().expand(3, -1))
        ssm.A.frequency.copy_(form.eigenvalues.imag.expand(3, -1))
        ssm.B.copy_(torch.view_as_real(form.B).expand(3, -1, -1))
        ssm.P.copy_(torch.view_as_real(form.P)[:, None].expand(-1, 3, -1, -1))
        ssm.C.copy_(torch.view_as_real(row.to(form.basis.dtype) @ form.basis))
        half = ssm.dt()[:, None, None] / 2 * A
        one = torch.eye(n, dtype=torch.float64)
        inverse = torch.linalg.inv(one - half)
        expected = dense_kernel(inverse @ (one + half), ssm.dt()[:, None] * (inverse @ B), row, length)
        torch.testing.assert_close(ssm.kernel(length), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_convolution_equals_recurrence_with_states_in_and_out(length):
    ssm = make(2, 64 if length > 1000 else 8)
    with torch.no_grad():
        u, before = torch.randn(2, length, 2, dtype=torch.float64), ssm.initial_state(2)
        before = before + torch.randn(2, 2, ssm.pairs, dtype=torch.complex128)
        D = torch.randn(2, dtype=torch.float64)
        whole, after = ssm(u, D, before)
        state, outputs = before, []
        for l in range(length):
            y, state = ssm.step(u[:, l], D, state)
            outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-9)


def test_float32_keeps_its_digits_over_a_long_sequence():
    torch.manual_seed(0)
    narrow = LowRankSSM(4, 64)
    wide = LowRankSSM(4, 64).double()
    wide.load_state_dict(narrow.state_dict())
    u = torch.randn(1, 16384, 4)
    with torch.no_grad():
        (y, state), (y_wide, state_wide) = narrow(u), wide(u.double())
    assert (y - y_wide).abs().max() < 1e-5 * y_wide.abs().max()
    assert (state - state_wide).abs().max() < 1e-5 * state_wide.abs().max()


def test_the_recurrence_never_grows():
    """Λ - P P* is a contraction in any state, however P has been trained; Λ + P Q* is not."""
    ssm = make(4, 16, dt_min=0.01, dt_max=1.0)
    with torch.no_grad():
        ssm.P.mul_(5 * torch.randn_like(ssm.P))
        A = ssm.system().powers(1)[0]
    assert torch.linalg.matrix_norm(A, ord=2).max() <= 1 + 1e-12


def test_gradients_of_both_kernels_agree():
    found = []
    for kernel in S4_KERNELS:
        ssm = make(3, 8, kernel=kernel, init="legt")
        weight = torch.randn(3, 150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found.append(torch.autograd.grad((ssm.kernel(150) * weight).sum(), list(ssm.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_nodes_are_even_and_few_more_than_positions():
    for length in [*range(1, 300), 16383, 16385, 2**20, 2**20 + 1]:
        assert nodes(length) % 2 == 0
        assert length <= nodes(length) <= max(length + 1, 1.125 * length)


def test_steps_follow_the_parameters_and_the_rate():
    """What a step keeps from the last one is dropped as soon as anything it was made of changes."""
    layer = S4(3, d_state=4)
    x, state = torch.randn(2, 3), layer.initial_state(2) + 1

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            return [layer.step(x, state)[0], layer.step(x, state)[0]]

    first = outputs()
    with torch.no_grad():
        layer.ssm.C.mul_(2)
    second = outputs()
    layer.ssm.dt.rate = 2.0
    third = outputs()
    layer.load_state_dict({name: value + 0.1 for name, value in layer.state_dict().items()})
    fourth = outputs()
    for one, again in (first, second, third, fourth):
        assert torch.equal(one, again)
    for one, other in ((first, second), (second, third), (third, fourth)):
        assert (one[0] - other[0]).abs().max() > 1e-3
    torch.testing.assert_close(layer(x[:, None], state)[0][:, 0], fourth[0])


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="kernel must be one of cauchy, powers"):
        LowRankSSM(2, 4, kernel="fast")
    with pytest.raises(ValueError, match="legs, legt, lagt, fourier"):
        LowRankSSM(2, 4, init="lin")
    with pytest.raises(ValueError, match="d_state must be even"):
        LowRankSSM(2, 5)
