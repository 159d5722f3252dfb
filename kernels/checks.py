"""What every op asks of its arguments; a failed check names the argument, what it got and what it expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_shape(name: str, tensor: Tensor | None, axes: str, shape: Sequence[int]) -> None:
    if tensor is not None and tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must be ({axes}) = {tuple(shape)}; got {tuple(tensor.shape)}")


def check_tensors(required: Mapping[str, object], **optional: object) -> None:
    """All are tensors; the optional ones may be None."""
    given = {name: value for name, value in optional.items() if value is not None}
    for name, value in {**required, **given}.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")


def check_floats(main: Tensor, **others: Tensor | None) -> None:
    """All floating, on the device of the first, and float64 either all or none."""
    name_of_main = next(iter(others))
    check_parameters(name_of_main, main, **others)
    for name, tensor in others.items():
        if tensor is not None and (tensor.dtype == torch.float64) != (main.dtype == torch.float64):
            raise TypeError(
                f"{name} must not mix float64 with other dtypes: it is {tensor.dtype}, {name_of_main} {main.dtype}"
            )


def check_parameters(name: str, main: Tensor, **others: Tensor | None) -> None:
    """Real, floating, and on the device of `main`, which is called `name`; their dtypes are their own."""
    for other, tensor in others.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{other} must be float32, bfloat16, float16 or float64; got {tensor.dtype}")
        if tensor.device != main.device:
            raise ValueError(f"{other} must be on {main.device} as {name} is; got {tensor.device}")


def check_reverse_mode(op: str, *tensors: Tensor | None) -> None:
    """None carries a forward-mode derivative, which a registered op would drop, as if its inputs were constants."""
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{op} has no forward-mode derivative (jvp, jacfwd); use torch.autograd.grad or backward"
            )


def check_packing(name: str, tensor: Tensor, cu_seqlens: Tensor | None) -> None:
    """`cu_seqlens` is (S + 1,) int32 beside `tensor`, which then has one row."""
    if cu_seqlens is None:
        return
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens must be int32; got {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens must be (S + 1,) with S at least 1; got {tuple(cu_seqlens.shape)}")
    if cu_seqlens.device != tensor.device:
        raise ValueError(f"cu_seqlens must be on {tensor.device} as {name} is; got {cu_seqlens.device}")
    if tensor.shape[0] != 1:
        raise ValueError(f"{name} must be one row, (1, total, D), beside cu_seqlens; got {tuple(tensor.shape)}")


def check_rows(name: str, tensor: Tensor) -> None:
    """(B, L, D) with no axis empty."""
    if tensor.dim() != 3 or 0 in tensor.shape:
        raise ValueError(f"{name} must be (B, L, D), no axis empty; got {tuple(tensor.shape)}")
