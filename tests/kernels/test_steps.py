"""Steps of recurrent decoding: one position at a time gives the numbers of the whole, in torch and in Triton."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from op_cases import BACKENDS, DEVICE, TRITON, ConvolutionCase, ScanCase, Tensors, check_equal, run, with_gradients
from torch import Tensor

from ssmbio.kernels import causal_conv1d_step, selective_scan_step, steps
from ssmbio.kernels.mamba_step import mamba_step

over_backends = pytest.mark.parametrize(("backend", "dtype", "tolerance"), BACKENDS)


def scan_by_steps(case: ScanCase, tensors: Tensors, backend: str) -> tuple[Tensor, Tensor]:
    state, outputs = tensors["initial_state"], []
    fixed = {name: tensors[name] for name in ("A", "D", "delta_bias") if name in tensors}
    for t in range(case.length):
        now = {name: tensors[name][:, t] for name in ("u", "delta", "B", "C", "z") if name in tensors}
        y, state = selective_scan_step(**now, **fixed, state=state, delta_softplus=not case.bare, backend=backend)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def convolution_by_steps(case: ConvolutionCase, tensors: Tensors, backend: str) -> tuple[Tensor, Tensor]:
    state, outputs = tensors["initial_state"], []
    for t in range(case.length):
        now, weight, bias = tensors["x"][:, t], tensors["weight"], tensors.get("bias")
        y, state = causal_conv1d_step(now, weight, bias, case.activation, state, backend)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def strided(vector: Tensor) -> Tensor:
    """A copy on the device of the tests with the same strides."""
    return vector.as_strided((1 + 3 * vector.stride(0),), (1,)).to(DEVICE).as_strided((4,), vector.stride())


def detached(tensors: Tensors) -> Tensors:
    return {name: tensor.detach() for name, tensor in tensors.items()}


SCANS = [ScanCase(5, channels=12, groups=3), ScanCase(5, bare=True), ScanCase(3, channels=37, states=33, groups=1)]
CONVOLUTIONS = [
    ConvolutionCase(9),
    ConvolutionCase(9, taps=2, bias=False, activation=None),
    ConvolutionCase(9, channels=130, taps=8),
]


@over_backends
@pytest.mark.parametrize("case", [*SCANS, *CONVOLUTIONS], ids=str)
def test_steps_are_the_whole(
    case: ScanCase | ConvolutionCase, backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    tensors = replace(case, dtype=dtype).inputs()
    if backend == "triton":  # has no gradients
        tensors = detached(tensors)
    given = tensors["initial_state"].clone()
    by_steps = scan_by_steps if isinstance(case, ScanCase) else convolution_by_steps
    y, state = by_steps(case, tensors, backend)
    assert torch.equal(given, tensors["initial_state"]), "a step changed the state it was given"
    if backend == "triton":
        whole_y, whole_state = case.outputs(tensors, "torch")
        check_equal({"y": y, "state": state}, {"y": whole_y, "state": whole_state}, tolerance)
    else:
        check_equal(with_gradients(y, state, tensors), run(case, tensors, "torch"), tolerance)


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("states", [1, 256])
def test_any_number_of_states_is_stepped(backend: str, states: int) -> None:
    case = ScanCase(2, channels=5, states=states)
    tensors = detached(case.inputs())
    y, state = scan_by_steps(case, tensors, backend)
    whole_y, whole_state = case.outputs(tensors, "reference")
    check_equal({"y": y, "state": state}, {"y": whole_y, "state": whole_state}, 1e-5)


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_steps_and_op_round_the_same_way(backend: str, dtype: torch.dtype) -> None:
    """Half-precision decoding gives what the whole scan gave, to the rounding of one output; the state is float32."""
    case = ScanCase(9, dtype=dtype)
    tensors = detached(case.inputs())
    whole, final = case.outputs(tensors, "torch")
    y, state = scan_by_steps(case, tensors, backend)
    torch.testing.assert_close(y, whole, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert state.dtype == torch.float32
    torch.testing.assert_close(state, final, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", TRITON])
def test_rows_with_foreign_strides_are_stepped(backend: str) -> None:
    """Halves and thirds of projections, and a state laid out the other way round."""
    case = ScanCase(1, channels=4)
    plain = detached(case.inputs())
    joined = torch.cat([plain["u"], plain["z"], plain["B"][:, :, 0], plain["C"][:, :, 0]], dim=-1)
    u, z, B, C = joined.split([4, 4, 5, 5], dim=-1)
    state = plain["initial_state"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not u.is_contiguous()
    views = plain | {"u": u, "z": z, "B": B.unsqueeze(2), "C": C.unsqueeze(2), "initial_state": state}
    for found, expected in zip(scan_by_steps(case, views, backend), scan_by_steps(case, plain, backend), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", [TRITON])
@pytest.mark.parametrize("vector", [torch.randn(8)[::2], torch.randn(1).expand(4)], ids=["strided", "expanded"])
def test_vectors_with_foreign_strides_are_stepped(vector: Tensor, backend: str) -> None:
    with torch.device(DEVICE):
        u, mixing, vector = torch.randn(2, 4), torch.randn(2, 5), strided(vector)
        fixed = {"delta": u.abs(), "A": -torch.ones(4, 5), "B": mixing, "C": mixing, "state": torch.ones(2, 4, 5)}
        weight, state = torch.ones(4, 3), torch.ones(2, 2, 4)
    for name in ("D", "delta_bias"):
        found, expected = (selective_scan_step(u, **fixed, **{name: vector}, backend=b) for b in (backend, "torch"))
        torch.testing.assert_close(found, expected)
    found, expected = (causal_conv1d_step(u, weight, vector, "silu", state, b) for b in (backend, "torch"))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["torch", TRITON])
def test_states_of_convolution_steps_are_float32(backend: str) -> None:
    x, state = (torch.ones(*shape, 4, dtype=torch.bfloat16, device=DEVICE) for shape in ((2,), (2, 2)))
    y, after = causal_conv1d_step(x, torch.ones(4, 3, device=DEVICE), None, None, state, backend)
    assert (y.dtype, after.dtype) == (torch.bfloat16, torch.float32)


# Sizes of layers: model, channels, states, rank, taps.
SMALL, SEVERAL_SHARES, MANY_STATES = (6, 12, 5, 1, 2), (20, 72, 16, 3, 4), (6, 12, 70, 1, 4)


def layer(
    sizes: tuple[int, ...], batch: int, dtype: torch.dtype = torch.float32, weights: torch.dtype | None = None
) -> Tensors:
    model, channels, states, rank, taps = sizes
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1, dtype: torch.dtype = dtype) -> Tensor:
        return (scale * torch.randn(*shape, generator=random, dtype=torch.float64)).to(DEVICE, dtype)

    weights, wide = weights or dtype, torch.float64 if dtype == torch.float64 else torch.float32
    return {
        "x": normal(batch, model),
        "in_weight": normal(2 * channels, model, scale=model**-0.5, dtype=weights),
        "conv_weight": normal(channels, taps, dtype=wide),
        "conv_bias": normal(channels, dtype=wide),
        "x_weight": normal(rank + 2 * states, channels, scale=channels**-0.5, dtype=weights),
        "dt_weight": normal(channels, rank, dtype=weights),
        "dt_bias": normal(channels, dtype=wide),
        "A_log": normal(channels, states, dtype=wide),
        "D": normal(channels, dtype=wide),
        "out_weight": normal(model, channels, scale=channels**-0.5, dtype=weights),
        "conv_state": normal(batch, taps - 1, channels, dtype=wide),
        "ssm_state": normal(batch, channels, states, dtype=wide),
    }


def in_float64(tensors: Tensors) -> tuple[Tensor, ...]:
    return mamba_step(*(tensor.double() for tensor in tensors.values()), backend="torch")


def error_share(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the error as a share of that of the exact values."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize(("sizes", "batch"), [(SMALL, 1), (SEVERAL_SHARES, 2), (SMALL, 9), (MANY_STATES, 1)], ids=str)
def test_layer_steps_are_exact_to_float32(sizes: tuple[int, ...], batch: int, backend: str) -> None:
    """At batches of the three kernels, and past them; with more states than they take."""
    tensors = layer(sizes, batch)
    given = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, found, exact in zip(
        ("y", "conv", "ssm"), mamba_step(*tensors.values(), backend=backend), in_float64(tensors), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, tensor in tensors.items():
        assert torch.equal(tensor, given[name]), f"{name} was changed"


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("batch", [2, 9])
def test_layer_steps_in_half_precision_come_close_and_keep_float32_states(batch: int, backend: str) -> None:
    tensors = layer(SEVERAL_SHARES, batch, torch.bfloat16)
    dtypes = (torch.bfloat16, torch.float32, torch.float32)
    for found, exact, dtype in zip(
        mamba_step(*tensors.values(), backend=backend), in_float64(tensors), dtypes, strict=True
    ):
        assert found.dtype == dtype
        assert error_share(found, exact) < 0.02


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_a_layer_step_gives_half_precision(weights: torch.dtype, batch: int, backend: str) -> None:
    """Weights may be cast beforehand; what comes out has the same dtype either way, and that of torch's products."""
    tensors = layer(SMALL, batch, weights=weights)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, *_ = mamba_step(*tensors.values(), backend=backend)
    assert y.dtype == torch.bfloat16
    assert error_share(y, in_float64(tensors)[0]) < 0.02


