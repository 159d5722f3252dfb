"""How the steps of recurrent decoding choose between their Triton kernels and plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.dispatch import resolve_backend


def triton_steps(backend: str, main: Tensor, *others: Tensor | None) -> bool:
    """Whether a step with these inputs runs in Triton; `dispatch.py` decides, with two exceptions.

    The kernels of steps have no backward pass, for decoding needs none: where autograd records any of the inputs,
    `auto` is torch, which is differentiable. And so it is inside `torch.compile`, which fuses a step's few operations
    by itself.

    Raises:
        ValueError: `backend` is no such name.
        RuntimeError: `backend="triton"` and Triton cannot run here, or a gradient is asked for.
    """
    if backend == "auto" and torch.compiler.is_compiling():
        return False
    if resolve_backend(backend, main) != "triton":
        return False
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (main, *others))
    if recorded and backend == "triton":
        raise RuntimeError(
            'backend="triton" cannot run: its steps have no gradient, and an input requires one; '
            'use torch.no_grad(), or backend="auto" or "torch"'
        )
    return not recorded
