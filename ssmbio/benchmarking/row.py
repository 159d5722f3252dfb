"""One line of the result: an implementation of an op at a shape, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

from ssmbio.benchmarking.roofline import Cost, Peaks, least_ms
from ssmbio.benchmarking.workload import Case

OURS = "ssmbio"
FORWARD, BOTH = PASSES = ("forward", "forward+backward")
MEASURED, NOT_INSTALLED, OUT_OF_MEMORY = "measured", "not installed", "out of memory"
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A line of the CSV and an entry of the JSON. None: not measured, or without meaning here.

    Attributes:
        implementation: "ssmbio" or the name of a peer.
        passes: "forward" or "forward+backward".
        status: "measured", "not installed", "out of memory", or why it was not measured.
        ms, ms_low, ms_high: median and quartiles of `calls` calls.
        gb_per_s: bytes of the op, each input and output once, per second; for implementations of the same op alone.
        least_ms, bound: the roofline, and the resource it is: bytes, exponentials or products.
        share: least_ms / ms.
        ratio: for a peer, its time over ours, from the same rounds; for a yardstick, from rounds of its own.
        tokens_per_s, us_per_token: of the B·L positions of a call.
        peak_gib: most memory allocated during a call less what was before it; on a GPU.
        first_call_s: the first call of this case and pass, with what it compiles.
    """

    op: str
    implementation: str
    passes: str
    device: str
    dtype: str
    batch: int
    channels: int
    length: int
    states: int
    taps: int
    status: str
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    calls: int | None = None
    gb_per_s: float | None = None
    least_ms: float | None = None
    bound: str | None = None
    share: float | None = None
    ratio: float | None = None
    tokens_per_s: float | None = None
    us_per_token: float | None = None
    peak_gib: float | None = None
    first_call_s: float | None = None


def empty_row(case: Case, implementation: str, passes: str, status: str) -> Row:
    """A row without figures."""
    dtype = str(case.dtype).removeprefix("torch.")
    shape = (case.batch, case.channels, case.length, case.states, case.taps)
    return Row(case.op, implementation, passes, case.device, dtype, *shape, status)


def measured_row(
    case: Case,
    implementation: str,
    passes: str,
    times: Sequence[float],
    ours: Sequence[float] | None,
    limit: tuple[Cost, Peaks] | None,
    peak: int | None,
    first_ms: float,
) -> Row:
    """The figures of one implementation.

    Args:
        times: its times in ms.
        ours: for a peer, those of ours in the same pass; None: there are none, or this is ours.
        limit: cost of the op and peaks of the device; None where another op is measured as a yardstick.
        peak: bytes of memory; None where it is not known.
        first_ms: time of the first call.
    """
    middle = median(times)
    low, high = quartiles(times)
    row = replace(
        empty_row(case, implementation, passes, MEASURED),
        ms=middle,
        ms_low=low,
        ms_high=high,
        calls=len(times),
        ratio=middle / median(ours) if ours else None,
        tokens_per_s=1e3 * case.positions / middle,
        us_per_token=1e3 * middle / case.positions,
        peak_gib=None if peak is None else peak / GIB,
        first_call_s=first_ms / 1e3,
    )
    if limit is None:
        return row
    cost, peaks = limit
    least, bound = least_ms(cost, peaks)
    return replace(row, gb_per_s=cost.bytes / middle / 1e6, least_ms=least, bound=bound, share=least / middle)


def quartiles(times: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper one; of one time it is both."""
    if len(times) == 1:
        return times[0], times[0]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return low, high
