"""The first calls of an implementation: whether it runs, what compiles, and how much memory it takes."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from ssmbio.benchmarking.peers import LeftOut
from ssmbio.benchmarking.row import MEASURED, OUT_OF_MEMORY
from ssmbio.benchmarking.timing import Call, once_ms


@dataclass
class Trial:
    """What became of one implementation; `call` is None unless it runs.

    Attributes:
        status: as in a row.
        first_ms, warm_ms: times of the first and the second call.
        peak: bytes of memory on a GPU; None elsewhere.
    """

    status: str
    call: Call | None = None
    first_ms: float = 0.0
    warm_ms: float = 0.0
    peak: int | None = None

    def drop(self, status: str) -> None:
        self.status, self.call = status, None


def tried(call: Call, device: str, ours: bool, made_at_first: bool = False) -> Trial:
    """Two calls. Faults of ours are raised, those of peers reported; to be out of memory is no fault.

    Args:
        made_at_first: the first call makes what the others use, so memory is counted from before it; otherwise from
            before the second, without what stays from call to call.
    """
    trial = Trial(MEASURED, call)
    try:
        before = watch_memory(device)
        trial.first_ms = once_ms(call, device)
        if not made_at_first:
            before = watch_memory(device)
        trial.warm_ms = once_ms(call, device)
        if device == "cuda":
            trial.peak = torch.cuda.max_memory_allocated() - before
    except Exception as error:
        if ours and not is_out_of_memory(error):
            raise
        trial.drop(reason(error))
    if trial.call is None:
        free(device)
    return trial


def watch_memory(device: str) -> int:
    """Bytes in use now; the peak is counted anew."""
    if device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def reason(error: Exception) -> str:
    """The status of what raised it."""
    if isinstance(error, LeftOut):
        return f"left out: {error}"
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"[:200]


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free(device: str) -> None:
    """Gives a GPU's memory back; on a CPU nothing keeps it."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
