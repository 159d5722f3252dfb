"""Every op that was asked for, at its shapes, beside its peers: measured, printed and written."""

from __future__ import annotations

import torch

from ssmbio.benchmarking import picture, report
from ssmbio.benchmarking.cases import OPS, Op, cases
from ssmbio.benchmarking.environment import facts, load
from ssmbio.benchmarking.measure import measure
from ssmbio.benchmarking.peers import Peer
from ssmbio.benchmarking.roofline import measure_peaks
from ssmbio.benchmarking.row import Row
from ssmbio.benchmarking.settings import RESULTS, Settings


def benchmark_kernels(settings: Settings) -> list[Row]:
    """Prints a line as soon as it is measured; leaves kernels.json, kernels.csv and kernels.png in `settings.out`.

    What was measured is written also when something fails on the way; `complete` in the JSON says whether it is all.
    """
    busy = load()
    torch.manual_seed(0)
    dtype = str(settings.dtype).removeprefix("torch.")
    peaks = measure_peaks(settings.device, settings.dtype)
    about = facts(settings.device, busy) | {"peaks_per_second": peaks._asdict()}
    chosen = {name: _peers(OPS[name], settings) for name in settings.ops}
    rows: list[Row] = []
    print(report.peaks_line(peaks, dtype), report.header(), sep="\n", flush=True)
    try:
        for name, peers in chosen.items():
            for case in cases(name, OPS[name], settings.device, settings.dtype, settings.lengths):
                found = measure(OPS[name], case, peers, peaks, settings.repeats, settings.seconds)
                rows += found
                print(*report.lines(found, case.shape), sep="\n", flush=True)
        about["complete"] = True
    finally:
        if rows:
            _write(settings, about, rows)
    print(*report.remarks(rows, [peer for peers in chosen.values() for peer in peers], busy), sep="\n")
    print(f"written to {settings.out}: {', '.join(name for name in RESULTS if (settings.out / name).exists())}")
    return rows


def _peers(op: Op, settings: Settings) -> list[Peer]:
    return [peer for peer in op.peers if settings.device in peer.devices and peer.name in settings.peers]


def _write(settings: Settings, about: dict[str, object], rows: list[Row]) -> None:
    as_json, as_csv, as_picture = (settings.out / name for name in RESULTS)
    report.write_json(as_json, about | {"growth": report.growth_entries(rows)}, rows)
    report.write_csv(as_csv, rows)
    figure = picture.draw(rows)
    if figure is not None:
        picture.save(figure, as_picture)
