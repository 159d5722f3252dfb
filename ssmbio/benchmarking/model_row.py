"""One line of what was measured of a model: its training steps, or its decoding, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from ssmbio.benchmarking.row import GIB, MEASURED, OURS, quartiles
from ssmbio.benchmarking.trial import Trial

TRAINING, GENERATION = PARTS = ("training", "generation")
LOOP = "loop"


@dataclass(frozen=True)
class ModelRow:
    """A line of the CSV and an entry of the JSON. None: not measured, or without meaning here.

    Attributes:
        model: the choice of `model=`.
        part: "training" or "generation".
        way: how training steps run, see `training.WAYS`; of generation, "ssmbio" or the peer "loop".
        dtype: of training, which autocast computes in, and of the peer; None: generation has its own.
        batch: clips side by side.
        length: samples of a clip that is trained on; 1 in generation, whose figures are of a position.
        status: "measured", "out of memory", or why it was not measured.
        ms, ms_low, ms_high: median and quartiles of a training step; of one position in generation.
        calls: steps, or rounds of positions, that were timed.
        samples_per_s: of all clips together.
        real_time: `samples_per_s` over the sample rate, of generation.
        ratio: for the peer, its time over ours.
        peak_gib: on a GPU, most memory allocated; of training less what was there before the step, of generation (and
            of steps that are graphs) less what was there before the first.
        first_call_s: the first step or round, with what it compiles and captures.
    """

    model: str
    part: str
    way: str
    device: str
    dtype: str | None
    batch: int
    length: int
    status: str
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    calls: int | None = None
    samples_per_s: float | None = None
    real_time: float | None = None
    ratio: float | None = None
    peak_gib: float | None = None
    first_call_s: float | None = None


def measured_row(row: ModelRow, trial: Trial, times: Sequence[float]) -> ModelRow:
    """`row` with the figures that follow from times in ms."""
    middle = median(times)
    low, high = quartiles(times)
    return replace(
        row,
        status=MEASURED,
        ms=middle,
        ms_low=low,
        ms_high=high,
        calls=len(times),
        samples_per_s=1e3 * row.batch * row.length / middle,
        peak_gib=None if trial.peak is None else trial.peak / GIB,
        first_call_s=trial.first_ms / 1e3,
    )


def generation_row(
    row: ModelRow, trial: Trial, times: Sequence[float], sample_rate: int, ours: ModelRow | None = None
) -> ModelRow:
    """`row` with the figures of its decoding, from times of one position in ms.

    Args:
        sample_rate: Hz.
        ours: for the peer, the row of ours.
    """
    made = measured_row(row, trial, times)
    ratio = made.ms / ours.ms if made.ms and ours is not None and ours.ms else None
    return replace(made, real_time=(made.samples_per_s or 0.0) / sample_rate, ratio=ratio)


def is_ours(row: ModelRow) -> bool:
    return row.part == TRAINING or row.way == OURS
