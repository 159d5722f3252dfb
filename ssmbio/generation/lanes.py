"""Tasks side by side: each in a lane, lanes beside each other as far as the data allow.

A task says which buffers it reads and which it writes. It then comes after the last one that wrote what it reads or
writes, and after those that have read what it writes, as if all of them ran in the order in which they were given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Buffers = Iterable[Hashable]


class Lanes(Protocol):
    def run(self, lane: int, task: Callable[[], Any], reads: Buffers = (), writes: Buffers = ()) -> None:
        """A task of lane 0 is under way when this returns, with all that it waits for; any other by `join`."""

    def join(self) -> None:
        """What follows comes after all tasks."""


class OneLane:
    """All tasks in the order in which they are given."""

    def run(self, lane: int, task: Callable[[], Any], reads: Buffers = (), writes: Buffers = ()) -> None:
        task()

    def join(self) -> None:
        pass


@dataclass
class Mark:
    """The end of a task: the `number`-th of its lane.

    Attributes:
        over: for each lane, how many of its tasks are over then.
        event: whatever the lanes wait for.
    """

    lane: int
    number: int
    over: dict[int, int]
    event: Any = field(default=None, repr=False)


class Order:
    """What has to wait for what; a wait that others imply is left out, for in a graph each is an edge."""

    def __init__(self) -> None:
        self._last: dict[int, Mark] = {}
        self._writers: dict[Hashable, Mark] = {}
        self._readers: dict[Hashable, dict[int, Mark]] = defaultdict(dict)

    def add(self, lane: int, reads: Buffers = (), writes: Buffers = ()) -> tuple[Mark, list[Mark]]:
        """The mark of a new task, and those that its lane waits for before it."""
        reads, writes = set(reads), set(writes)
        before = [self._writers[buffer] for buffer in reads | writes if buffer in self._writers]
        before += [mark for buffer in writes for mark in self._readers[buffer].values()]
        last = self._last.get(lane, Mark(lane, 0, {}))
        known = dict(last.over)
        waits: list[Mark] = []
        # The more a task has behind it, the more a wait for it implies.
        for mark in sorted(before, key=lambda mark: sum(mark.over.values()), reverse=True):
            if mark.number > known.get(mark.lane, 0):
                waits.append(mark)
                known = {other: max(known.get(other, 0), mark.over.get(other, 0)) for other in known | mark.over}
        known[lane] = last.number + 1
        own = self._last[lane] = Mark(lane, last.number + 1, known)
        for buffer in writes:
            self._writers[buffer] = own
            self._readers[buffer].clear()
        for buffer in reads:
            self._readers[buffer][lane] = own
        return own, waits


class SideStreams:
    """Lane 0 is the current CUDA stream, the others are streams beside it.

    Of what a task allocates, nothing may be used in another lane, for it is given back in its own. Between the streams
    go events alone, so a graph that is being captured gets the lanes as branches.

    Args:
        lanes: how many, lane 0 included.
    """

    def __init__(self, lanes: int) -> None:
        self._streams = [torch.cuda.current_stream(), *(torch.cuda.Stream() for _ in range(lanes - 1))]
        self._order = Order()
        for stream in self._streams[1:]:
            stream.wait_stream(self._streams[0])

    def run(self, lane: int, task: Callable[[], Any], reads: Buffers = (), writes: Buffers = ()) -> None:
        stream = self._streams[lane]
        mark, waits = self._order.add(lane, reads, writes)
        for other in waits:
            stream.wait_event(other.event)
        with torch.cuda.stream(stream):
            task()
        mark.event = stream.record_event()

    def join(self) -> None:
        for stream in self._streams[1:]:
            self._streams[0].wait_stream(stream)
