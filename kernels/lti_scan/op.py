"""`lti_scan`: checks, defaults and the registration with `torch.library`; the work is in the backends.

A backend is a module with `forward`, `backward` and `checkpoints_shape` (see `torch_chunked.py`). It sees normalized
inputs: u with a contiguous last dimension; log_a, b, c and the state contiguous, in the dtype of the states; D in its
real counterpart. What it keeps for the backward pass is one tensor in the dtype of the states, `checkpoints`. It must
conjugate with `conj_physical`: inside an op of a compiled graph torch loses the conjugation that `conj` puts off.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ssmbio.kernels import dispatch
from ssmbio.kernels.checks import check_reverse_mode
from ssmbio.kernels.dispatch import on_its_device
from ssmbio.kernels.lti_scan.checks import check_arguments
from ssmbio.kernels.lti_scan.reference import lti_scan_reference
from ssmbio.kernels.packing import check_offsets

_PACKAGE = "ssmbio.kernels.lti_scan"
_BACKENDS = ("auto", "triton", "torch", "fft", "reference")
_INPUTS = (
    "Tensor u, Tensor log_a, Tensor b, Tensor c, Tensor? D, Tensor? initial_state, Tensor? cu_seqlens, "
    "bool reverse, str backend"
)


def lti_scan(
    u: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of a time-invariant diagonal system, as in S4D; the equations and their source stand in `reference.py`.

        h_l = exp(log_a) h_{l-1} + b u_l,   y_l = 2 Re Σ_n c_n h_{l,n} + D u_l

    Every input has a gradient, and so has the final state. The gradient of a complex input is torch's, ∂/∂Re + i ∂/∂Im.
    u may be float32, bfloat16 or float16 (or float64, with the torch backends); states and their gradients are
    complex64 (complex128 when u is float64), and parameters are cast to that.

    Accuracy of Triton's kernels against float64, ‖found - exact‖ / ‖exact‖ of each output and gradient: below 5e-6 with
    float32 u (products of two TF32 terms each, TF32x3), tested on tensor cores up to 2^22 positions; below 5e-5 with
    bfloat16 and 5e-6 with float16, but y and the gradient of u, rounded to the dtype of u, below 4e-3 and 5e-4. For the
    gradient of D, one sum that may cancel, ‖dy u‖ stands in place of a smaller ‖exact‖.

    A number in u that is not finite spoils the later outputs of its channel, and up to 63 before it: products of whole
    chunks multiply it by zeros ("fft": all of the row). Other channels, rows and sequences it does not reach.

    Args:
        u: (B, L, D), the input, real. With `cu_seqlens`, B is 1 and L the sequences' total.
        log_a: (D, N), complex: the logarithm of the discretized state matrix, one of each pair of conjugates. Its real
            part must not be positive, which is not checked: a state that grows is computed as it grows, to infinity.
        b, c: (D, N), complex: the discretized input matrix and the output matrix.
        D: (D,), the skip, real. None: no skip.
        initial_state: (B, D, N), with `cu_seqlens` (S, D, N), complex. None: zeros.
        return_final_state: also return the state after the last position of each row or sequence.
        cu_seqlens: (S + 1,) int32, the offsets of the sequences of a packed row, from 0 to L; each has a position.
            Their values are checked on the CPU only: on a GPU a look would stall it, and wrong ones give wrong results.
        reverse: scan each sequence from its end; the initial state enters at its last position.
        backend: "auto", "triton", "torch", "fft" (one long convolution, no `cu_seqlens`; for comparison), or
            "reference" (sequential: slow, for tests).

    Returns:
        y (B, L, D) in the dtype of `u`, and with `return_final_state` the final state, as `initial_state`.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names; cu_seqlens beside "fft".
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    check_arguments(u, log_a, b, c, D, initial_state, cu_seqlens)
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}; got {backend!r}")
    if backend == "fft" and cu_seqlens is not None:
        raise ValueError('cu_seqlens must be None beside backend="fft", whose one transform would mix the sequences')
    real, states = (torch.float64, torch.complex128) if u.dtype == torch.float64 else (torch.float32, torch.complex64)
    log_a, b, c = log_a.to(states), b.to(states), c.to(states)
    D = None if D is None else D.to(real)
    initial_state = None if initial_state is None else initial_state.to(states)
    if backend == "reference":
        check_offsets(cu_seqlens, u.shape[1])
        y, final_state = lti_scan_reference(u, log_a, b, c, D, initial_state, cu_seqlens, reverse)
    else:
        check_reverse_mode("lti_scan", u, log_a, b, c, D, initial_state)
        y, final_state, _ = _forward_op(u, log_a, b, c, D, initial_state, cu_seqlens, reverse, backend)
    return (y, final_state) if return_final_state else y


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _backend(backend: str, u: Tensor):
    if backend == "fft":
        return importlib.import_module(f"{_PACKAGE}.fft")
    return dispatch.implementation(_PACKAGE, "torch_chunked", backend, u)


@on_its_device
def _run_forward(u, log_a, b, c, D, initial_state, cu_seqlens, reverse, backend):
    check_offsets(cu_seqlens, u.shape[1])
    # Inside the op the precision is ours alone: an enclosing autocast would turn products of states to bfloat16.
    with torch.autocast(u.device.type, enabled=False):
        return _backend(backend, u).forward(
            *(_rows(u), _whole(log_a), _whole(b), _whole(c), _whole(D)),
            *(_whole(initial_state), _whole(cu_seqlens), reverse),
        )


def _fake_forward(u, log_a, b, c, D, initial_state, cu_seqlens, reverse, backend):
    batch, length, channels = u.shape
    sequences, pairs = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1, log_a.shape[1]
    checkpoints = _backend(backend, u).checkpoints_shape(batch, length, channels, pairs, sequences)
    return u.new_empty(u.shape), log_a.new_empty(sequences, channels, pairs), log_a.new_empty(checkpoints)


@on_its_device
def _run_backward(
    dy, d_final_state, checkpoints, u, log_a, b, c, D, initial_state, cu_seqlens, reverse, backend
):  # fmt: skip
    with torch.autocast(u.device.type, enabled=False):
        grads = _backend(backend, u).backward(
            *(_rows(dy), _whole(d_final_state), checkpoints),
            *(_rows(u), _whole(log_a), _whole(b), _whole(c), _whole(D)),
            *(_whole(initial_state), _whole(cu_seqlens), reverse),
        )
    return [grad for grad in grads if grad is not None]


def _fake_backward(
    dy, d_final_state, checkpoints, u, log_a, b, c, D, initial_state, cu_seqlens, reverse, backend
):  # fmt: skip
    return [tensor.new_empty(tensor.shape) for tensor in (u, log_a, b, c, D, initial_state) if tensor is not None]


def _setup_context(ctx, inputs, output):
    *tensors, ctx.reverse, ctx.backend = inputs
    checkpoints = output[2]
    ctx.mark_non_differentiable(checkpoints)
    ctx.set_materialize_grads(False)  # no zeros in place of the gradients of states that nobody used
    ctx.save_for_backward(checkpoints, *tensors)


def _autograd_backward(ctx, dy, d_final_state, _):
    checkpoints, u, log_a, b, c, D, initial_state, cu_seqlens = ctx.saved_tensors
    dy = u.new_zeros(u.shape) if dy is None else dy
    grads = iter(
        _backward_op(
            *(dy, d_final_state, checkpoints, u, log_a, b, c, D, initial_state, cu_seqlens),
            *(ctx.reverse, ctx.backend),
        )
    )
    inputs = (u, log_a, b, c, D, initial_state, None, None, None)
    return tuple(None if tensor is None else next(grads) for tensor in inputs)


_forward_op = torch.library.custom_op(
    "ssmbio::lti_scan_forward",
    _run_forward,
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor y, Tensor final_state, Tensor checkpoints)",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::lti_scan_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? d_final_state, Tensor checkpoints, {_INPUTS}) -> Tensor[]",
)
_backward_op.register_fake(_fake_backward)
