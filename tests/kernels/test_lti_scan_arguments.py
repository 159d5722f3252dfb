"""Bad arguments of the time-invariant scan are named, with the shape or dtype got and expected."""

from __future__ import annotations

import pytest
import torch
from op_cases import DEVICE

from ssmbio.kernels import lti_scan, lti_scan_step
from ssmbio.kernels.dispatch import triton_installed

ROW, SYSTEM, STATE = torch.zeros(2, 7, 6), torch.zeros(6, 5, dtype=torch.complex64), torch.zeros(2, 6, 5)
HALF = SYSTEM.to(torch.complex32)


def packed(*offsets: int, dtype: torch.dtype = torch.int32) -> dict[str, object]:
    return {"u": ROW[:1], "cu_seqlens": torch.tensor(offsets, dtype=dtype)}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": ROW[0]}, ValueError, r"u must be \(B, L, D\), no axis empty; got \(7, 6\)"),
        ({"u": ROW[:, :0]}, ValueError, r"u must be .* got \(2, 0, 6\)"),
        ({"u": ROW + 0j}, TypeError, "u must be float32, bfloat16, float16 or float64; got torch.complex64"),
        ({"log_a": SYSTEM[:5]}, ValueError, r"log_a must be \(D, N\) = \(6, N\); got \(5, 5\)"),
        ({"log_a": SYSTEM[:, :0]}, ValueError, r"log_a must be \(D, N\) = \(6, N\); got \(6, 0\)"),
        ({"log_a": SYSTEM.real}, TypeError, "log_a must be complex64 or complex128; got torch.float32"),
        ({"log_a": HALF}, TypeError, "log_a must be complex64 or complex128; got torch.complex32"),
        ({"b": HALF}, TypeError, "b must be complex64 or complex128; got torch.complex32"),
        ({"u": ROW.numpy()}, TypeError, "u must be a tensor; got ndarray"),
        ({"c": None}, TypeError, "c must be a tensor; got NoneType"),
        ({"D": 1.0}, TypeError, "D must be a tensor; got float"),
        ({"initial_state": 0}, TypeError, "initial_state must be a tensor; got int"),
        ({"u": ROW[:1], "cu_seqlens": [0, 7]}, TypeError, "cu_seqlens must be a tensor; got list"),
        ({"b": SYSTEM[:, :4]}, ValueError, r"b must be \(D, N\) = \(6, 5\); got \(6, 4\)"),
        ({"b": SYSTEM.real}, TypeError, "b must be complex64 or complex128; got torch.float32"),
        ({"c": SYSTEM.t()}, ValueError, r"c must be \(D, N\) = \(6, 5\); got \(5, 6\)"),
        ({"c": SYSTEM.to("meta")}, ValueError, "c must be on cpu as u is; got meta"),
        ({"D": torch.ones(5)}, ValueError, r"D must be \(D,\) = \(6,\); got \(5,\)"),
        ({"D": SYSTEM[:, 0]}, TypeError, "D must be real and floating; got torch.complex64"),
        ({"initial_state": STATE[:, :5] + 0j}, ValueError, r"initial_state must be \(B, D, N\) = \(2, 6, 5\)"),
        ({"initial_state": STATE}, TypeError, "initial_state must be complex64 or complex128; got torch.float32"),
        ({"cu_seqlens": torch.tensor([0, 7], dtype=torch.int32)}, ValueError, "u must be one row"),
        (packed(0, 7, dtype=torch.int64), TypeError, "cu_seqlens must be int32; got torch.int64"),
        (packed(0, 6), ValueError, "cu_seqlens must start at 0 and end at the row's length 7; got 0 and 6"),
        (packed(0, 6) | {"backend": "reference"}, ValueError, "cu_seqlens must start at 0 and end at"),
        (packed(0, 3, 3, 7), ValueError, "every sequence has a position; sequence 1 has length 0"),
        (packed(0, 7) | {"initial_state": STATE + 0j}, ValueError, r"initial_state must be \(S, D, N\) = \(1, 6, 5\)"),
        (packed(0, 7) | {"backend": "fft"}, ValueError, 'cu_seqlens must be None beside backend="fft"'),
        ({"backend": "cuda"}, ValueError, "backend must be one of auto, triton, torch, fft, reference; got 'cuda'"),
    ],
)
def test_scan_names_the_argument_at_fault(changed: dict[str, object], error: type, message: str) -> None:
    right: dict[str, object] = {"u": ROW, "log_a": SYSTEM, "b": SYSTEM, "c": SYSTEM}
    with pytest.raises(error, match=message):
        lti_scan(**(right | changed))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": ROW}, ValueError, r"u must be \(B, D\); got \(2, 7, 6\)"),
        ({"u": ROW[:, 0].int()}, TypeError, "u must be float32, .*; got torch.int32"),
        ({"log_a": SYSTEM.t()}, ValueError, r"log_a must be \(D, N\) = \(6, N\); got \(5, 6\)"),
        ({"b": SYSTEM.real}, TypeError, "b must be complex64 or complex128; got torch.float32"),
        ({"state": STATE[:1] + 0j}, ValueError, r"state must be \(B, D, N\) = \(2, 6, 5\); got \(1, 6, 5\)"),
        ({"state": STATE}, TypeError, "state must be complex64 or complex128; got torch.float32"),
        ({"state": STATE.to(torch.complex32)}, TypeError, "state must be complex64 or .*; got torch.complex32"),
        ({"state": None}, TypeError, "state must be a tensor; got NoneType"),
        ({"u": ROW[:, 0].numpy()}, TypeError, "u must be a tensor; got ndarray"),
        ({"log_a": None}, TypeError, "log_a must be a tensor; got NoneType"),
        ({"D": 1.0}, TypeError, "D must be a tensor; got float"),
        ({"D": torch.ones(1)}, ValueError, r"D must be \(D,\) = \(6,\); got \(1,\)"),
    ],
)
def test_steps_name_the_argument_at_fault(changed: dict[str, object], error: type, message: str) -> None:
    right: dict[str, object] = {"u": ROW[:, 0], "log_a": SYSTEM, "b": SYSTEM, "c": SYSTEM, "state": STATE + 0j}
    with pytest.raises(error, match=message):
        lti_scan_step(**(right | changed))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("backend", "before"),
    [
        ("reference", 0),
        ("torch", 63),
        pytest.param("triton", 63, marks=pytest.mark.skipif(not triton_installed(), reason="needs Triton")),
    ],
)
def test_what_is_not_finite_reaches_back_as_far_as_is_stated(backend: str, before: int, reverse: bool) -> None:
    """Later outputs are lost, those up to 63 before may be, and no others."""
    system = torch.full((2, 3), -0.1 + 0.5j)
    for bad in (torch.nan, torch.inf):
        for place in (0, 70, 127, 128, 199):
            u = torch.ones(2, 200, 2, device=DEVICE)
            u[0, place, 0] = bad
            y = lti_scan(u, *[system.to(DEVICE)] * 3, reverse=reverse, backend=backend).cpu()
            lost = (~y[0, :, 0].isfinite()).tolist()
            if reverse:
                lost, place = lost[::-1], 199 - place
            assert all(lost[place:])
            assert not any(lost[: max(0, place - before)])
            assert y[1].isfinite().all()
            assert y[0, :, 1].isfinite().all()


def test_triton_that_cannot_run_is_refused() -> None:
    doubles = [SYSTEM.to(torch.complex128)] * 3
    with pytest.raises(RuntimeError, match="this input is float64"):
        lti_scan(ROW.double(), *doubles, backend="triton")
