"""Calls are timed in turns, as often as asked or as time allows."""

from __future__ import annotations

import time

import pytest
import torch

from ssmbio.benchmarking.timing import LEAST_ROUNDS, median_ms, once_ms, rounds_within, shortest_ms, times_ms


def test_calls_take_turns():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = times_ms(calls, "cpu", rounds=3)
    assert order == list("ababab")
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}


def test_a_time_is_that_of_its_own_call():
    times = times_ms({"short": lambda: None, "long": lambda: time.sleep(0.03)}, "cpu", rounds=3)
    assert min(times["long"]) >= 30
    assert min(times["short"]) < 10
    assert once_ms(lambda: time.sleep(0.03), "cpu") >= 30


def test_the_first_call_does_not_count_in_a_median():
    seconds = iter([0.2, *[0.0] * 3])
    assert median_ms(lambda: time.sleep(next(seconds)), "cpu", rounds=3) < 100


def test_the_least_time_is_of_a_call_that_nothing_held_up():
    """Short calls, all but one in a hundred of which wait for a core: ten of them would not see one that does not."""
    calls = iter(range(10**9))
    assert shortest_ms(lambda: time.sleep(0 if next(calls) % 100 == 99 else 1e-3), "cpu", seconds=0.3) < 0.5


@pytest.mark.parametrize(
    ("round_ms", "rounds"), [(1, 20), (100, 20), (200, 10), (700, LEAST_ROUNDS), (60_000, LEAST_ROUNDS), (0, 20)]
)
def test_rounds_are_what_was_asked_or_what_fits_into_two_seconds(round_ms, rounds):
    assert rounds_within(round_ms, repeats=20, seconds=2) == rounds


def test_fewer_than_the_least_if_fewer_were_asked():
    assert rounds_within(60_000, repeats=1, seconds=2) == 1


@pytest.mark.gpu
def test_events_time_the_gpu_alone():
    """A copy of 1 GiB at what the fastest memory could do, and not more than twice what a wall clock sees."""
    source = torch.zeros(2**28, device="cuda")
    target = torch.empty_like(source)
    found = median_ms(lambda: target.copy_(source), "cuda")
    wall = min(once_ms(lambda: target.copy_(source), "cuda") for _ in range(5))
    assert 2**31 / 20e12 * 1e3 < found < 2 * wall


@pytest.mark.gpu
def test_waiting_for_python_is_not_timed():
    """A small kernel behind a millisecond of Python."""
    small = torch.zeros(1024, device="cuda")

    def call() -> None:
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass
        small.add_(1)

    assert median_ms(call, "cuda") < 0.5
