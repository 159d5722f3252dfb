"""Rows of a case: ratios to peers from the same rounds, and every way in which an implementation can be missing."""

from __future__ import annotations

import time
from statistics import median

import pytest
import torch

from ssmbio.benchmarking import measure as module
from ssmbio.benchmarking.cases import Op, Series, cases
from ssmbio.benchmarking.measure import measure
from ssmbio.benchmarking.peers import LeftOut, Peer
from ssmbio.benchmarking.roofline import Cost, Costs, Peaks
from ssmbio.benchmarking.row import Row
from ssmbio.benchmarking.timing import times_ms
from ssmbio.benchmarking.workload import Case, Workload

CASE = Case("sleep", "cpu", torch.float32, 2, 8, 50)
PEAKS = Peaks(bytes=1e9, exponentials=1e9, products=1e9)
SERIES = Series(shapes=((2, 8, 50),), batch=1, channels=8, lengths=(10, 20))


def sleeping(seconds: float):
    """A workload whose forward pass takes `seconds`, and its backward pass next to nothing."""

    def build(case: Case, tensors) -> Workload:
        def call():
            time.sleep(seconds)
            return tensors["x"] * 2

        return Workload(call, (tensors["x"],), torch.ones(3))

    return build


def raising(error: Exception, passes: str = "both"):
    def build(case: Case, tensors) -> Workload:
        def call():
            if passes == "both" or torch.is_grad_enabled():
                raise error
            return tensors["x"] * 2

        return Workload(call, (tensors["x"],), torch.ones(3))

    return build


def refusing(case: Case, tensors) -> Workload:
    raise LeftOut("too odd")


def op(build=None, backward: bool = True) -> Op:
    forward = Cost(bytes=10**6, exponentials=5 * 10**5)
    return Op(
        tensors=lambda case: {"x": torch.ones(3, requires_grad=True)},
        build=build or sleeping(0.002),
        costs=lambda case: Costs(forward, Cost(3 * 10**6, 10**6) if backward else None),
        gpu=SERIES,
        cpu=SERIES,
    )


def rows_of(op_: Op, *others: Peer) -> dict[tuple[str, str], Row]:
    rows = measure(op_, CASE, list(others), PEAKS, repeats=5, seconds=2)
    return {(row.implementation, row.passes): row for row in rows}


def test_the_ratio_is_that_of_the_medians_of_the_same_rounds(monkeypatch):
    """With our own times and the peer's drawn from one call of `times_ms` for each pass; yardsticks come after."""
    taken: list[dict[str, list[float]]] = []

    def kept(calls, *arguments):
        taken.append(times_ms(calls, *arguments))
        return taken[-1]

    monkeypatch.setattr(module, "times_ms", kept)
    rows = rows_of(
        op(), Peer("other", sleeping(0.002), same_op=False, note="another op"), Peer("slow", sleeping(0.008))
    )
    assert [set(times) for times in taken] == [{"ssmbio", "slow"}] * 2 + [{"other"}] * 2
    for times, passes in zip(taken[:2], ("forward", "forward+backward"), strict=True):
        ours, slow = rows["ssmbio", passes], rows["slow", passes]
        assert (ours.ms, slow.ms) == (median(times["ssmbio"]), median(times["slow"]))
        assert slow.ratio == slow.ms / ours.ms
        assert 1.5 < slow.ratio < 8
        assert ours.ratio is None
        assert ours.calls == slow.calls == 5


def test_figures_follow_from_time_and_counts():
    row = rows_of(op())["ssmbio", "forward"]
    assert row.ms is not None
    assert row.gb_per_s == pytest.approx(10**6 / row.ms / 1e6)
    assert (row.least_ms, row.bound) == (pytest.approx(1.0), "bytes")
    assert row.share == pytest.approx(1 / row.ms)
    assert row.tokens_per_s == pytest.approx(100 / row.ms * 1e3)
    assert row.us_per_token == pytest.approx(row.ms * 10)
    assert row.ms_low <= row.ms <= row.ms_high


def test_a_yardstick_has_a_time_but_no_share_of_our_roofline():
    row = rows_of(op(), Peer("other", sleeping(0.002), same_op=False, note="another op"))["other", "forward"]
    assert row.ms is not None
    assert row.ratio is not None
    assert (row.gb_per_s, row.share) == (None, None)


def test_no_backward_pass_no_row():
    assert set(rows_of(op(backward=False))) == {("ssmbio", "forward")}


def test_every_peer_that_cannot_run_says_why():
    rows = rows_of(
        op(),
        Peer("absent", sleeping(0), package="no_package_of_this_name"),
        Peer("broken", raising(ValueError("no such\nkernel"))),
        Peer("large", raising(torch.OutOfMemoryError("CUDA out of memory"))),
        Peer("odd", refusing),
        Peer("fine", sleeping(0)),
    )
    status = {name: row.status for (name, passes), row in rows.items() if passes == "forward"}
    assert status == {
        "ssmbio": "measured",
        "absent": "not installed",
        "broken": "failed: ValueError: no such kernel",
        "large": "out of memory",
        "odd": "left out: too odd",
        "fine": "measured",
    }
    assert rows["large", "forward"].ms is None


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_ours_out_of_memory_is_a_row(error):
    """In the backward pass alone; the forward pass before it is measured, and the peer in both."""
    rows = rows_of(op(raising(error, "backward")), Peer("fine", sleeping(0)))
    assert rows["ssmbio", "forward"].status == "measured"
    assert rows["ssmbio", "forward+backward"].status == "out of memory"
    assert rows["fine", "forward+backward"].ms is not None
    assert rows["fine", "forward+backward"].ratio is None


def test_inputs_out_of_memory_are_rows():
    def build(case: Case, tensors) -> Workload:
        raise torch.OutOfMemoryError("CUDA out of memory")

    rows = rows_of(op(build), Peer("fine", sleeping(0)))
    assert {row.status for row in rows.values()} == {"out of memory"}
    assert len(rows) == 4


def test_when_memory_does_not_hold_all_together_ours_is_timed_alone(monkeypatch):
    def little_memory(calls, *arguments):
        if len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return times_ms(calls, *arguments)

    monkeypatch.setattr(module, "times_ms", little_memory)
    rows = rows_of(op(), Peer("large", sleeping(0)))
    assert rows["ssmbio", "forward"].ms is not None
    assert rows["large", "forward"].status == "out of memory"


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ValueError, match="a bug"):
        rows_of(op(raising(ValueError("a bug"))))


def test_cases_are_the_table_and_the_series_once_each():
    found = cases("sleep", op(), "cpu", torch.float32, None)
    assert [(case.batch, case.length) for case in found] == [(2, 50), (1, 10), (1, 20)]
    asked = cases("sleep", op(), "cpu", torch.float32, (20, 40))
    assert [(case.batch, case.length) for case in asked] == [(1, 20), (1, 40)]
