"""The zero-order hold of diagonal systems: outputs and gradients against float64, in torch and in Triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from op_cases import DEVICE, TRITON
from torch import Tensor

from ssmbio.kernels.zero_order_hold import formulas, zero_order_hold
from ssmbio.mixers.discretization import zero_order_hold as hold_of_system
from ssmbio.mixers.s4d import DiagonalSSM

EPS, TINY = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
over_backends = pytest.mark.parametrize("backend", ["torch", TRITON])


@dataclass(frozen=True)
class Case:
    channels: int
    pairs: int
    shared: bool = False
    least_dt: float = 1e-3
    most_dt: float = 0.1
    rate: float = 1.0

    def leaves(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """log_decay, frequency, B and log_dt, exact in float32: decays of 0.05 to 20, frequencies up to N π."""
        random = torch.Generator().manual_seed(0)
        copies = 1 if self.shared else self.channels
        shape = copies, self.pairs
        log_decay = torch.empty(shape).uniform_(math.log(0.05), math.log(20), generator=random)
        frequency = math.pi * torch.arange(self.pairs) + 0.1 * torch.randn(shape, generator=random)
        B = torch.randn(*shape, 2, generator=random)
        low, high = math.log(self.least_dt), math.log(self.most_dt)
        log_dt = torch.empty(self.channels).uniform_(low, high, generator=random)
        return [leaf.to(DEVICE, dtype).requires_grad_() for leaf in (log_decay, frequency, B, log_dt)]

    def cotangents(self, dtype: torch.dtype = torch.complex64) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(1)
        both = torch.randn(2, self.channels, self.pairs, dtype=torch.complex64, generator=random)
        return tuple(both.to(DEVICE, dtype))


CASES = [
    Case(1, 1),
    Case(5, 3),
    Case(5, 3, shared=True, rate=2.0),
    Case(3, 33, rate=0.5),
    Case(133, 2, shared=True),
    Case(2, 131),  # more pairs than a program takes at once
    Case(3, 32, least_dt=1e-9, most_dt=1e-6),
    Case(3, 5, shared=True, least_dt=1e-9, most_dt=1e-6),
    Case(3, 32, least_dt=10.0, most_dt=1e4),
]
over_cases = pytest.mark.parametrize("case", CASES, ids=str)


def system(leaves: list[Tensor], rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and Δ."""
    log_decay, frequency, B, log_dt = leaves
    return torch.complex(-log_decay.exp(), frequency), torch.view_as_complex(B), (log_dt.exp() * rate)[:, None]


@over_backends
@over_cases
def test_log_a_and_b_are_those_of_float64(case: Case, backend: str) -> None:
    """Within a few roundings of themselves, and of what roundings of ΔA make of exp(ΔA)."""
    log_a, b = zero_order_hold(*case.leaves(), case.rate, backend)
    A, B, dt = system(case.leaves(torch.float64), case.rate)
    exact_log_a, exact_b = dt * A, formulas.expm1(dt * A) / A * B
    assert log_a.dtype == b.dtype == torch.complex64
    assert ((log_a - exact_log_a).abs() <= 4 * EPS * exact_log_a.abs()).all()
    assert ((b - exact_b).abs() <= 4 * EPS * (exact_b.abs() + (dt * B * exact_log_a.exp()).abs())).all()


@over_backends
@over_cases
@pytest.mark.parametrize("output", ["log_a", "b"])
def test_every_gradient_is_that_of_float64(case: Case, output: str, backend: str) -> None:
    """Of each output alone, so that the larger gradient of log_a does not hide the digits of that of b."""
    leaves, exact_leaves = case.leaves(), case.leaves(torch.float64)
    which = ("log_a", "b").index(output)
    found = torch.autograd.grad(
        zero_order_hold(*leaves, case.rate, backend)[which], leaves, case.cotangents()[which], materialize_grads=True
    )
    A, B, dt = system(exact_leaves, case.rate)
    d = case.cotangents(torch.complex128)[which]
    z = dt * A
    # For small z the one keeps its digits, for large z the other, whose gradient really vanishes.
    b = torch.where(z.abs() < 1, formulas.expm1(z), torch.exp(z) - 1) / A * B
    exact = torch.autograd.grad((z, b)[which], exact_leaves, d, materialize_grads=True)

    with torch.no_grad():  # the size of the terms each gradient is the sum of, with what roundings of ΔA do to them
        size = d.abs()
        if output == "log_a":
            slope, input_size, along = size, torch.zeros_like(size), z.abs() * size
        else:
            slope = (dt * B).abs() * (z.exp().abs() + 3 * formulas.phi_slope(z).abs()) * size
            input_size = dt * ((formulas.expm1(z) / z).abs() + z.exp().abs()) * size
            along = (dt * B * z.exp()).abs() * (1 + z.abs()) * size
        sizes = [-z.real * slope, dt * slope, input_size[..., None].expand(-1, -1, 2), along.sum(1)]
    for leaf, grad, exact_grad, bound in zip(leaves, found, exact, sizes, strict=True):
        assert grad.shape == leaf.shape
        assert grad.dtype == torch.float32
        assert ((grad - exact_grad).abs() <= 5 * EPS * bound.sum_to_size(leaf.shape) + TINY).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dt", [1e-3, 0.3, 5.0])
