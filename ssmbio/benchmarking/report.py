"""The result as lines on the screen, as JSON and as CSV: the same figures in each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ssmbio.benchmarking.model_row import ModelRow
from ssmbio.benchmarking.peers import Peer
from ssmbio.benchmarking.roofline import Peaks
from ssmbio.benchmarking.row import NOT_INSTALLED, OURS, PASSES, Row
from ssmbio.benchmarking.workload import power_of_two
from ssmbio.files import whole_file

BUSY = 0.5  # load from which times on a CPU are not to be trusted
_WIDTHS = (15, 24, 17, 10, 9, 16, 10, 8, 9)
_HEADINGS = ("op", "shape", "pass", "ms", "GB/s", "of roofline", "tokens/s", "GiB", "first s")


def header() -> str:
    return _line(_HEADINGS) + "  time / ours"


def lines(rows: Sequence[Row], shape: str) -> Iterable[str]:
    """A line a pass for the rows of one case: our figures, and each installed peer's time over ours."""
    for passes in PASSES:
        at = [row for row in rows if row.passes == passes]
        for row in at:
            if row.implementation == OURS:
                peers = ", ".join(_beside(peer) for peer in at if peer is not row and peer.status != NOT_INSTALLED)
                yield f"{_line((row.op, shape, passes, *_figures(row)))}  {peers}".rstrip()


def _figures(row: Row) -> tuple[str, ...]:
    if row.ms is None:
        return (row.status,)
    return (
        digits(row.ms),
        digits(row.gb_per_s),
        "-" if row.share is None else f"{row.share:.0%} {row.bound}",
        with_unit(row.tokens_per_s),
        digits(row.peak_gib),
        digits(row.first_call_s),
    )


def _beside(peer: Row) -> str:
    if peer.ratio is not None:
        return f"{peer.implementation} {digits(peer.ratio)}×"
    if peer.ms is not None:
        return f"{peer.implementation} {digits(peer.ms)} ms"
    return f"{peer.implementation} {peer.status}"


def remarks(rows: Sequence[Row], peers: Iterable[Peer], load: float | None) -> Iterable[str]:
    """What the table leaves to be said: how time grows with length, which peers are absent, what yardsticks are.

    Args:
        load: processes that ran before, see `environment.load`.
    """
    for name, passes, long, short, ratio in growth(rows):
        lengths = f"L {power_of_two(long)} takes {ratio:.1f} times as long as {power_of_two(short)}"
        yield f"{name}, {passes}: {lengths}"
    absent = {row.implementation: None for row in rows if row.status == NOT_INSTALLED}
    if absent:
        yield f"not installed, so not compared: {', '.join(absent)}"
    seen = {row.implementation for row in rows if row.ms is not None}
    for peer in dict.fromkeys(peers):
        if peer.note and peer.name in seen:
            yield f"{peer.name}: {peer.note}"
    if load is not None and load > BUSY and any(row.device == "cpu" for row in rows):
        yield f"other processes were at work (load {load:.1f}): times are longer than on a quiet machine"


def growth(rows: Iterable[Row]) -> list[tuple[str, str, int, int, float]]:
    """op, passes, L, L / 16 and ours at L over ours at L / 16, for the longest L of each op and pass that has one."""
    times = {
        (row.op, row.passes, row.batch, row.channels, row.length): row.ms
        for row in rows
        if row.implementation == OURS and row.ms is not None
    }
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for (op, passes, batch, channels, length), ms in times.items():
        short = times.get((op, passes, batch, channels, length // 16)) if length % 16 == 0 else None
        if short and length > found.get((op, passes), (0, 0.0))[0]:
            found[op, passes] = length, ms / short
    return [(op, passes, long, long // 16, ratio) for (op, passes), (long, ratio) in found.items()]


def peaks_line(peaks: Peaks, dtype: str) -> str:
    return (
        f"peaks: copy {peaks.bytes / 1e9:,.0f} GB/s, {with_unit(peaks.exponentials)} exponentials/s, "
        f"{dtype} products {with_unit(peaks.products)}FLOP/s"
    )


def growth_entries(rows: Iterable[Row]) -> list[dict[str, object]]:
    return [dict(zip(("op", "passes", "length", "of_length", "ratio"), entry, strict=True)) for entry in growth(rows)]


def write_json(path: Path, facts: Mapping[str, object], rows: Sequence[Row | ModelRow]) -> None:
    """`facts`, then `rows`."""
    with whole_file(path) as file:
        json.dump({**facts, "rows": [asdict(row) for row in rows]}, file, indent=1, allow_nan=False)
        file.write("\n")


def write_csv(path: Path, rows: Sequence[Row | ModelRow]) -> None:
    """A line for each of the rows, of which there is one at least; what is not known is empty."""
    with whole_file(path) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def digits(value: float | None) -> str:
    """Three digits or all before the point: 1,234 · 45.6 · 0.0123; a dash for what is not known."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    decimals = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{decimals}f}"


def with_unit(value: float | None) -> str:
    """12.3 M: thousands, millions, (American) billions and trillions by k, M, G, T."""
    if value is None:
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value)} "


def _line(cells: Sequence[str]) -> str:
    """The first three columns from the left, the others, numbers, from the right; a case that failed has fewer."""
    columns = enumerate(zip(cells, _WIDTHS, strict=False))
    return " ".join(f"{cell:{'<' if at < 3 else '>'}{width}}" for at, (cell, width) in columns)
