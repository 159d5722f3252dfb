"""How fast clips come out of `generate_clips`, and out of the plain loop over the model's steps."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ssmbio.benchmarking.row import MEASURED
from ssmbio.benchmarking.timing import LEAST_ROUNDS, synchronize
from ssmbio.benchmarking.trial import Trial, is_out_of_memory, reason, watch_memory
from ssmbio.generation import SamplingSettings, generate_clips
from ssmbio.generation.sampling import draw
from ssmbio.pipelines import AudioGenerate

POSITIONS = 1024  # of a clip for each round that is timed: more than a round has
LOOPED = 16  # positions of the plain loop in a call, or a whole period


class Enough(Exception):
    """All rounds that are wanted have been timed."""


class RoundClock:
    """Told of samples by a progress callback, it takes the time from one round to the next.

    Args:
        batch_size: clips side by side.
        repeats: rounds after the first.
        seconds: where these would take longer there are fewer, at least `LEAST_ROUNDS`.

    Attributes:
        first_ms: from the start to the end of the first round, with all that is made for it.
        times: ms of one position, of each of the others.
    """

    def __init__(self, batch_size: int, repeats: int, seconds: float) -> None:
        self._batch_size, self._repeats, self._seconds = batch_size, repeats, seconds
        self.times: list[float] = []
        self.first_ms = 0.0
        self._start = self._last = time.perf_counter()

    def __call__(self, samples: int) -> None:
        """Raises Enough."""
        now = time.perf_counter()
        passed = 1e3 * (now - self._last)
        self._last = now
        if not self.first_ms:
            self.first_ms = passed
            return
        self.times.append(passed * self._batch_size / samples)
        late = now - self._start - self.first_ms / 1e3 > self._seconds
        if len(self.times) >= self._repeats or (late and len(self.times) >= LEAST_ROUNDS):
            raise Enough


def generated(
    model: AudioGenerate, batch_size: int, device: str, repeats: int, seconds: float
) -> tuple[Trial, list[float]]:
    """Clips begun, and given up when their rounds have been timed; ms of a position, of each round.

    Faults are raised; to be out of memory is none. Memory is counted from before anything is made.
    """
    trial = Trial(MEASURED)
    synchronize(device)
    before = watch_memory(device)
    clock = RoundClock(batch_size, repeats, seconds)
    samples = POSITIONS * (repeats + 1)
    try:
        for _ in generate_clips(model, n=batch_size, samples=samples, batch_size=batch_size, on_progress=clock):
            pass
    except Enough:
        pass
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        trial.drop(reason(error))
        return trial, []
    trial.first_ms = clock.first_ms
    synchronize(device)
    if device == "cuda":
        trial.peak = torch.cuda.max_memory_allocated() - before
    return trial, clock.times


class StepLoop:
    """A step of the model, module by module, and a draw, position by position: `positions` of them a call.

    Args:
        model: in evaluation mode, where it is to run.
        batch_size: clips side by side.
    """

    def __init__(self, model: AudioGenerate, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self.positions = model.period * max(1, LOOPED // model.period)
        self._state = model.initial_state(batch_size)
        self._previous = torch.full((batch_size,), model.encoding.zero, device=model.device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """codes (B, positions)"""
        codes = []
        for uniform in torch.rand(self.positions, self._batch_size, dtype=torch.float64, device=self._model.device):
            logits, self._state = self._model.step(self._previous, self._state)
            self._previous, _ = draw(logits, uniform, SamplingSettings())
            codes.append(self._previous)
        return torch.stack(codes, 1)
