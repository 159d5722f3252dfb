"""`causal_conv1d` and its step: checks, defaults and the registration with `torch.library`.

A backend is a module with `forward` and `backward` (see `torch_path.py`). It sees x with a contiguous last dimension,
weight, bias and state contiguous, the state in float32 (float64 when x is).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.causal_conv1d.reference import causal_conv1d_reference
from ssmbio.kernels.checks import (
    check_floats,
    check_packing,
    check_parameters,
    check_reverse_mode,
    check_rows,
    check_shape,
    check_tensors,
)
from ssmbio.kernels.dispatch import implementation, on_its_device
from ssmbio.kernels.packing import check_offsets
from ssmbio.kernels.steps import triton_steps

_INPUTS = (
    "Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? initial_state, Tensor? cu_seqlens, "
    "bool reverse, str backend"
)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = "silu",
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise convolution over the present and the K − 1 positions before it, then SiLU.

        y_t = act(bias + Σ_k weight_k x_{t-K+1+k})

    Every input has a gradient, and so has the final state.

    Args:
        x: (B, L, D), float32, bfloat16, float16 (or float64). With `cu_seqlens`, B is 1 and L the sequences' total.
        weight: (D, K), K from 2 to 8; the last tap meets the present position.
        bias: (D,).
        activation: "silu" or None.
        initial_state: (B, K − 1, D), with `cu_seqlens` (S, K − 1, D): the inputs before the first, oldest first.
        return_final_state: also return the last K − 1 inputs of each row or sequence.
        cu_seqlens: (S + 1,) int32, the offsets of the sequences of a packed row, from 0 to L; each has a position.
        reverse: go through each sequence from its end; "before" then means the positions after.
        backend: "auto", "triton", "torch", or "reference" (slow, for tests).

    Returns:
        y (B, L, D) in the dtype of `x`, and with `return_final_state` the final state, as `initial_state`, float32.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    _check_arguments(x, weight, bias, activation, initial_state, cu_seqlens)
    state_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    initial_state = None if initial_state is None else initial_state.to(state_dtype)
    if backend == "reference":
        check_offsets(cu_seqlens, x.shape[1])
        y, final_state = causal_conv1d_reference(x, weight, bias, activation, initial_state, cu_seqlens, reverse)
    else:
        check_reverse_mode("causal_conv1d", x, weight, bias, initial_state)
        y, final_state = _forward_op(x, weight, bias, activation, initial_state, cu_seqlens, reverse, backend)
    return (y, final_state) if return_final_state else y


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One position of `causal_conv1d`: x (B, D), state (B, K − 1, D) → y (B, D), new state; `state` is not changed.

    weight is (D, K), bias (D,); y has the dtype of x, the new state is float32 (float64 when x is).
    Differentiable; Triton's kernel has no backward pass and runs where no gradient is recorded (`torch.no_grad()`).
    Raises ValueError or TypeError, naming an argument of wrong shape, device or dtype.
    """
    check_tensors({"x": x, "weight": weight, "state": state}, bias=bias)
    check_floats(x, x=x)
    check_parameters("x", x, weight=weight, bias=bias, state=state)
    if x.dim() != 2:
        raise ValueError(f"x must be (B, D); got {tuple(x.shape)}")
    _check_taps(weight, x.shape[1], activation)
    check_shape("state", state, "B, K - 1, D", (x.shape[0], weight.shape[1] - 1, x.shape[1]))
    check_shape("bias", bias, "D,", (x.shape[1],))
    if triton_steps(backend, x, weight, bias, state):
        from ssmbio.kernels.causal_conv1d import triton_step

        return triton_step.step(x, weight, bias, activation, state)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    window = torch.cat([state.to(dtype), x.unsqueeze(1).to(dtype)], dim=1)
    y = (window * weight.t().to(dtype)).sum(1)
    if bias is not None:
        y = y + bias.to(dtype)
    y = F.silu(y) if activation == "silu" else y
    return y.to(x.dtype), window[:, 1:]


def _check_arguments(x, weight, bias, activation, initial_state, cu_seqlens) -> None:
    check_tensors({"x": x, "weight": weight}, bias=bias, initial_state=initial_state, cu_seqlens=cu_seqlens)
    check_rows("x", x)
    check_floats(x, x=x)
    check_packing("x", x, cu_seqlens)
    check_parameters("x", x, weight=weight, bias=bias, initial_state=initial_state)
    batch, _, channels = x.shape
    _check_taps(weight, channels, activation)
    check_shape("bias", bias, "D,", (channels,))
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rows = "B, K - 1, D" if cu_seqlens is None else "S, K - 1, D"
    check_shape("initial_state", initial_state, rows, (sequences, weight.shape[1] - 1, channels))


def _check_taps(weight: Tensor, channels: int, activation: str | None) -> None:
    if weight.dim() != 2 or weight.shape[0] != channels or not 2 <= weight.shape[1] <= 8:
        raise ValueError(f"weight must be (D, K) = ({channels}, 2 to 8); got {tuple(weight.shape)}")
    if activation not in ("silu", None):
        raise ValueError(f'activation must be "silu" or None; got {activation!r}')


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _backend(backend: str, x: Tensor):
    return implementation("ssmbio.kernels.causal_conv1d", "torch_path", backend, x)


@on_its_device
def _run_forward(x, weight, bias, activation, initial_state, cu_seqlens, reverse, backend):
    check_offsets(cu_seqlens, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        return _backend(backend, x).forward(
            *(_rows(x), _whole(weight), _whole(bias), activation, _whole(initial_state), _whole(cu_seqlens), reverse)
        )


def _fake_forward(x, weight, bias, activation, initial_state, cu_seqlens, reverse, backend):
    _backend(backend, x)  # an impossible choice of backend fails here, as it does with real tensors
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty((sequences, weight.shape[1] - 1, x.shape[2]), dtype=dtype)


@on_its_device
def _run_backward(
    dy, d_final_state, x, weight, bias, activation, initial_state, cu_seqlens, reverse, backend
):  # fmt: skip
    with torch.autocast(x.device.type, enabled=False):
        grads = _backend(backend, x).backward(
            *(_rows(dy), _whole(d_final_state), _rows(x), _whole(weight), _whole(bias), activation),
            *(_whole(initial_state), _whole(cu_seqlens), reverse),
        )
    return [grad for grad in grads if grad is not None]


def _fake_backward(dy, d_final_state, x, weight, bias, activation, initial_state, cu_seqlens, reverse, backend):
    return [tensor.new_empty(tensor.shape) for tensor in (x, weight, bias, initial_state) if tensor is not None]


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.activation, initial_state, cu_seqlens, ctx.reverse, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, initial_state, cu_seqlens)


def _autograd_backward(ctx, dy, d_final_state):
    x, weight, bias, initial_state, cu_seqlens = ctx.saved_tensors
    dy = x.new_zeros(x.shape) if dy is None else dy
    grads = iter(
        _backward_op(
            *(dy, d_final_state, x, weight, bias, ctx.activation),
            *(initial_state, cu_seqlens, ctx.reverse, ctx.backend),
        )
    )
    inputs = (x, weight, bias, None, initial_state, None, None, None)
    return tuple(None if tensor is None else next(grads) for tensor in inputs)


_forward_op = torch.library.custom_op(
    "ssmbio::causal_conv1d_forward",
    _run_forward,
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor y, Tensor final_state)",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::causal_conv1d_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? d_final_state, {_INPUTS}) -> Tensor[]",
)
_backward_op.register_fake(_fake_backward)
