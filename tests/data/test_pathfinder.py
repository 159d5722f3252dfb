"""Pathfinder: flood fill along the curves reaches the second dot from the first where it should, and only there."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from ssmbio.data.made_images import PathfinderSource
from ssmbio.data.pathfinder import Drawing, draw, make_images
from ssmbio.errors import UserError

FINE = 8  # cells a pixel


def canvas(drawing: Drawing) -> np.ndarray:
    """All curves, through their gaps, as lines of one cell on a fine grid."""
    side = len(drawing.pixels) * FINE
    cells = np.zeros((side, side), bool)
    for curve in drawing.curves:
        for start, end in pairwise(curve):
            steps = int(np.ceil(np.abs(end - start).max() * FINE * 2)) + 1
            points = start + np.linspace(0, 1, steps)[:, None] * (end - start)
            rows, columns = ((points + 0.5) * FINE).astype(int).T
            cells[rows, columns] = True
    return cells


def reached(cells: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Flood fill over the eight neighbours."""
    seen = np.zeros_like(cells)
    seen[start] = True
    queue = deque([start])
    while queue:
        row, column = queue.popleft()
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                if cells[r, c] and not seen[r, c]:
                    seen[r, c] = True
                    queue.append((r, c))
    return seen


@pytest.mark.parametrize(("side", "count"), [(32, 16), (64, 6), (128, 4), (40, 4)])
def test_dots_are_joined_where_the_label_says_so_and_nowhere_else(side: int, count: int) -> None:
    for index in range(count):
        drawing = draw(side, (0, 0), index)
        assert drawing.connected == (index % 2 == 1)
        first, second = (tuple(((dot + 0.5) * FINE).astype(int)) for dot in drawing.dots)
        filled = reached(canvas(drawing), first)
        assert filled[second] == drawing.connected
        # The fill is one curve, not two that touch.
        ends = [tuple(((curve[0] + 0.5) * FINE).astype(int)) for curve in drawing.curves]
        assert sum(filled[end] for end in ends) == 1


@pytest.mark.parametrize("side", [32, 128])
def test_an_image_shows_its_dots_its_dashes_and_its_gaps(side: int) -> None:
    drawing = draw(side, (0, 0), 1)
    assert drawing.pixels.shape == (side, side)
    assert drawing.pixels.dtype == np.uint8
    assert len(drawing.curves) >= 3  # two long ones, and some that distract
    assert [len(curve) for curve in drawing.curves[:2]] == [28, 28]  # 14 dashes, 13 gaps
    assert {len(curve) for curve in drawing.curves[2:]} == {8}  # of those that distract: 4 dashes, 3 gaps
    for row, column in drawing.dots:
        assert drawing.pixels[round(row), round(column)] == 255
    for curve in drawing.curves[2:]:
        dashes = (curve[0::2] + curve[1::2]) / 2 if len(curve) % 2 == 0 else None
        assert dashes is not None
        lit = [drawing.pixels[tuple(np.round(point).astype(int))] for point in dashes]
        assert min(lit) > 60
    away = np.ones((side, side), bool)
    for curve in drawing.curves:
        for row, column in np.concatenate([curve, (curve[1:] + curve[:-1]) / 2]):
            reach = 2 + side // 16
            away[
                max(0, int(row) - reach) : int(row) + reach + 1, max(0, int(column) - reach) : int(column) + reach + 1
            ] = 0
    assert away.any()
    assert drawing.pixels[away].max() == 0  # nothing else is drawn


def test_images_depend_on_seed_and_index_alone() -> None:
    images, connected = make_images(4, 32, (0, 1), workers=1)
    assert connected.tolist() == [False, True, False, True]
    assert np.array_equal(images[3], draw(32, (0, 1), 3).pixels)
    assert not np.array_equal(images[3], draw(32, (0, 2), 3).pixels)
    assert not np.array_equal(images[1], images[3])


def test_the_source_writes_once_and_reads_back(tmp_path) -> None:
    def source() -> PathfinderSource:
        return PathfinderSource(train=4, val=2, test=2, folder=str(tmp_path))

    splits = source().splits()
    assert {split: len(images) for split, images in splits.items()} == {"train": 4, "val": 2, "test": 2}
    assert splits["train"].labels() == ["apart", "connected"] * 2
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = source().splits()
    assert file.stat().st_mtime_ns == written
    assert np.array_equal(again["test"][1].pixels, splits["test"][1].pixels)
    assert not np.array_equal(splits["test"][1].pixels, splits["val"][1].pixels)


@pytest.mark.parametrize(
    ("settings", "words"), [({"side": 16}, "side 16"), ({"workers": 0}, "workers 0"), ({"test": 1}, "1 test images")]
)
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PathfinderSource(**settings)
