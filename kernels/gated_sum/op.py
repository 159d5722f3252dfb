"""`gated_sum`: checks and the registration with `torch.library`.

A backend is a module with `forward` and `backward` (see `torch_path.py`); it sees contiguous tensors of one shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_reverse_mode, check_shape
from ssmbio.kernels.dispatch import implementation, on_its_device


def gated_sum(a: Tensor, b: Tensor, z: Tensor, backend: str = "auto") -> Tensor:
    """(a + b) silu(z): what bidirectional Mamba does with its two directions (Caduceus, arXiv 2403.03234, section 3.2).

    One pass over memory each way, with a gradient for every input; sum and product are float32 whatever the input, and
    only a + b, rounded to the dtype of `a`, and z are kept for the backward pass.

    Args:
        a, b, z: tensors of one shape, float32, bfloat16, float16 (or float64 all three).
        backend: "auto", "triton" or "torch".

    Returns:
        A tensor like `a`.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_floats(a, a=a, b=b, z=z)
    for name, tensor in (("b", b), ("z", z)):
        check_shape(name, tensor, "as a", a.shape)
    check_reverse_mode("gated_sum", a, b, z)
    return _forward_op(a, b, z, backend)[0]


def _backend(backend: str, a: Tensor):
    return implementation("ssmbio.kernels.gated_sum", "torch_path", backend, a)


@on_its_device
def _run_forward(a, b, z, backend):
    with torch.autocast(a.device.type, enabled=False):
        return _backend(backend, a).forward(a.contiguous(), b.contiguous(), z.contiguous())


def _fake_forward(a, b, z, backend):
    _backend(backend, a)  # an impossible choice of backend fails here, as it does with real tensors
    return a.new_empty(a.shape), a.new_empty(a.shape)


@on_its_device
def _run_backward(dy, total, z, backend):
    with torch.autocast(dy.device.type, enabled=False):
        return _backend(backend, dy).backward(dy.contiguous(), total, z.contiguous())


def _fake_backward(dy, total, z, backend):
    return total.new_empty(total.shape), z.new_empty(z.shape)


def _setup_context(ctx, inputs, output):
    a, b, z, ctx.backend = inputs
    ctx.dtypes = a.dtype, b.dtype
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], z)


def _autograd_backward(ctx, dy, _):
    if dy is None:
        return None, None, None, None
    d_total, dz = _backward_op(dy, *ctx.saved_tensors, ctx.backend)
    da, db = (d_total.to(dtype) for dtype in ctx.dtypes)
    return da, db, dz, None


_forward_op = torch.library.custom_op(
    "ssmbio::gated_sum_forward",
    _run_forward,
    mutates_args=(),
    schema="(Tensor a, Tensor b, Tensor z, str backend) -> (Tensor y, Tensor total)",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::gated_sum_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor total, Tensor z, str backend) -> (Tensor d_total, Tensor dz)",
)
_backward_op.register_fake(_fake_backward)
