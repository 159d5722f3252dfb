"""Growth with length, numbers as they are printed, and the picture."""

from __future__ import annotations

import pytest
import torch

from ssmbio.benchmarking.picture import draw, save
from ssmbio.benchmarking.report import digits, growth, lines, remarks, with_unit
from ssmbio.benchmarking.row import PASSES, Row, empty_row
from ssmbio.benchmarking.workload import Case, power_of_two


def row(op: str, length: int, ms: float | None, name: str = "ssmbio", passes: str = "forward", batch: int = 1) -> Row:
    case = Case(op, "cpu", torch.float32, batch, 8, length, 16)
    empty = empty_row(case, name, passes, "out of memory" if ms is None else "measured")
    return Row(**{**vars(empty), "ms": ms})


def test_growth_is_over_sixteen_times_the_length_at_the_longest():
    rows = [row("scan", 2**e, 2.0**e) for e in (4, 6, 8, 9, 10)] + [row("scan", 2**12, None)]
    rows += [row("scan", 2**14, 1.0, batch=2), row("scan", 2**14, 1.0, name="peer"), row("other", 100, 1.0)]
    assert growth(rows) == [("scan", "forward", 2**10, 2**6, 16.0)]
    assert list(remarks(rows, [], None)) == ["scan, forward: L 2^10 takes 16.0 times as long as 64"]


def test_a_busy_machine_is_told_of():
    rows = [row("scan", 16, 1.0)]
    assert "load 3.0" in list(remarks(rows, [], 3.0))[-1]
    assert list(remarks(rows, [], 0.1)) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.6, "1,235"), (123.4, "123"), (45.67, "45.7"), (4.567, "4.57"), (0.4567, "0.457"), (0.012, "0.0120")],
)
def test_three_digits(value, text):
    assert digits(value) == text


def test_units():
    assert [with_unit(value) for value in (12.3e6, 4.18e12, 950.0, None)] == ["12.3 M", "4.18 T", "950 ", "-"]


@pytest.mark.parametrize(("length", "text"), [(2**20, "2^20"), (1024, "2^10"), (512, "512"), (3000, "3000")])
def test_lengths(length, text):
    assert power_of_two(length) == text


def test_a_case_out_of_memory_is_a_line():
    (line,) = lines([row("scan", 16, None), row("scan", 16, None, name="absent")], "B1 D8 L16 N16")
    assert line.startswith("scan ")
    assert "out of memory" in line


def panels(rows: list[Row]):
    figure = draw(rows)
    assert figure is not None
    return {axes.get_title().split(":")[0]: axes for axes in figure.axes if axes.get_title()}


def test_the_picture_has_a_panel_an_op_and_a_line_an_implementation(tmp_path):
    rows = [
        row(op, length, length / 10 * factor, name, passes)
        for op in ("scan", "convolution")
        for length in (16, 64, 32)
        for name, factor in (("ssmbio", 1.0), ("peer", 3.0))
        for passes in PASSES
    ]
    rows += [row("scan", 64, 9.0, batch=5), row("scan", 128, None), row("decode", 100, 1.0)]
    found = panels(rows)
    assert set(found) == {"scan", "convolution"}  # nothing to draw against length for the third
    for axes in found.values():
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        curves = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
        assert set(curves) == {"ssmbio", "peer", "as the length"}
        assert list(curves["ssmbio"].get_xdata()) == [16, 32, 64]
        assert list(curves["peer"].get_ydata()) == pytest.approx([4.8, 9.6, 19.2])
        assert len(axes.lines) == 5  # forward alone as well, dashed
    figure = draw(rows)
    assert figure is not None
    save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_no_picture_of_one_length():
    assert draw([row("scan", 16, 1.0), row("decode", 16, 1.0)]) is None
