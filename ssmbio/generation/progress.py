"""How fast samples are made, measured and shown."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


class Speed:
    """Samples made, and the time it took to make them; what is done with them between does not count.

    Args:
        sample_rate: Hz, of the clips.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.samples = 0
        self._seconds = 0.0
        self._since: float | None = None

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with the clock running while one is awaited."""
        iterator = iter(items)
        while True:
            self._since = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds, self._since = self.seconds, None
            yield item

    @property
    def seconds(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def per_second(self) -> float:
        """Samples a second, of all clips together."""
        return self.samples / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """Samples a second, and how many times as fast as they are played (the real-time factor)."""
        factor = self.per_second / self.sample_rate
        return f"{self.per_second:,.0f} samples/s, {factor:,.{2 if factor < 10 else 0}f} × real time"


class ProgressLine:
    """A line on the terminal's standard error while clips are made; it leaves nothing behind.

    Args:
        clips: how many will be made.
        samples: of each, without its prompt.
        speed: is told of the samples.
    """

    def __init__(self, clips: int, samples: int, speed: Speed) -> None:
        self._clips, self._speed, self._done = clips, speed, 0
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        # Even a display that is wiped at the end leaves an empty line where there is no terminal.
        self._display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._display.add_task(self._text(), total=clips * samples, speed="")

    def advance(self, samples: int) -> None:
        """So many samples more."""
        self._speed.samples += samples
        self._display.update(self._task, advance=samples, speed=str(self._speed))

    def clip_done(self) -> None:
        self._done += 1
        self._display.update(self._task, description=self._text())

    def _text(self) -> str:
        return f"{self._done:,} of {self._clips:,} clips"

    @contextmanager
    def shown(self) -> Iterator[ProgressLine]:
        with self._display:
            yield self
