"""Bad arguments are named, with the shape or dtype got and expected; the choice of a backend is kept or refused."""

import importlib.util

import pytest
import torch

from ssmbio.kernels import causal_conv1d, causal_conv1d_step, selective_scan, selective_scan_step
from ssmbio.kernels.dispatch import resolve_backend

ROW = torch.zeros(2, 7, 6)


def scan_arguments(**changed: object) -> dict[str, object]:
    mixing = torch.zeros(2, 7, 5)
    return {"u": ROW, "delta": ROW, "A": -torch.ones(6, 5), "B": mixing, "C": mixing} | changed


def packed(*offsets: int, dtype: torch.dtype = torch.int32) -> dict[str, object]:
    row, mixing = ROW[:1], torch.zeros(1, 7, 5)
    return {"u": row, "delta": row, "B": mixing, "C": mixing, "cu_seqlens": torch.tensor(offsets, dtype=dtype)}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": ROW[0]}, ValueError, r"u must be \(B, L, D\), no axis empty; got \(7, 6\)"),
        ({"u": ROW[:, :0]}, ValueError, r"u must be .* got \(2, 0, 6\)"),
        ({"u": ROW.int()}, TypeError, "u must be float32, bfloat16, float16 or float64; got torch.int32"),
        ({"delta": ROW[:, :6]}, ValueError, r"delta must be \(B, L, D\) = \(2, 7, 6\); got \(2, 6, 6\)"),
        ({"delta": ROW.double()}, TypeError, "delta must not mix float64 .* torch.float64, u torch.float32"),
        ({"A": torch.ones(5, 6)}, ValueError, r"A must be \(D, N\) = \(6, N\); got \(5, 6\)"),
        ({"A": torch.ones(6, 5, dtype=torch.complex64)}, TypeError, "A must be real and floating; got torch.complex64"),
        ({"B": ROW}, ValueError, r"B must be \(B, L, N\) = \(2, 7, 5\); got \(2, 7, 6\)"),
        ({"B": ROW[0]}, ValueError, r"B must be \(B, L, N\) or \(B, L, G, N\); got \(7, 6\)"),
        ({"C": torch.zeros(2, 7, 4, 5)}, ValueError, "C must have a number of groups that divides D = 6; got 4"),
        ({"C": torch.zeros(2, 7, 2, 5)}, ValueError, "C must have the groups of B, 1; got 2"),
        ({"D": torch.ones(5)}, ValueError, r"D must be \(D,\) = \(6,\); got \(5,\)"),
        ({"z": ROW[:1]}, ValueError, r"z must be \(B, L, D\) = \(2, 7, 6\); got \(1, 7, 6\)"),
        ({"delta_bias": torch.ones(1)}, ValueError, r"delta_bias must be \(D,\) = \(6,\); got \(1,\)"),
        ({"initial_state": torch.ones(2, 5, 6)}, ValueError, r"initial_state must be \(B, D, N\) = \(2, 6, 5\)"),
        ({"cu_seqlens": torch.tensor([0, 7], dtype=torch.int32)}, ValueError, "u must be one row"),
        (packed(0, 7, dtype=torch.int64), TypeError, "cu_seqlens must be int32; got torch.int64"),
        (packed(7), ValueError, r"cu_seqlens must be \(S \+ 1,\) with S at least 1; got \(1,\)"),
        (packed(0, 6), ValueError, "cu_seqlens must start at 0 and end at the row's length 7; got 0 and 6"),
        (packed(0, 3, 3, 7), ValueError, "every sequence has a position; sequence 1 has length 0"),
        (packed(0, 7) | {"initial_state": torch.ones(2, 6, 5)}, ValueError, r"initial_state must be \(S, D, N\)"),
        ({"backend": "cuda"}, ValueError, "backend must be one of auto, triton, torch, reference; got 'cuda'"),
    ],
)
def test_scan_names_the_argument_at_fault(changed: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        selective_scan(**scan_arguments(**changed))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": ROW[0]}, ValueError, r"x must be \(B, L, D\), no axis empty; got \(7, 6\)"),
        ({"x": ROW.long()}, TypeError, "x must be float32, .*; got torch.int64"),
        ({"weight": torch.ones(6, 9)}, ValueError, r"weight must be \(D, K\) = \(6, 2 to 8\); got \(6, 9\)"),
        ({"weight": torch.ones(4, 6)}, ValueError, r"weight must be .* got \(4, 6\)"),
        ({"bias": torch.ones(4)}, ValueError, r"bias must be \(D,\) = \(6,\); got \(4,\)"),
        ({"bias": 1.0}, TypeError, "bias must be a tensor; got float"),
        ({"cu_seqlens": [0, 8]}, TypeError, "cu_seqlens must be a tensor; got list"),
        ({"activation": "relu"}, ValueError, "activation must be \"silu\" or None; got 'relu'"),
        ({"initial_state": torch.ones(2, 4, 6)}, ValueError, r"initial_state must be \(B, K - 1, D\) = \(2, 3, 6\)"),
    ],
)
def test_convolution_names_the_argument_at_fault(changed: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        causal_conv1d(**({"x": ROW, "weight": torch.ones(6, 4)} | changed))


@pytest.mark.parametrize(("name", "value"), [("A", -1.0), ("D", [1.0]), ("z", 0), ("initial_state", ()), ("B", None)])
def test_scan_names_what_is_no_tensor(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a tensor; got {type(value).__name__}"):
        selective_scan(**scan_arguments(**{name: value}))


def test_steps_name_a_state_of_the_wrong_shape() -> None:
    u, mixing, A = ROW[:, 0], torch.zeros(2, 5), -torch.ones(6, 5)
    with pytest.raises(ValueError, match=r"state must be \(B, D, N\) = \(2, 6, 5\); got \(2, 5, 6\)"):
        selective_scan_step(u, u, A, mixing, mixing, torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match=r"state must be \(B, K - 1, D\) = \(2, 3, 6\); got \(2, 4, 6\)"):
        causal_conv1d_step(u, torch.ones(6, 4), None, "silu", torch.zeros(2, 4, 6))


def test_auto_is_torch_on_the_cpu_and_for_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve_backend("auto", ROW) == "torch"
    assert resolve_backend("torch", ROW) == "torch"


def test_triton_on_the_cpu_without_its_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r'backend="triton" cannot run: the tensors are on the CPU'):
        selective_scan(**scan_arguments(backend="triton"))
    with pytest.raises(RuntimeError, match=r"TRITON_INTERPRET=1"):
        causal_conv1d(ROW, torch.ones(6, 4), backend="triton")


def test_triton_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmbio.kernels import dispatch

    monkeypatch.setattr(dispatch, "triton_installed", lambda: False)
    with pytest.raises(RuntimeError, match="the package `triton` is not installed"):
        resolve_backend("triton", ROW)
    assert resolve_backend("auto", ROW) == "torch"


def test_triton_in_float64_is_refused() -> None:
    with pytest.raises(RuntimeError, match="this input is float64"):
        causal_conv1d(ROW.double(), torch.ones(6, 4), backend="triton")
