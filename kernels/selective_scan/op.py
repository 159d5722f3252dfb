"""`selective_scan`: checks, defaults and the registration with `torch.library`; the work is in the backends.

A backend is a module with `forward`, `backward` and `checkpoints_shape` (see `torch_chunked.py`). It sees normalized
inputs: B and C (B, L, G, N); A, D and delta_bias in the dtype of the states; last dimensions contiguous. Only with
`keep` does the forward pass leave checkpoints for a backward pass; without it they are those of length 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_reverse_mode
from ssmbio.kernels.dispatch import implementation, on_its_device
from ssmbio.kernels.packing import check_offsets
from ssmbio.kernels.selective_scan.checks import check_arguments
from ssmbio.kernels.selective_scan.reference import selective_scan_reference

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? initial_state, Tensor? cu_seqlens, bool reverse, str backend"
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan; the equations stand in `reference.py`.

        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,   y_t = (C_t · h_t + D u_t) silu(z_t),   Δ = softplus(delta + bias)

    Every input has a gradient, and so has the final state. Inputs may be float32, bfloat16 or float16, mixed as the
    layer has them (float64 for all, with the torch backends); states and their gradients are float32.

    Where `u` is float32, the Triton kernels' exponentials are as exact as float32. In bfloat16 and float16 they are the
    hardware's, within two units in the last place of float32: a few millionths of what is returned in float32 (states,
    gradients of A, delta_bias and states), where memories are tens of positions long, and more where they are longer.

    Args:
        u: (B, L, D), the input. With `cu_seqlens`, B is 1 and L the sequences' total.
        delta: (B, L, D), the step size, before bias and softplus; after them it must not be negative.
        A: (D, N), real and negative.
        B, C: (B, L, N), or (B, L, G, N) with channel d in group d // (D // G).
        D: (D,), the skip. None: no skip.
        z: (B, L, D), the gate. None: no gate.
        delta_bias: (D,), added to `delta`.
        delta_softplus: whether the step size goes through softplus.
        initial_state: (B, D, N), with `cu_seqlens` (S, D, N). None: zeros.
        return_final_state: also return the state after the last position of each row or sequence.
        cu_seqlens: (S + 1,) int32, the offsets of the sequences of a packed row, from 0 to L; each has a position.
        reverse: scan each sequence from its end; the initial state enters at its last position.
        backend: "auto", "triton", "torch", or "reference" (sequential: slow, for tests).

    Returns:
        y (B, L, D) in the dtype of `u`, and with `return_final_state` the final state, as `initial_state`, float32.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_arguments(u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)
    state_dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    A = A.to(state_dtype)
    D = None if D is None else D.to(state_dtype)
    delta_bias = None if delta_bias is None else delta_bias.to(state_dtype)
    initial_state = None if initial_state is None else initial_state.to(state_dtype)
    if backend == "reference":
        check_offsets(cu_seqlens, u.shape[1])
        y, final_state = selective_scan_reference(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse
        )
    else:
        B = B.unsqueeze(2) if B.dim() == 3 else B
        C = C.unsqueeze(2) if C.dim() == 3 else C
        check_reverse_mode("selective_scan", u, delta, A, B, C, D, z, delta_bias, initial_state)
        keep = gradient_wanted(u, delta, A, B, C, D, z, delta_bias, initial_state)
        y, final_state, _ = _forward_op(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, backend, keep
        )
    return (y, final_state) if return_final_state else y


def gradient_wanted(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is made of these tensors; not to be asked inside an op, where grad mode is off.

    Under `vmap` tensors do not tell.
    """
    if not torch.is_grad_enabled():
        return False
    mapped = torch._C._are_functorch_transforms_active()
    return mapped or any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _rows(tensor: Tensor | None) -> Tensor | None:
    """Last dimension contiguous; other strides stay, for u and z are often halves of one projection."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _backend(backend: str, u: Tensor):
    return implementation("ssmbio.kernels.selective_scan", "torch_chunked", backend, u)


def _state_shape(u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return sequences, u.shape[2], A.shape[1]


@on_its_device
def _run_forward(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, backend, keep
):
    check_offsets(cu_seqlens, u.shape[1])
    # Inside the op the precision is ours alone: an enclosing autocast would turn products of states to bfloat16.
    with torch.autocast(u.device.type, enabled=False):
        return _backend(backend, u).forward(
            *(_rows(u), _rows(delta), _whole(A), _rows(B), _rows(C), _whole(D), _rows(z), _whole(delta_bias)),
            *(delta_softplus, _whole(initial_state), _whole(cu_seqlens), reverse, keep),
        )


def _fake_forward(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, backend, keep
):
    state = _state_shape(u, A, cu_seqlens)
    batch, length, channels = u.shape
    kept = length if keep else 0
    shape = _backend(backend, u).checkpoints_shape(batch, kept, channels, A.shape[1], state[0])
    return u.new_empty(u.shape), A.new_empty(state), A.new_empty(shape)


@on_its_device
def _run_backward(
    dy, d_final_state, checkpoints,
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, backend,
):  # fmt: skip
    with torch.autocast(u.device.type, enabled=False):
        grads = _backend(backend, u).backward(
            *(_rows(dy), _whole(d_final_state), checkpoints),
            *(_rows(u), _rows(delta), _whole(A), _rows(B), _rows(C), _whole(D), _rows(z), _whole(delta_bias)),
            *(delta_softplus, _whole(initial_state), _whole(cu_seqlens), reverse),
        )
    return [grad for grad in grads if grad is not None]


def _fake_backward(
    dy, d_final_state, checkpoints,
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, backend,
):  # fmt: skip
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return [tensor.new_empty(tensor.shape) for tensor in inputs if tensor is not None]


def _setup_context(ctx, inputs, output):
    *tensors_and_flags, ctx.backend, ctx.keep = inputs
    u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, initial_state, cu_seqlens, ctx.reverse = tensors_and_flags
    checkpoints = output[2]
    ctx.mark_non_differentiable(checkpoints)
    ctx.set_materialize_grads(False)  # no zeros in place of the gradients of states that nobody used
    ctx.save_for_backward(checkpoints, u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)


def _autograd_backward(ctx, dy, d_final_state, _):
    if not ctx.keep:
        raise RuntimeError("selective_scan ran with keep=False, for inference: it has no gradient")
    checkpoints, u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens = ctx.saved_tensors
    dy = u.new_zeros(u.shape) if dy is None else dy
    grads = iter(
        _backward_op(
            *(dy, d_final_state, checkpoints, u, delta, A, B, C, D, z, delta_bias),
            *(ctx.delta_softplus, initial_state, cu_seqlens, ctx.reverse, ctx.backend),
        )
    )
    inputs = (u, delta, A, B, C, D, z, delta_bias, None, initial_state, None, None, None, None)
    return tuple(None if tensor is None else next(grads) for tensor in inputs)


_forward_op = torch.library.custom_op(
    "ssmbio::selective_scan_forward",
    _run_forward,
    mutates_args=(),
    schema=f"({_INPUTS}, bool keep) -> (Tensor y, Tensor final_state, Tensor checkpoints)",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::selective_scan_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? d_final_state, Tensor checkpoints, {_INPUTS}) -> Tensor[]",
)
_backward_op.register_fake(_fake_backward)
