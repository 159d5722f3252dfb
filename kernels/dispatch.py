"""Which implementation runs: `Backend = auto | triton | torch | reference`.

`auto` may fall back; an explicit choice never does, it raises and says why. The decision is taken at each call, so
nothing depends on what could be imported when, and a machine without Triton only notices where it asks for Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache, wraps
from types import ModuleType
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")

BACKENDS = ("auto", "triton", "torch", "reference")


@lru_cache(maxsize=1)
def triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_obstacle(tensor: torch.Tensor) -> str | None:
    """Why a Triton kernel cannot take `tensor`, or None when it can."""
    if tensor.dtype == torch.float64:
        return "its kernels take float32, bfloat16 and float16, and this input is float64"
    if not triton_installed():
        return "the package `triton` is not installed"
    if tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are on the CPU, where Triton runs only in its interpreter (TRITON_INTERPRET=1)"
    if tensor.device.type not in ("cpu", "cuda"):
        return f"the tensors are on `{tensor.device.type}`, and it needs CUDA"
    return None


def resolve_backend(backend: str, tensor: torch.Tensor) -> str:
    """The backend that runs on `tensor`: `auto` is Triton on a CUDA device that can take it, else torch.

    Raises:
        ValueError: `backend` is no such name.
        RuntimeError: `backend="triton"` and Triton cannot run here; the message says why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "auto":
        on_gpu = tensor.device.type == "cuda"
        return "triton" if on_gpu and triton_obstacle(tensor) is None else "torch"
    if backend == "triton":
        obstacle = triton_obstacle(tensor)
        if obstacle is not None:
            raise RuntimeError(f'backend="triton" cannot run: {obstacle}; use backend="auto" or "torch"')
    return backend


def on_its_device(run: Callable[P, T]) -> Callable[P, T]:
    """`run` with the device of its first argument as the current one, where Triton launches whatever tensors lie on."""

    @wraps(run)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.cuda.device_of(cast(torch.Tensor, args[0])):
            return run(*args, **kwargs)

    return guarded


def implementation(package: str, torch_module: str, backend: str, tensor: torch.Tensor) -> ModuleType:
    """The module of `package` that implements its op for `tensor`: `triton` or the one named `torch_module`."""
    name = "triton" if resolve_backend(backend, tensor) == "triton" else torch_module
    return importlib.import_module(f"{package}.{name}")
