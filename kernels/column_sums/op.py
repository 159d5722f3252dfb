"""`column_sums`: checks and the registration with `torch.library`."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_reverse_mode
from ssmbio.kernels.dispatch import implementation, on_its_device


def column_sums(x: Tensor, backend: str = "auto") -> Tensor:
    """Σ_r x_r of the rows of x: the gradient of what is added to every row, as a bias is. It has none of its own.

    Args:
        x: (R, C), float32, bfloat16, float16 or float64.
        backend: "auto", "triton" or "torch".

    Returns:
        (C,), float64 of float64, else float32: sums are never narrower. The same inputs give the same bits.

    Raises:
        ValueError, TypeError: x has another shape or dtype.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_floats(x, x=x)
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"x must be (R, C), no axis empty; got {tuple(x.shape)}")
    check_reverse_mode("column_sums", x)
    return _op(x, backend)


@on_its_device
def _run(x, backend):
    return implementation("ssmbio.kernels.column_sums", "torch_path", backend, x).forward(x.contiguous())


def _fake(x, backend):
    implementation("ssmbio.kernels.column_sums", "torch_path", backend, x)
    return x.new_empty(x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


_op = torch.library.custom_op("ssmbio::column_sums", _run, mutates_args=(), schema="(Tensor x, str backend) -> Tensor")
_op.register_fake(_fake)
