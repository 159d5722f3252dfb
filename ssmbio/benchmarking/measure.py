"""One case measured: ours and its peers in turns, forward, then forward and backward together."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from ssmbio.benchmarking.cases import Op
from ssmbio.benchmarking.peers import LeftOut, Peer
from ssmbio.benchmarking.roofline import Peaks
from ssmbio.benchmarking.row import (
    FORWARD,
    MEASURED,
    NOT_INSTALLED,
    OURS,
    OUT_OF_MEMORY,
    PASSES,
    Row,
    empty_row,
    measured_row,
)
from ssmbio.benchmarking.timing import Call, once_ms, rounds_within, times_ms
from ssmbio.benchmarking.workload import Case, Workload


def measure(op: Op, case: Case, peers: list[Peer], peaks: Peaks, repeats: int, seconds: float) -> list[Row]:
    """Rows of ours and of each peer, in each pass that the op has.

    Args:
        repeats: rounds of a pass; one call of each implementation is a round.
        seconds: the time after which there are fewer rounds, see `rounds_within`.
    """
    built = _build_all(op, case, peers)
    yardsticks = {peer.name for peer in peers if not peer.same_op}
    rows = []
    for passes, cost in zip(PASSES, op.costs(case), strict=True):
        if cost is None:
            continue
        trials = {name: _try(name, made, passes, case.device) for name, made in built.items()}
        times = _timed(trials, case.device, repeats, seconds)
        for name, trial in trials.items():
            if name not in times:
                rows.append(empty_row(case, name, passes, trial.status))
                continue
            ours = None if name == OURS else times.get(OURS)
            limit = None if name in yardsticks else (cost, peaks)
            rows.append(measured_row(case, name, passes, times[name], ours, limit, trial.peak, trial.first_ms))
    del built, trials
    _free(case.device)
    return rows


@dataclass
class _Trial:
    """What became of one implementation in one pass; `call` is None unless it runs."""

    status: str
    call: Call | None = None
    cold: bool = True
    first_ms: float = 0.0
    warm_ms: float = 0.0
    peak: int | None = None

    def drop(self, status: str) -> None:
        self.status, self.call = status, None


def _build_all(op: Op, case: Case, peers: list[Peer]) -> dict[str, Workload | str]:
    """The workload of each implementation, or why there is none. Without ours there is nothing to compare with."""
    try:
        tensors = op.tensors(case)
        built: dict[str, Workload | str] = {OURS: op.build(case, tensors)}
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return dict.fromkeys((OURS, *(peer.name for peer in peers)), OUT_OF_MEMORY)
    for peer in peers:
        try:
            built[peer.name] = peer.workload(case, tensors) if peer.installed else NOT_INSTALLED
        except Exception as error:  # others' code: whatever goes wrong there must not end our measurement
            built[peer.name] = _reason(error)
    return built


def _try(name: str, made: Workload | str, passes: str, device: str) -> _Trial:
    """The first call, and a second one whose memory is watched. Faults of ours are raised, those of peers reported."""
    if isinstance(made, str):
        return _Trial(made)
    call = made.forward if passes == FORWARD else made.forward_backward
    trial = _Trial(MEASURED, call, made.cold)
    try:
        trial.first_ms = once_ms(call, device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        trial.warm_ms = once_ms(call, device)
        if device == "cuda":
            trial.peak = torch.cuda.max_memory_allocated() - before
    except Exception as error:
        if name == OURS and not _is_out_of_memory(error):
            raise
        trial.drop(_reason(error))
    if trial.call is None:
        _free(device)
    return trial


def _timed(trials: dict[str, _Trial], device: str, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Times of those that run, by name; when memory does not hold the inputs of all of them, of ours alone."""
    calls = {name: trial.call for name, trial in trials.items() if trial.call is not None}
    rounds = rounds_within(sum(trials[name].warm_ms for name in calls), repeats, seconds)
    cold = all(trials[name].cold for name in calls)
    try:
        return times_ms(calls, device, rounds, cold)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    for name in calls:
        trials[name].drop(OUT_OF_MEMORY)
    _free(device)
    return times_ms({OURS: calls[OURS]}, device, rounds, cold) if OURS in calls else {}


def _reason(error: Exception) -> str:
    if isinstance(error, LeftOut):
        return f"left out: {error}"
    if _is_out_of_memory(error):
        return OUT_OF_MEMORY
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free(device: str) -> None:
    """Gives a GPU's memory back; on a CPU nothing keeps it."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
