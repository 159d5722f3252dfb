"""`fft_convolution`: checks, defaults and the registration with `torch.library`; the work is in `transforms.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_reverse_mode, check_rows, check_shape, check_tensors
from ssmbio.kernels.fft_convolution import transforms


def fft_convolution(u: Tensor, kernel: Tensor, D: Tensor | None = None) -> Tensor:
    """Long causal convolution of every channel with its own kernel, as S4 and Hyena use it.

        y_l = Σ_{k=0}^{min(l, K−1)} kernel_k u_{l−k} + D u_l

    The linear convolution itself: rows are padded with zeros, so nothing wraps around. Every input has a gradient. The
    arithmetic is float32 (float64 when the inputs are), whatever the inputs; its error is a few roundings of the
    largest outputs, as transforms have it, not of each. So a number in u that is not finite spoils all outputs of its
    row and channel, earlier ones too. Only u and kernel are kept for the backward pass.

    Args:
        u: (B, L, D), float32, bfloat16 or float16 (or float64).
        kernel: (D, K), one row a channel; its first tap meets the present position, and any K is taken: taps
            beyond the L-th meet nothing.
        D: (D,), the skip. None: no skip.

    Returns:
        y (B, L, D) in the dtype of `u`.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_tensors({"u": u, "kernel": kernel}, D=D)
    check_rows("u", u)
    check_floats(u, u=u, kernel=kernel, D=D)
    if kernel.dim() != 2 or kernel.shape[0] != u.shape[2] or kernel.shape[1] < 1:
        raise ValueError(f"kernel must be (D, K) = ({u.shape[2]}, K); got {tuple(kernel.shape)}")
    check_shape("D", D, "D,", (u.shape[2],))
    check_reverse_mode("fft_convolution", u, kernel, D)
    return _forward_op(u, kernel, D)


def _run_forward(u, kernel, D):
    with torch.autocast(u.device.type, enabled=False):
        return transforms.forward(u, kernel, D)


def _fake_forward(u, kernel, D):
    return u.new_empty(u.shape)


def _run_backward(dy, u, kernel, D):
    with torch.autocast(u.device.type, enabled=False):
        grads = transforms.backward(dy, u, kernel, D)
    return [grad for grad in grads if grad is not None]


def _fake_backward(dy, u, kernel, D):
    return [tensor.new_empty(tensor.shape) for tensor in (u, kernel, D) if tensor is not None]


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _autograd_backward(ctx, dy):
    inputs = ctx.saved_tensors
    grads = iter(_backward_op(dy, *inputs))
    return tuple(None if tensor is None else next(grads) for tensor in inputs)


_forward_op = torch.library.custom_op(
    "ssmbio::fft_convolution_forward",
    _run_forward,
    mutates_args=(),
    schema="(Tensor u, Tensor kernel, Tensor? D) -> Tensor",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::fft_convolution_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor u, Tensor kernel, Tensor? D) -> Tensor[]",
)
_backward_op.register_fake(_fake_backward)