def test_gradients_are_those_of_finite_differences(shared: bool, dt: float) -> None:
    leaves = Case(3, 4, shared, dt, 2 * dt).leaves(torch.float64)
    assert torch.autograd.gradcheck(lambda *leaves: zero_order_hold(*leaves, 1.5), leaves)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_both_ways_to_phi_slope_are_the_same_function(dtype: torch.dtype) -> None:
    """On both sides of |z| = 1, against the integral φ'(z) = ∫ t exp(tz) dt over 0 … 1 by Gauss and Legendre."""
    angle = torch.linspace(math.pi / 2, math.pi, 50, dtype=torch.float64)
    size = torch.tensor([0.0, 1e-6, 0.1, 0.999999, 1.000001, 2.0], dtype=torch.float64)
    z = torch.polar(size[:, None].expand(-1, 50).contiguous(), angle.expand(6, -1).contiguous()).to(dtype)
    t = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    edges, width = t - 0.5 / 2000, 1 / 2000  # three nodes in each of 2000 intervals
    nodes = torch.cat([edges + width * (0.5 + s) for s in (-math.sqrt(0.15), 0.0, math.sqrt(0.15))])
    weights = torch.cat([torch.full_like(t, width * weight / 18) for weight in (5, 8, 5)])
    exact = (weights * nodes * torch.exp(nodes * z.to(torch.complex128)[..., None])).sum(-1)
    assert ((formulas.phi_slope(z) - exact).abs() <= 4 * torch.finfo(dtype).eps).all()


@over_backends
def test_where_the_state_is_forgotten_at_once_nothing_is_lost(backend: str) -> None:
    """exp(ΔA) is 0: b = -B / A, and b does not depend on Δ."""
    log_decay = torch.tensor([[5.0, 30.0, 34.0, 3.0]], device=DEVICE, requires_grad=True)
    frequency = torch.tensor([[0.0, 1e13, 1.0, 1e15]], device=DEVICE, requires_grad=True)
    B = torch.ones(1, 4, 2, device=DEVICE, requires_grad=True)
    log_dt = torch.full((1,), 7.0, device=DEVICE, requires_grad=True)
    _, b = zero_order_hold(log_decay, frequency, B, log_dt, backend=backend)
    A = torch.complex(-log_decay.double().exp(), frequency.double())
    exact = -torch.view_as_complex(B).to(A.dtype) / A
    assert ((b - exact).abs() <= 4 * EPS * exact.abs()).all()
    *grads, d_log_dt = torch.autograd.grad(b.abs().sum(), (log_decay, frequency, B, log_dt))
    expected = torch.autograd.grad(exact.abs().sum(), (log_decay, frequency, B))
    sizes = exact.abs(), (exact / A).abs(), 1 / A.abs()[..., None]
    for grad, exact_grad, size in zip(grads, expected, sizes, strict=True):
        assert ((grad - exact_grad).abs() <= 8 * EPS * size + TINY).all()
    assert float(d_log_dt) == 0


@over_backends
@pytest.mark.filterwarnings("ignore:overflow encountered")  # of |ΔA|², which is only compared
def test_however_large_a_rate_of_decay_there_are_numbers(backend: str) -> None:
    leaves = [leaf.detach() for leaf in Case(2, 3).leaves()]
    leaves[0][:] = torch.tensor([45.0, 60.0, 75.0])
    leaves[3][:] = torch.tensor([0.0, 8.0])
    leaves = [leaf.requires_grad_() for leaf in leaves]
    outputs = zero_order_hold(*leaves, backend=backend)
    for found in (*outputs, *torch.autograd.grad(outputs, leaves, Case(2, 3).cotangents())):
        assert torch.isfinite(found).all()
    A, B, _ = system([leaf.detach().double() for leaf in leaves], 1.0)
    assert ((outputs[1] + B / A).abs() <= 4 * EPS * (B / A).abs()).all()


@over_backends
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of the exponent, an integer
@pytest.mark.parametrize("which", range(4))
def test_a_parameter_that_is_no_number_shows(which: int, backend: str) -> None:
    leaves = [leaf.detach() for leaf in Case(2, 3).leaves()]
    leaves[which][:] = math.nan
    leaves = [leaf.requires_grad_() for leaf in leaves]
    outputs = zero_order_hold(*leaves, backend=backend)
    grads = torch.autograd.grad(outputs, leaves, Case(2, 3).cotangents())
    assert torch.view_as_real(outputs[1]).isnan().all()
    assert grads[3].isnan().all()


