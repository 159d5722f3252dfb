"""What was measured of a model as lines on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ssmbio.benchmarking.model_row import GENERATION, LOOP, TRAINING, ModelRow, is_ours
from ssmbio.benchmarking.report import BUSY, digits, with_unit
from ssmbio.benchmarking.row import OURS
from ssmbio.benchmarking.training import CHECKPOINTING, GRAPHS
from ssmbio.benchmarking.workload import power_of_two

_WIDTHS = (12, 10, 15, 10, 11, 10, 8, 9)
_HEADINGS = ("part", "shape", "way", "ms", "samples/s", "real time", "GiB", "first s")
NOTES = {
    LOOP: "the model's step and a draw, position by position from Python",
    GRAPHS: "forward and backward pass replayed as CUDA graphs, callbacks.graphs.enabled=true in training",
    CHECKPOINTING: "layers recomputed in the backward pass, model.activation_checkpointing=true in training",
}


def header() -> str:
    return f"{_line(_HEADINGS)}  time / ours"


def lines(rows: Sequence[ModelRow]) -> Iterable[str]:
    """A line for each row of ours, with the time of a peer at the same size over it."""
    for row in rows:
        if not is_ours(row):
            continue
        beside = [_beside(peer) for peer in rows if not is_ours(peer) and peer.batch == row.batch]
        shape = f"B{row.batch}" if row.part == GENERATION else f"B{row.batch} L{power_of_two(row.length)}"
        way = row.way if row.part == TRAINING else ""
        yield f"{_line((row.part, shape, way, *_figures(row)))}  {', '.join(beside)}".rstrip()


def _figures(row: ModelRow) -> tuple[str, ...]:
    if row.ms is None:
        return (row.status,)
    return (
        digits(row.ms),
        with_unit(row.samples_per_s),
        "-" if row.real_time is None else f"{digits(row.real_time)}×",
        digits(row.peak_gib),
        digits(row.first_call_s),
    )


def _beside(peer: ModelRow) -> str:
    return f"{peer.way} {peer.status}" if peer.ratio is None else f"{peer.way} {digits(peer.ratio)}×"


def remarks(rows: Sequence[ModelRow], sample_rate: int, load: float | None) -> Iterable[str]:
    """What the table leaves to be said.

    Args:
        load: processes that ran before, see `environment.load`.
    """
    seen = {row.way for row in rows if row.ms is not None}
    if OURS in seen:
        yield f"generation: ms are of one position of all clips; real time is {sample_rate:,} samples a second"
    for way, note in NOTES.items():
        if way in seen:
            yield f"{way}: {note}"
    if load is not None and load > BUSY and any(row.device == "cpu" for row in rows):
        yield f"other processes were at work (load {load:.1f}): times are longer than on a quiet machine"


def _line(cells: Sequence[str]) -> str:
    """The first three columns from the left, the others, numbers, from the right; one that failed has fewer."""
    columns = enumerate(zip(cells, _WIDTHS, strict=False))
    return " ".join(f"{cell:{'<' if at < 3 else '>'}{width}}" for at, (cell, width) in columns)
