"""Times of calls: CUDA events over queued calls with the L2 cache flushed between, a monotonic clock on a CPU.

Several calls given together run in turns, one of each a round, so that a change of clocks or of the machine's load
meets all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Call = Callable[[], object]

LEAST_ROUNDS = 3
_FLUSHED = 2**28  # bytes; several times the L2 cache of any GPU
_FLUSH_MS = 0.05  # less than a GPU takes to write them
_MOST_FLUSHES = 64


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def once_ms(call: Call, device: str) -> float:
    """One call from an idle device until the device is idle again, compilation included where there is some."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def rounds_within(round_ms: float, repeats: int, seconds: float) -> int:
    """`repeats`, or as many rounds as fit into `seconds`, but at least `LEAST_ROUNDS`."""
    return min(repeats, max(LEAST_ROUNDS, int(1e3 * seconds / max(round_ms, 1e-6))))


def times_ms(calls: Mapping[str, Call], device: str, rounds: int, cold: bool = True) -> dict[str, list[float]]:
    """Times of each call, `rounds` of each, in turns. All have been called before: nothing compiles here.

    Args:
        cold: on a GPU, overwrite the L2 cache before each call.
    """
    return _on_gpu(calls, rounds, cold) if device == "cuda" else _on_cpu(calls, rounds)


def median_ms(call: Call, device: str, rounds: int = 10) -> float:
    """Median of `rounds` calls after one that is not counted."""
    call()
    return median(times_ms({"": call}, device, rounds)[""])


def shortest_ms(call: Call, device: str, seconds: float = 0.2) -> float:
    """The shortest of the calls that fit into `seconds`, at least ten, after one that is not counted; GPU: the median.

    For what a device could do: of a CPU other processes may hold a core, and a call of two threads then waits for one.
    """
    if device == "cuda":
        return median_ms(call, device)
    call()
    times: list[float] = []
    while len(times) < 10 or sum(times) < 1e3 * seconds:
        times.append(once_ms(call, device))
    return min(times)


def _on_cpu(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(once_ms(call, "cpu"))
    return times


def _on_gpu(calls: Mapping[str, Call], rounds: int, cold: bool) -> dict[str, list[float]]:
    """All rounds are queued before the first is waited for.

    Before a call the cache is flushed as often as keeps the GPU busy while Python prepares the call: what is timed is
    the GPU's work, not its wait for the next kernel.
    """
    flushed = torch.empty(_FLUSHED, dtype=torch.int8, device="cuda")
    flushes = {name: min(_MOST_FLUSHES, 1 + int(_queueing_ms(call) / _FLUSH_MS)) for name, call in calls.items()}
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(flushes[name] if cold else 0):
                flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) for start, end in pairs] for name, pairs in events.items()}


def _queueing_ms(call: Call) -> float:
    """How long Python takes to put the kernels of a call into the queue."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