@over_backends
def test_one_system_for_all_is_the_same_system_in_each(backend: str) -> None:
    case = Case(7, 5, shared=True)
    leaves = case.leaves()
    *parameters, log_dt = leaves
    apart = [p.detach().expand(7, *p.shape[1:]).clone().requires_grad_() for p in parameters]
    shared, separate = (zero_order_hold(*p, log_dt, backend=backend) for p in (parameters, apart))
    for one, other in zip(shared, separate, strict=True):  # on a CPU exp depends on where in a vector a number stands
        torch.testing.assert_close(one, other, rtol=8 * EPS, atol=0)
    grads = torch.autograd.grad(shared, leaves, case.cotangents())
    of_channels = torch.autograd.grad(separate, [*apart, log_dt], case.cotangents())
    summed = *(parts.sum(0, keepdim=True) for parts in of_channels[:3]), of_channels[3]
    for grad, expected in zip(grads, summed, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-6)


@over_backends
def test_foreign_strides_and_conjugated_gradients_are_taken(backend: str) -> None:
    case = Case(4, 6)
    leaves = case.leaves()
    strided = [torch.stack([leaf.detach()] * 2, -1)[..., 0].requires_grad_() for leaf in leaves]
    assert not any(leaf.is_contiguous() for leaf in strided)
    d_log_a, d_b = case.cotangents()
    conjugated = [torch.conj(torch.conj_physical(d.mT.contiguous()).mT) for d in (d_log_a, d_b)]
    plain, other = (zero_order_hold(*inputs, backend=backend) for inputs in (leaves, strided))
    grads = torch.autograd.grad(plain, leaves, (d_log_a, d_b))
    other_grads = torch.autograd.grad(other, strided, conjugated)
    for found, expected in zip((*other, *other_grads), (*plain, *grads), strict=True):
        assert torch.equal(found, expected)


@over_backends
def test_results_repeat_bit_for_bit(backend: str) -> None:
    case = Case(133, 9, shared=True)
    runs = []
    for _ in range(2):
        leaves = case.leaves()
        outputs = zero_order_hold(*leaves, case.rate, backend)
        runs.append([*outputs, *torch.autograd.grad(outputs, leaves, case.cotangents())])
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_gives_the_system_of_its_parts(shared: bool) -> None:
    """The A of its eigenvalues and the Δ of its steps, at another sample rate too; on a CPU the same bits."""
    ssm = DiagonalSSM(6, 8, rate=2.0, shared=shared).to(DEVICE)
    log_a, b, _ = ssm.system()
    expected = hold_of_system(ssm.A(), torch.view_as_complex(ssm.B), ssm.dt()[:, None])
    tolerance = 0 if DEVICE == "cpu" else 8 * EPS
    for found, exact in zip((log_a, b), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=tolerance, atol=0)


def test_compiled_in_one_graph_gives_the_same_bits() -> None:
    leaves = Case(4, 6, shared=True).leaves()
    compiled = torch.compile(zero_order_hold, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, zero_order_hold):
        outputs = function(*leaves, 0.5)
        loss = sum(torch.conj(output).real.sum() + output.imag.square().sum() for output in outputs)
        results.append(chain(outputs, torch.autograd.grad(loss, leaves)))
    assert all(torch.equal(found, expected) for found, expected in zip(*results, strict=True))


@pytest.mark.parametrize("shared", [False, True])
def test_ops_are_registered_as_torch_expects(shared: bool) -> None:
    case = Case(3, 4, shared)
    leaves = case.leaves()
    torch.library.opcheck(torch.ops.ssmbio.zero_order_hold_forward.default, (*leaves, 1.0, "auto"))
    inputs = [*case.cotangents(), *(leaf.detach() for leaf in leaves), 1.0, "auto"]
    torch.library.opcheck(torch.ops.ssmbio.zero_order_hold_backward.default, tuple(inputs))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"log_dt": torch.zeros(4, 1)}, ValueError, r"log_dt must be \(D,\).* got \(4, 1\)"),
        ({"log_decay": torch.zeros(2, 3)}, ValueError, r"log_decay must be \(C, N\), C 1 or D = 4; got \(2, 3\)"),
        ({"log_decay": torch.zeros(4, 0)}, ValueError, r"log_decay must be .* got \(4, 0\)"),
        ({"frequency": torch.zeros(1, 3)}, ValueError, r"frequency must be \(C, N\) = \(4, 3\); got \(1, 3\)"),
        ({"B": torch.zeros(4, 3)}, ValueError, r"B must be \(C, N, 2\) = \(4, 3, 2\); got \(4, 3\)"),
        ({"B": torch.zeros(4, 3, 2, dtype=torch.float64)}, TypeError, "B must not mix float64"),
        ({"B": torch.zeros(4, 3, dtype=torch.complex64)}, TypeError, "B must be float32"),
        ({"log_dt": torch.zeros(4, dtype=torch.bfloat16)}, TypeError, "log_dt must be float32 or float64; got .*bfl"),
        ({"backend": "tpu"}, ValueError, "backend must be one of .*; got 'tpu'"),
    ],
)
def test_the_argument_at_fault_is_named(changed: dict[str, object], error: type, message: str) -> None:
    right = {"log_decay": (4, 3), "frequency": (4, 3), "B": (4, 3, 2), "log_dt": (4,)}
    arguments = {name: torch.zeros(shape) for name, shape in right.items()}
    with pytest.raises(error, match=message):
        zero_order_hold(**(arguments | changed))
