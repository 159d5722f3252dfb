"""One case measured: ours and its peers in turns, forward, then forward and backward together.

Yardsticks, which compute something else, come after both passes: attention keeps the tensor cores busy for so long that
the clock is lower for what runs next.
"""

from __future__ import annotations

from ssmbio.benchmarking.cases import Op
from ssmbio.benchmarking.peers import Peer
from ssmbio.benchmarking.roofline import Peaks
from ssmbio.benchmarking.row import FORWARD, NOT_INSTALLED, OURS, OUT_OF_MEMORY, PASSES, Row, empty_row, measured_row
from ssmbio.benchmarking.timing import rounds_within, times_ms
from ssmbio.benchmarking.trial import Trial, free, is_out_of_memory, reason, tried
from ssmbio.benchmarking.workload import Case, Workload


def measure(op: Op, case: Case, peers: list[Peer], peaks: Peaks, repeats: int, seconds: float) -> list[Row]:
    """Rows of ours and of each peer, in each pass that the op has.

    Args:
        repeats: rounds of a pass; one call of each implementation is a round.
        seconds: the time after which there are fewer rounds, see `rounds_within`.
    """
    rows = _measure(op, case, peers, peaks, repeats, seconds)
    free(case.device)  # of what the calls held
    return rows


def _measure(op: Op, case: Case, peers: list[Peer], peaks: Peaks, repeats: int, seconds: float) -> list[Row]:
    built = _build_all(op, case, peers)
    yardsticks = {peer.name for peer in peers if not peer.same_op}
    cold = all(made.cold for made in built.values() if isinstance(made, Workload))
    costs = {passes: cost for passes, cost in zip(PASSES, op.costs(case), strict=True) if cost is not None}
    trials: dict[tuple[str, str], Trial] = {}
    times: dict[tuple[str, str], list[float]] = {}
    for together in (built.keys() - yardsticks, yardsticks):
        for passes in costs:
            turns = {name: _try(name, built[name], passes, case.device) for name in built if name in together}
            timed = _timed(turns, case.device, repeats, seconds, cold)
            trials |= {(passes, name): trial for name, trial in turns.items()}
            times |= {(passes, name): taken for name, taken in timed.items()}

    def row(passes: str, name: str) -> Row:
        trial, taken = trials[passes, name], times.get((passes, name))
        if taken is None:
            return empty_row(case, name, passes, trial.status)
        ours = None if name == OURS else times.get((passes, OURS))
        limit = None if name in yardsticks else (costs[passes], peaks)
        return measured_row(case, name, passes, taken, ours, limit, trial.peak, trial.first_ms)

    return [row(passes, name) for passes in costs for name in built]


def _build_all(op: Op, case: Case, peers: list[Peer]) -> dict[str, Workload | str]:
    """The workload of each implementation, or why there is none. Without ours there is nothing to compare with."""
    try:
        tensors = op.tensors(case)
        built: dict[str, Workload | str] = {OURS: op.build(case, tensors)}
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return dict.fromkeys((OURS, *(peer.name for peer in peers)), OUT_OF_MEMORY)
    for peer in peers:
        try:
            built[peer.name] = peer.workload(case, tensors) if peer.installed else NOT_INSTALLED
        except Exception as error:  # others' code: whatever goes wrong there must not end our measurement
            built[peer.name] = reason(error)
    return built


def _try(name: str, made: Workload | str, passes: str, device: str) -> Trial:
    if isinstance(made, str):
        return Trial(made)
    return tried(made.forward if passes == FORWARD else made.forward_backward, device, ours=name == OURS)


def _timed(trials: dict[str, Trial], device: str, repeats: int, seconds: float, cold: bool) -> dict[str, list[float]]:
    """Times of those that run, by name; when memory does not hold the inputs of all, of ours alone if it is one."""
    calls = {name: trial.call for name, trial in trials.items() if trial.call is not None}
    if not calls:
        return {}
    rounds = rounds_within(sum(trials[name].warm_ms for name in calls), repeats, seconds)
    try:
        return times_ms(calls, device, rounds, cold)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    for name in calls:
        trials[name].drop(OUT_OF_MEMORY)
    free(device)
    return times_ms({OURS: calls[OURS]}, device, rounds, cold) if OURS in calls else {}
