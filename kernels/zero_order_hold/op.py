"""`zero_order_hold`: checks, gradients of shared systems, and the registration with `torch.library`.

A backend is a module with `forward` and `backward` (see `torch_path.py`). It sees contiguous tensors; log_decay,
frequency and B have a row a channel or one row for all, and their gradients it gives for each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_reverse_mode, check_shape
from ssmbio.kernels.dispatch import implementation, on_its_device

_INPUTS = "Tensor log_decay, Tensor frequency, Tensor B, Tensor log_dt, float rate, str backend"


def zero_order_hold(
    log_decay: Tensor, frequency: Tensor, B: Tensor, log_dt: Tensor, rate: float = 1.0, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """From continuous to discrete time: x' = A x + B u, u constant over a step Δ, becomes h ← exp(log_a) h + b u.

        A = -exp(log_decay) + i frequency,  Δ = exp(log_dt) rate,
        log_a = ΔA,  b = (exp(ΔA) - 1) / A · B          (S4D, arXiv 2206.11893, section 3.1)

    With φ(z) = (exp(z) - 1) / z, so that b = Δ φ(ΔA) B, and with x̄ = ∂L/∂Re x + i ∂L/∂Im x, the gradients are

        s = log_ā + conj(Δ φ'(ΔA) B) b̄       (so that Ā = Δ s)
        log_decay: Re(ΔA) Re(s),   frequency: Δ Im(s),   B: conj(Δ φ(ΔA)) b̄,
        log_dt: Re Σ_n conj(ΔA) log_ā + conj(Δ exp(ΔA) B) b̄

    the first three summed over channels where these share one system. Small ΔA keep their digits both ways: neither
    exp(z) - 1 nor φ'(z) is taken as a difference of numbers that nearly agree; b and the gradients stay finite where
    exp(ΔA) vanishes. In Triton each way is one kernel and results do not depend on timing.

    Args:
        log_decay, frequency: (C, N), C being D, or 1: one system for all channels. float32, or float64 all four.
        B: (C, N, 2), real and imaginary parts.
        log_dt: (D,).
        rate: factor of every step, positive; it has no gradient.
        backend: "auto", "triton" or "torch".

    Returns:
        log_a and b, each (D, N), complex64 (complex128 of float64).

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_floats(log_decay, log_decay=log_decay, frequency=frequency, B=B, log_dt=log_dt)
    for name, tensor in (("log_decay", log_decay), ("frequency", frequency), ("B", B), ("log_dt", log_dt)):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {tensor.dtype}")
    if log_dt.dim() != 1 or 0 in log_dt.shape:
        raise ValueError(f"log_dt must be (D,), D at least 1; got {tuple(log_dt.shape)}")
    channels = log_dt.shape[0]
    if log_decay.dim() != 2 or 0 in log_decay.shape or log_decay.shape[0] not in (1, channels):
        raise ValueError(f"log_decay must be (C, N), C 1 or D = {channels}; got {tuple(log_decay.shape)}")
    check_shape("frequency", frequency, "C, N", log_decay.shape)
    check_shape("B", B, "C, N, 2", (*log_decay.shape, 2))
    check_reverse_mode("zero_order_hold", log_decay, frequency, B, log_dt)
    return _forward_op(log_decay, frequency, B, log_dt, float(rate), backend)


def _backend(backend: str, log_decay: Tensor):
    return implementation("ssmbio.kernels.zero_order_hold", "torch_path", backend, log_decay)


@on_its_device
def _run_forward(log_decay, frequency, B, log_dt, rate, backend):
    inputs = (tensor.contiguous() for tensor in (log_decay, frequency, B, log_dt))
    with torch.autocast(log_dt.device.type, enabled=False):
        return _backend(backend, log_decay).forward(*inputs, rate)


def _fake_forward(log_decay, frequency, B, log_dt, rate, backend):
    _backend(backend, log_decay)  # an impossible choice of backend fails here, as it does with real tensors
    shape, dtype = (log_dt.shape[0], log_decay.shape[1]), log_decay.dtype.to_complex()
    return log_decay.new_empty(shape, dtype=dtype), log_decay.new_empty(shape, dtype=dtype)


@on_its_device
def _run_backward(d_log_a, d_b, log_decay, frequency, B, log_dt, rate, backend):
    grads = (grad.contiguous() for grad in (d_log_a, d_b))
    inputs = (tensor.contiguous() for tensor in (log_decay, frequency, B, log_dt))
    with torch.autocast(log_dt.device.type, enabled=False):
        *of_channels, d_log_dt = _backend(backend, log_decay).backward(*grads, *inputs, rate)
    if log_decay.shape[0] < log_dt.shape[0]:
        of_channels = [grad.sum(0, keepdim=True) for grad in of_channels]
    return *of_channels, d_log_dt


def _fake_backward(d_log_a, d_b, log_decay, frequency, B, log_dt, rate, backend):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (log_decay, frequency, B, log_dt))


def _setup_context(ctx, inputs, output):
    *tensors, ctx.rate, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx, d_log_a, d_b):
    return *_backward_op(d_log_a, d_b, *ctx.saved_tensors, ctx.rate, ctx.backend), None, None


_forward_op = torch.library.custom_op(
    "ssmbio::zero_order_hold_forward",
    _run_forward,
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor log_a, Tensor b)",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::zero_order_hold_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor d_log_a, Tensor d_b, {_INPUTS}) "
    "-> (Tensor d_log_decay, Tensor d_frequency, Tensor dB, Tensor d_log_dt)",
)
_backward_op.register_fake(_fake_backward)
