"""Decoding on a CPU without a call for each layer: the model as a list of operations, run by a compiled loop.

A step of a small model is some hundred operations of microseconds, so in Python it is the calls that take the time.
`packed_step.c` runs the list in float32, and draws as well; the system's C compiler makes it in half a second.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmbio.generation.packed_model import NotPacked, program_of
from ssmbio.generation.sampling import SamplingSettings

_SOURCE = Path(__file__).with_name("packed_step.c")
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC")
_MACHINES = ("-march=native", "-mcpu=native", None)  # compilers know the one or the other


class _Sampling(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("temperature", "top_p", "min_p")),
        ("top_k", ctypes.c_int64),
    )


class PackedDecoder:
    """Rows of clips in arenas of their own; a row is computed by itself, so its codes depend on no other.

    Args:
        model: a prepared one, on the CPU.
        batch_size: B.
        settings: how codes are drawn.

    Attributes:
        stride: 1, for it can stop anywhere.

    Raises:
        NotPacked: the model has a part without an operation, or there is no C compiler.
    """

    stride = 1

    def __init__(self, model: Any, batch_size: int, settings: SamplingSettings) -> None:
        self._loop = compiled_loop()
        program = program_of(model)
        self._ops, self._weights = program.finished()
        self._levels, self._loads = model.head.out_features, program.loads
        self._arenas = np.zeros((batch_size, program.size), np.float32)
        self._previous = np.zeros(batch_size, np.int64)
        self._settings = _Sampling(settings.temperature, settings.top_p, settings.min_p, settings.top_k or 0)
        self._position = 0

    def load(self, previous: Tensor, state: Any) -> None:
        """Go on from the code before, (B,), and the state before that, after whole periods."""
        self._previous[:] = previous.numpy()
        arenas = torch.from_numpy(self._arenas)
        for start, take in self._loads:
            part = take(state)
            arenas[:, start : start + part.shape[1]] = part
        self._position = 0

    def __call__(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """uniforms (B, n) float64, of the next n positions → codes (B, n) uint8 and bits (B, n) float64."""
        numbers = uniforms.contiguous().numpy()
        codes, bits = np.empty(numbers.shape, np.uint8), np.empty(numbers.shape)
        rows = np.array_split(np.arange(len(numbers)), min(torch.get_num_threads(), len(numbers)))
        shares = [slice(part[0], part[-1] + 1) for part in rows]
        if len(shares) == 1:
            self._run(shares[0], numbers, codes, bits)
        else:
            with ThreadPoolExecutor(len(shares)) as pool:
                list(pool.map(lambda share: self._run(share, numbers, codes, bits), shares))
        self._position += numbers.shape[1]
        return torch.from_numpy(codes), torch.from_numpy(bits)

    def _run(self, rows: slice, numbers: np.ndarray, codes: np.ndarray, bits: np.ndarray) -> None:
        self._loop(
            *(_address(self._ops), len(self._ops), _address(self._weights)),
            *(_address(self._arenas[rows]), self._arenas.shape[1], rows.stop - rows.start),
            *(self._position, numbers.shape[1], self._levels, ctypes.byref(self._settings)),
            *(_address(array[rows]) for array in (self._previous, numbers, codes, bits)),
        )


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@lru_cache(maxsize=1)
def compiled_loop() -> Any:
    """The loop, for this processor. Raises NotPacked where nothing can compile it."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise NotPacked("there is no C compiler (cc, gcc, clang or the one that CC names)")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "packed_step.so"
        for machine in _MACHINES:
            flags = [*_FLAGS, *([machine] if machine else []), str(_SOURCE), "-o", str(library), "-lm"]
            try:
                done = subprocess.run([*shlex.split(compiler), *flags], capture_output=True, text=True)
            except OSError as error:
                raise NotPacked(f"the C compiler does not run: {error}") from error
            if done.returncode == 0:
                loop = ctypes.CDLL(str(library)).ssmbio_decode
                loop.restype = None
                long, pointer = ctypes.c_int64, ctypes.c_void_p
                loop.argtypes = [pointer, long, pointer, pointer, long, long, long, long, long, *[pointer] * 5]
                return loop
    raise NotPacked(f"{compiler} cannot compile {_SOURCE.name}: {done.stderr.strip()[:500]}")
