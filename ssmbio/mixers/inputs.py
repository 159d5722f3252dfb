"""The checks of what mixers are called with: positions, offsets and states. A failed one names the argument."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssmbio.kernels.checks import FLOATS, check_floats, check_packing, check_rows, check_shape, check_tensors
from ssmbio.kernels.lti_scan.checks import check_complex


def check_sequences(x: Tensor, d_model: int, cu_seqlens: Tensor | None) -> None:
    """x is (B, L, D), or one row beside `cu_seqlens`, whose values are left to what splits the row."""
    check_tensors({"x": x}, cu_seqlens=cu_seqlens)
    check_rows("x", x)
    check_shape("x", x, "B, L, D", (*x.shape[:2], d_model))
    check_floats(x, x=x)
    check_packing("x", x, cu_seqlens)


def check_position(x: Tensor, d_model: int) -> None:
    """x is (B, D)."""
    check_tensors({"x": x})
    if x.dim() != 2 or x.shape[1] != d_model:
        raise ValueError(f"x must be (B, D) = (B, {d_model}); got {tuple(x.shape)}")
    check_floats(x, x=x)


def check_state(state: Any, empty: Any, axis: str, count: int, x: Tensor) -> None:
    """`state` is like `empty`, a mixer's state of no row, but of `count` rows.

    Args:
        empty: a tensor, or a named tuple of tensors.
        axis: what is counted, "B" or "S".
        x: gives the device.
    """
    if isinstance(empty, Tensor):
        _check_part("state", state, empty, axis, count, x)
        return
    if not isinstance(state, type(empty)):
        raise TypeError(f"state must be {type(empty).__name__}, as initial_state makes it; got {type(state).__name__}")
    for name, part, like in zip(empty._fields, state, empty, strict=True):
        _check_part(f"state.{name}", part, like, axis, count, x)


def _check_part(name: str, part: Tensor, like: Tensor, axis: str, count: int, x: Tensor) -> None:
    check_tensors({name: part})
    check_shape(name, part, f"{axis}, …", (count, *like.shape[1:]))
    if like.is_complex():
        check_complex(name, part)
    elif part.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64; got {part.dtype}")
    if part.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is; got {part.device}")
