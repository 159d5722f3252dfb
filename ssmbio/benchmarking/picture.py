"""The picture: time against length, both logarithmic, a panel an op."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ssmbio.benchmarking.row import BOTH, FORWARD, OURS, Row
from ssmbio.files import new_file

BLUE, GREY = "#1f5fa8", "#b5b5b5"
PEERS = ("#d9730d", "#3a8f4f", "#8e4fa8", "#a0522d")
STYLES = {FORWARD: "--", BOTH: "-"}


def draw(rows: Sequence[Row]) -> Figure | None:
    """A panel for each op measured at several lengths; None if there is none.

    An implementation has one colour, ours blue: a solid line for forward and backward, a dashed one for forward alone.
    The grey line grows as the length.
    """
    chosen = {op: series for op in dict.fromkeys(row.op for row in rows) if (series := _series(rows, op))}
    if not chosen:
        return None
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = Figure(figsize=(6.6 * columns, 4.0 * lines + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (op, series) in zip(panels, chosen.items(), strict=False):
        _panel(axes, op, series)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    figure.supxlabel("solid: forward and backward; dashed: forward", fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    with new_file(path) as partial:
        figure.savefig(partial, dpi=140, format="png")


def _series(rows: Sequence[Row], op: str) -> list[Row]:
    """The rows of `op` at the batch and width with most lengths, if ours was measured at two of them or more."""
    measured: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.op == op and row.ms is not None:
            measured[row.batch, row.channels].append(row)
    lengths = {key: len({row.length for row in some if row.implementation == OURS}) for key, some in measured.items()}
    best = max(lengths, key=lambda key: lengths[key], default=None)
    return measured[best] if best is not None and lengths[best] > 1 else []


def _panel(axes: Axes, op: str, rows: list[Row]) -> None:
    names = sorted({row.implementation for row in rows}, key=lambda name: (name != OURS, name))
    colours = {OURS: BLUE, **dict(zip((name for name in names if name != OURS), PEERS, strict=False))}
    for name in names:
        for passes, style in STYLES.items():
            points = sorted((row.length, row.ms) for row in rows if (row.implementation, row.passes) == (name, passes))
            if points:
                label = name if passes == BOTH else None
                axes.plot(*zip(*points, strict=True), style, color=colours[name], marker="o", ms=3, lw=1.6, label=label)
    _guide(axes, rows)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    row = rows[0]
    state = f", N {row.states}" if row.states else ""
    axes.set_title(f"{op}: B {row.batch}, D {row.channels}{state}, {row.dtype}", fontsize=11)
    axes.set(xlabel="length L", ylabel="ms")
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _guide(axes: Axes, rows: list[Row]) -> None:
    """A line of slope one through the last point of ours, forward and backward."""
    length, ms = max((row.length, row.ms or 0.0) for row in rows if row.implementation == OURS)
    first = min(row.length for row in rows)
    axes.plot([first, length], [ms * first / length, ms], color=GREY, lw=1, zorder=0, label="as the length")
