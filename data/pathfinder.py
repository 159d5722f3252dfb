"""Pathfinder (Linsley et al. 2018, arXiv 1805.08315; Kim et al. 2020): do two dots end the same dashed curve?

Two curves of 14 dashes grow from seeds near the middle, dash by dash in turns: the next dash leaves a gap and turns by
an angle δ drawn with weight cos²(min(continuity δ, π/2)), among those that keep clear of all that is drawn. Then come
short curves that distract. The dots are the start of one long curve and the end of the same one (connected) or of the
other (apart). Numbers for 32, 64 and 128 pixels are those with which the Long Range Arena was made; the drawing is
ours: coordinates are real, curves keep at least the gap between two dashes apart, and what lies between dashes is part
of a curve; dashes are drawn by their distance to each pixel. Where a long curve cannot go on, both go back some dashes,
or the image is begun again.

An image depends on (seed, index) alone, and every second one is connected.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

from ssmbio.data.pathfinder_curves import Board, Curve, Geometry, Points

SMALLEST = 24
"""The smallest side: below it, dashes are shorter than a pixel and a half."""

_CHUNK = 500  # images a process draws at a time


@dataclass(frozen=True)
class Drawing:
    """An image and what it was made of.

    Attributes:
        pixels: (side, side) uint8.
        connected: whether the dots end the same curve.
        dots: (2, 2).
        curves: the corners of each curve, through its gaps; the two long ones first.
    """

    pixels: npt.NDArray[np.uint8]
    connected: bool
    dots: Points
    curves: list[Points]


def make_images(
    count: int, side: int, seed: tuple[int, int], workers: int | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Images (n, side, side) and whether each is connected (n,).

    Args:
        seed: of all of them.
        workers: processes; None is one a core. Few images are drawn in this one.
    """
    starts = range(0, count, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, count)) for start in starts]
    draw_chunk = partial(_draw_chunk, side=side, seed=seed)
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    if workers == 1:
        parts = list(map(draw_chunk, chunks))
    else:
        # A fresh process each: threads of this one, torch's among them, do not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(draw_chunk, chunks))
    return np.concatenate(parts), np.arange(count) % 2 == 1


def _draw_chunk(indices: range, side: int, seed: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.stack([draw(side, seed, index).pixels for index in indices])


def draw(side: int, seed: tuple[int, int], index: int) -> Drawing:
    """One image; odd ones are connected."""
    rng = np.random.default_rng((*seed, index))
    geometry = Geometry.of_side(side)
    while True:
        gap = float(rng.choice(geometry.gap))
        board = Board(geometry, gap, rng)
        curves = board.two_long()
        if curves is not None:
            break
    curves += board.short_ones()
    first = int(rng.integers(2))
    connected = index % 2 == 1
    dots = np.stack([curves[first].start, curves[first if connected else 1 - first].end])
    return Drawing(_rendered(geometry, curves, dots), connected, dots, [curve.corners() for curve in curves])


def _rendered(geometry: Geometry, curves: list[Curve], dots: Points) -> npt.NDArray[np.uint8]:
    """The dashes and the dots, each pixel by its distance to them; (side, side)."""
    image = np.zeros((geometry.side, geometry.side))
    ends = np.array([dash for curve in curves for dash in curve.dashes])  # (n, 2, 2)
    middle, reach = ends.mean(1), int(np.ceil(geometry.dash / 2 + geometry.thickness + 1))
    window = np.stack(np.meshgrid(*2 * [np.arange(-reach, reach + 1)], indexing="ij"), -1).reshape(-1, 2)
    pixels = np.round(middle).astype(np.int64)[:, None] + window  # (n, window, 2)
    along = ends[:, 1] - ends[:, 0]
    offset = pixels - ends[:, :1]
    part = np.clip((offset * along[:, None]).sum(-1) / (along**2).sum(-1)[:, None], 0, 1)
    away = np.linalg.norm(offset - part[..., None] * along[:, None], axis=-1)
    light = np.clip(geometry.thickness / 2 + 0.5 - away, 0, 1) * geometry.contrast
    inside = ((pixels >= 0) & (pixels < geometry.side)).all(-1)
    np.maximum.at(image, (pixels[inside][:, 0], pixels[inside][:, 1]), light[inside])
    axis = np.arange(geometry.side)
    for row, column in dots:
        away = np.hypot(axis[:, None] - row, axis - column)
        image = np.maximum(image, np.clip(geometry.dot + 0.5 - away, 0, 1))
    return np.round(255 * image).astype(np.uint8)
