"""The checks of the arguments of `lti_scan` and its step."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_packing, check_rows, check_shape, check_tensors


def check_arguments(
    u: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Raises ValueError or TypeError, naming the argument, unless shapes, dtypes and devices fit together."""
    check_tensors({"u": u, "log_a": log_a, "b": b, "c": c}, D=D, initial_state=initial_state, cu_seqlens=cu_seqlens)
    check_rows("u", u)
    check_floats(u, u=u)
    check_packing("u", u, cu_seqlens)
    check_system(u, log_a, b, c, D)
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    check_state("initial_state", initial_state, "B" if cu_seqlens is None else "S", sequences, u, log_a)


def check_system(u: Tensor, log_a: Tensor, b: Tensor, c: Tensor, D: Tensor | None) -> None:
    """The parameters beside `u`, whose last axis is the channels. They are cast to the precision of the states."""
    channels = u.shape[-1]
    if log_a.dim() != 2 or log_a.shape[0] != channels or log_a.shape[1] < 1:
        raise ValueError(f"log_a must be (D, N) = ({channels}, N); got {tuple(log_a.shape)}")
    for name, parameter in (("log_a", log_a), ("b", b), ("c", c)):
        check_complex(name, parameter)
        check_shape(name, parameter, "D, N", log_a.shape)
        _check_device(name, parameter, u)
    check_shape("D", D, "D,", (channels,))
    if D is not None:
        if not D.is_floating_point():
            raise TypeError(f"D must be real and floating; got {D.dtype}")
        _check_device("D", D, u)


def check_state(name: str, state: Tensor | None, axis: str, sequences: int, u: Tensor, log_a: Tensor) -> None:
    """A state for each of `sequences` rows or sequences, or None."""
    if state is None:
        return
    check_shape(name, state, f"{axis}, D, N", (sequences, *log_a.shape))
    check_complex(name, state)
    _check_device(name, state, u)


def check_complex(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.complex64, torch.complex128):
        raise TypeError(f"{name} must be complex64 or complex128; got {tensor.dtype}")


def _check_device(name: str, tensor: Tensor, u: Tensor) -> None:
    if tensor.device != u.device:
        raise ValueError(f"{name} must be on {u.device} as u is; got {tensor.device}")
