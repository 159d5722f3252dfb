"""Launches of a pass: in their order, at once where their kernels are known, else after all have been compiled."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

import triton

from ssmbio.kernels import launches as module
from ssmbio.kernels.launches import launches


class Kernel:
    """As Triton's: `warmup` hands its compilation to the mode that is active, `kernel[grid](…)` runs."""

    together = threading.Barrier(2, timeout=20)

    def __init__(self, events: list[str], name: str, meets: bool = False, fails: bool = False) -> None:
        self.events, self.name, self.meets, self.fails = events, name, meets, fails
        self.fn = object()
        self.device_caches: dict[int, tuple[dict[str, Any]]] = {0: ({},)}

    def warmup(self, *arguments: Any, grid: tuple[int, ...], **constants: Any) -> None:
        from triton.runtime._async_compile import active_mode

        mode, (kernels,) = active_mode.get(), self.device_caches[0]
        assert mode is not None
        types = [x.dtype if isinstance(x, torch.Tensor) else x is None for x in arguments]
        key = f"{self.name} {types} {constants}"
        if key not in kernels:
            kernels[key] = mode.submit(key, self.compile, lambda compiled: None)

    def compile(self) -> None:
        if self.fails:
            raise RuntimeError(f"{self.name} does not compile")
        if self.meets:
            self.together.wait()
        self.events.append(f"compiled {self.name}")

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self.events.append(f"ran {self.name} {grid} {arguments} {constants}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(triton, "JITFunction", Kernel)
    monkeypatch.setattr(module, "_known", set())
    return []


def names(events: list[str]) -> list[str]:
    return [event.split(" (")[0] for event in events]


def test_unknown_kernels_are_compiled_side_by_side_before_the_first_runs(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    first, second = Kernel(events, "first", meets=True), Kernel(events, "second", meets=True)
    with launches() as launch:
        launch(first, (3,), 1, N=2)
        launch(second, (4, 5))
        launch(first, (6,), 2, N=2)
        assert events == []
    assert sorted(events[:2]) == ["compiled first", "compiled second"]  # each waits for the other
    assert events[2:] == [
        "ran first (3,) (1,) {'N': 2}",
        "ran second (4, 5) () {}",
        "ran first (6,) (2,) {'N': 2}",
    ]


def test_known_kernels_run_at_once_and_others_hold_back_what_follows(events: list[str]) -> None:
    known, other = Kernel(events, "known"), Kernel(events, "other")
    x = torch.zeros(2)
    with launches() as launch:
        launch(known, (1,), x, N=1)
    events.clear()
    with launches() as launch:
        launch(known, (1,), torch.ones(2), N=1)
        assert len(events) == 1
        launch(other, (1,))
        launch(known, (2,), x, N=1)
        assert len(events) == 1
    assert names(events[1:]) == ["compiled other", "ran other", "ran known"]


@pytest.mark.parametrize("change", ["constant", "type", "none"])
def test_a_kernel_is_known_for_its_types_and_constants(change: str, events: list[str]) -> None:
    kernel, x = Kernel(events, "kernel"), torch.zeros(2)
    with launches() as launch:
        launch(kernel, (1,), x, x, N=1)
    events.clear()
    with launches() as launch:
        last = {"constant": x, "type": x.double(), "none": None}[change]
        launch(kernel, (1,), x, last, N=2 if change == "constant" else 1)
        assert events == []
    assert names(events) == ["compiled kernel", "ran kernel"]


def test_what_waits_is_dropped_where_the_pass_fails(events: list[str]) -> None:
    kernel = Kernel(events, "kernel")
    with contextlib.suppress(ValueError), launches() as launch:
        launch(kernel, (1,))
        raise ValueError
    assert events == []


def test_what_did_not_compile_is_tried_again_and_others_still_compile(events: list[str]) -> None:
    broken = Kernel(events, "broken", fails=True)
    for attempt in range(2):
        with pytest.raises(RuntimeError, match="broken does not compile"), launches() as launch:
            launch(broken, (attempt,))
    assert events == []
    broken.fails = False
    with launches() as launch:
        launch(Kernel(events, "sound"), (1,))
        launch(broken, (2,))
    assert sorted(names(events[:2])) == ["compiled broken", "compiled sound"]
    assert names(events[2:]) == ["ran sound", "ran broken"]


def test_kernels_of_a_pass_that_is_expected_are_compiled_beside_and_not_run(events: list[str]) -> None:
    first, second = Kernel(events, "first"), Kernel(events, "second")
    with launches(lambda launch: launch(second, (2,), torch.zeros(1, device="meta"), N=1)) as launch:
        launch(first, (1,))
    assert sorted(names(events[:2])) == ["compiled first", "compiled second"]
    assert names(events[2:]) == ["ran first"]