def test_layer_steps_have_gradients() -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in layer((2, 3, 2, 1, 3), 2, dtype=torch.float64).items()}
    torch.autograd.gradcheck(mamba_step, tuple(tensors.values()))


def test_compiled_layer_steps_are_one_graph() -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in layer(SMALL, 2).items()}
    compiled = torch.compile(mamba_step, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*tensors.values()), mamba_step(*tensors.values())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    cotangents = [torch.ones_like(tensor) for tensor in expected]
    leaves = list(tensors.values())
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangents), torch.autograd.grad(expected, leaves, cotangents), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_where_a_gradient_is_recorded_steps_run_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where `auto` is Triton."""
    monkeypatch.setattr(steps, "resolve_backend", lambda backend, tensor: "triton")
    plain, leaf = torch.zeros(2), torch.zeros(2, requires_grad=True)
    assert steps.triton_steps("auto", plain, plain, None)
    assert not steps.triton_steps("auto", plain, leaf)
    with torch.no_grad():
        assert steps.triton_steps("auto", plain, leaf)
    with pytest.raises(RuntimeError, match=r"no gradient.*torch\.no_grad"):
        steps.triton_steps("triton", plain, leaf)


def test_on_the_cpu_steps_run_in_torch() -> None:
    assert not steps.triton_steps("auto", torch.zeros(2))
    with pytest.raises(RuntimeError, match="float64"):
        steps.triton_steps("triton", torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("in_weight", (12, 6), r"in_weight must be \(2D, M\) = \(24, 6\); got \(12, 6\)"),
        ("x_weight", (10, 12), r"x_weight must be \(R \+ 2N, D\) = \(11, 12\); got \(10, 12\)"),
        ("out_weight", (12, 6), r"out_weight must be \(M, D\) = \(6, 12\); got \(12, 6\)"),
        ("dt_bias", (6,), r"dt_bias must be \(D,\) = \(12,\); got \(6,\)"),
        ("conv_state", (1, 1, 12), r"conv_state must be \(B, K - 1, D\) = \(2, 1, 12\); got \(1, 1, 12\)"),
        ("ssm_state", (2, 5, 12), r"ssm_state must be \(B, D, N\) = \(2, 12, 5\); got \(2, 5, 12\)"),
    ],
)
def test_layer_steps_name_the_argument_at_fault(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mamba_step(**(layer(SMALL, 2) | {name: torch.zeros(shape)}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": torch.zeros(1, 6)}, r"delta must be \(B, D\) = \(2, 6\); got \(1, 6\)"),
        ({"B": torch.zeros(2, 4)}, r"B must be \(B, G, N\) = \(2, 1, 5\); got \(2, 1, 4\)"),
        ({"C": torch.zeros(2, 2, 5)}, r"C must be \(B, G, N\) = \(2, 1, 5\); got \(2, 2, 5\)"),
        ({"B": torch.zeros(2, 4, 5)}, "B must have a number of groups that divides D = 6; got 4"),
        ({"A": torch.zeros(5, 5)}, r"A must be \(D, N\) = \(6, 5\); got \(5, 5\)"),
        ({"A": torch.zeros(6)}, r"A must be \(D, N\); got \(6,\)"),
        ({"u": torch.zeros(6)}, r"u must be \(B, D\); got \(6,\)"),
        ({"B": torch.zeros(5)}, r"B must be \(B, N\) or \(B, G, N\); got \(5,\)"),
        ({"D": torch.zeros(6, device="meta")}, "D must be on cpu as u is; got meta"),
    ],
)
def test_scan_steps_name_the_argument_at_fault(changed: Tensors, message: str) -> None:
    row, mixing = torch.zeros(2, 6), torch.zeros(2, 5)
    right = {"u": row, "delta": row, "A": torch.zeros(6, 5), "B": mixing, "C": mixing, "state": torch.zeros(2, 6, 5)}
    with pytest.raises(ValueError, match=message):
        selective_scan_step(**(right | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activation": "relu"}, "activation must be \"silu\" or None; got 'relu'"),
        ({"weight": torch.zeros(6, 1)}, r"weight must be \(D, K\) = \(6, 2 to 8\); got \(6, 1\)"),
        ({"weight": torch.zeros(6, 9)}, r"weight must be \(D, K\) = \(6, 2 to 8\); got \(6, 9\)"),
        ({"x": torch.zeros(6)}, r"x must be \(B, D\); got \(6,\)"),
        ({"state": torch.zeros(2, 3, 6, dtype=torch.int32)}, "state must be float32, .*; got torch.int32"),
    ],
)
def test_convolution_steps_name_the_argument_at_fault(changed: dict, message: str) -> None:
    right = {"x": torch.zeros(2, 6), "weight": torch.zeros(6, 4), "bias": None, "activation": None}
    with pytest.raises((ValueError, TypeError), match=message):
        causal_conv1d_step(**({**right, "state": torch.zeros(2, 3, 6)} | changed))
