"""Launches of one pass of an op, whose kernels Triton compiles side by side the first time.

Triton compiles a kernel where it is launched first, one after the other, for seconds each; most of that time is spent
without Python's lock. So from the first launch of a kernel that is not known yet, launches wait for the end of the
pass: then all are compiled in threads, and run in their order. A pass of known kernels launches as it goes. The kernels
of a pass that is expected to follow are compiled beside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import torch
import triton

_Launched = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]  # kernel, grid, arguments, constants
Launch = Callable[..., None]  # of the same, in place of kernel[grid](*arguments, **constants)

_known: set[tuple[Any, ...]] = set()  # kernels launched by this process, with their types, devices and constants


@contextmanager
def launches(expected: Callable[[Launch], object] | None = None) -> Iterator[Launch]:
    """Gives the function that launches, now or at the end of the block; nothing there may read what a launch writes.

    `expected` makes the launches of a later pass, with tensors that may be fake ones: these are not run.
    """
    waiting: list[_Launched] = []
    later: list[_Launched] = []

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        if waiting or not _is_known(kernel, arguments, constants):
            waiting.append((kernel, grid, arguments, constants))
        else:
            kernel[grid](*arguments, **constants)

    def only_compile(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        # Triton takes a dtype for a pointer to it, as well aligned as torch's are.
        types = (x.dtype if isinstance(x, torch.Tensor) else x for x in arguments)
        later.append((kernel, grid, tuple(types), constants))

    yield launch
    if waiting:
        if expected is not None:
            expected(only_compile)
        Context().run(_compile, waiting + later)  # Triton marks the context, and leaves it so where it fails
    for kernel, grid, arguments, constants in waiting:
        kernel[grid](*arguments, **constants)
        _known.add(_key(kernel, arguments, constants))


def _compile(launched: list[_Launched]) -> None:
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads, triton.AsyncCompileMode(threads):
            for kernel, grid, arguments, constants in launched:
                kernel.warmup(*arguments, grid=grid, **constants)
    except Exception:
        for kernel, *_ in launched:
            _forget_unfinished(kernel)
        raise


def _forget_unfinished(kernel: Any) -> None:
    """Triton may keep a compilation that failed in place of the kernel, for good: the next launch is to try again."""
    for kernels, *_ in kernel.device_caches.values():
        for key in [key for key, kept in kernels.items() if isinstance(kept, triton.FutureKernel)]:
            del kernels[key]


def _is_known(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> bool:
    interpreted = not isinstance(kernel, triton.JITFunction)
    return interpreted or _key(kernel, arguments, constants) in _known


def _key(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, ...]:
    """What a kernel is compiled for, apart from sizes: those that make it another are met where it is launched."""
    types = ((x.dtype, x.get_device()) if isinstance(x, torch.Tensor) else x is None for x in arguments)
    return (kernel.fn, *types, *constants.values())
