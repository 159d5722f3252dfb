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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

SMALLEST = 24
"""The smallest side: below it, dashes are shorter than a pixel and a half."""

Points = npt.NDArray[np.float64]
"""(n, 2) rows and columns."""

_DASHES = 14  # of a long curve
_SHORT = 4  # of one that distracts
_ANGLES = 32  # tried for each dash
_CELLS = 2  # of the map of what is taken, a pixel
_TRIALS = 10  # for each curve that distracts
_DEAD_ENDS = 12  # of the long curves, before an image is begun again
_CHUNK = 500  # images a process draws at a time


@dataclass(frozen=True)
class Geometry:
    """Lengths in pixels.

    Attributes:
        side: of the image.
        dash, thickness: of a dash.
        gap: half of what lies between two dashes of a curve; several are drawn from.
        dot: radius of the two marks.
        apart: between the seeds of the two long curves.
        continuity: how straight curves are.
        short: curves that distract.
        contrast: brightness of the dashes.
    """

    side: int
    dash: float
    thickness: float
    gap: tuple[float, ...]
    dot: float
    apart: float
    continuity: float
    short: int
    contrast: float

    @classmethod
    def of_side(cls, side: int) -> Geometry:
        """As published for the side of 32, 64 or 128 that is nearest as a ratio, in proportion to it."""
        known = min(_PUBLISHED, key=lambda published: abs(np.log(published / side)))
        g, scale = _PUBLISHED[known], side / known
        gaps = tuple(scale * gap for gap in g.gap)
        return cls(
            side, scale * g.dash, scale * g.thickness, gaps, scale * g.dot, scale * g.apart, g.continuity, g.short,
            g.contrast,
        )  # fmt: skip


_PUBLISHED = {
    32: Geometry(32, 2, 0.5, (1,), 1.5, 7, 1.0, 5, 1.0),
    64: Geometry(64, 5, 1.0, (1,), 2.5, 12, 1.8, 5, 0.8),
    128: Geometry(128, 5, 1.5, (2, 3), 3.0, 20, 1.8, 8, 0.9),
}


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
        board = _Board(geometry, gap, rng)
        curves = board.two_long()
        if curves is not None:
            break
    curves += board.short_ones()
    first = int(rng.integers(2))
    connected = index % 2 == 1
    dots = np.stack([curves[first].start, curves[first if connected else 1 - first].end])
    return Drawing(_rendered(geometry, curves, dots), connected, dots, [curve.corners() for curve in curves])


@dataclass
class _Curve:
    """Dashes (tail and head of each), where each leaves from (half a gap before its tail), and the cells it takes."""

    dashes: list[tuple[npt.NDArray, npt.NDArray]] = field(default_factory=list)
    leaves: list[npt.NDArray] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)
    claims: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    @property
    def start(self) -> npt.NDArray:
        return self.dashes[0][0]

    @property
    def end(self) -> npt.NDArray:
        return self.dashes[-1][1]

    def corners(self) -> Points:
        points = [self.start]
        for (_, head), leave in zip(self.dashes[:-1], self.leaves[1:], strict=True):
            points += [head, leave]
        return np.array([*points, self.end])


class _Board:
    """How many dashes take each cell of a grid finer than the pixels: a dash takes all that are nearer than a gap."""

    def __init__(self, geometry: Geometry, gap: float, rng: np.random.Generator) -> None:
        self.geometry, self.gap, self.rng = geometry, gap, rng
        self.cells = _CELLS * geometry.side
        self.taken = np.zeros((self.cells, self.cells), np.int16)
        reach = 2 * gap * _CELLS
        offset = np.arange(-int(reach), int(reach) + 1)
        self.disc = np.argwhere(offset[:, None] ** 2 + offset**2 <= reach**2) - int(reach)
        # Along a dash and the half gaps at its ends, a point in each cell.
        steps = int(np.ceil((geometry.dash + 2 * gap) * _CELLS))
        self.along = np.linspace(0, geometry.dash + 2 * gap, steps + 1)
        self.turns = np.linspace(-1, 1, _ANGLES) * np.pi / 2 / geometry.continuity
        self.weights = np.cos(self.turns * geometry.continuity) ** 2

    def two_long(self) -> list[_Curve] | None:
        """The two long curves, or None where they would not go on; a few dead ends are gone back on."""
        g, rng = self.geometry, self.rng
        room = max((g.side - 1) / 2 - 2 * g.apart, g.side / 16)
        first = (g.side - 1) / 2 + rng.uniform(-room, room, 2)
        angle = rng.uniform(-np.pi, np.pi)
        second = first + g.apart * np.array([np.sin(angle), np.cos(angle)])
        curves = [_Curve(), _Curve()]
        if not all(self._seed(curve, tail) for curve, tail in zip(curves, (first, second), strict=True)):
            return None
        grown, dead_ends = 0, 0
        while grown < 2 * (_DASHES - 1):
            if self._extend(curves[grown % 2]):
                grown += 1
                continue
            dead_ends += 1
            if dead_ends == _DEAD_ENDS:
                return None
            for _ in range(min(grown, int(rng.integers(2, 9)))):
                grown -= 1
                self._take_back(curves[grown % 2])
        return curves

    def short_ones(self) -> list[_Curve]:
        """Curves that distract, as many as there is room for."""
        return [curve for _ in range(self.geometry.short) if (curve := self._short()) is not None]

    def _short(self) -> _Curve | None:
        for _ in range(_TRIALS):
            free = np.flatnonzero(self.taken == 0)
            if not len(free):
                return None
            tail = (np.array(divmod(int(self.rng.choice(free)), self.cells)) + 0.5) / _CELLS - 0.5
            curve = _Curve()
            if self._seed(curve, tail) and all(self._extend(curve) for _ in range(_SHORT - 1)):
                return curve
            while curve.dashes:
                self._take_back(curve)
        return None

    def _seed(self, curve: _Curve, tail: npt.NDArray) -> bool:
        """The first dash, from `tail` in a random direction; False where something is in its way."""
        angle = self.rng.uniform(-np.pi, np.pi)
        toward = np.array([np.sin(angle), np.cos(angle)])
        path = tail + (self.along - self.gap)[:, None] * toward
        if not self._free(path[None], self.taken)[0]:
            return False
        self._add(curve, path, angle)
        return True

    def _extend(self, curve: _Curve) -> bool:
        """One more dash; False where all directions are blocked."""
        angles = curve.angles[-1] + self.turns + self.rng.uniform(-0.5, 0.5) * (self.turns[1] - self.turns[0])
        toward = np.stack([np.sin(angles), np.cos(angles)], 1)
        leave = curve.end + self.gap * np.array([np.sin(curve.angles[-1]), np.cos(curve.angles[-1])])
        paths = leave + self.along[None, :, None] * toward[:, None, :]
        # The last dash of its own is not in the way: the next one starts beside it.
        weights = self.weights * self._free(paths, self.taken - curve.claims[-1])
        if weights.sum() < 1e-4:
            return False
        chosen = int(self.rng.choice(_ANGLES, p=weights / weights.sum()))
        self._add(curve, paths[chosen], float(angles[chosen]))
        return True

    def _add(self, curve: _Curve, path: Points, angle: float) -> None:
        toward = np.array([np.sin(angle), np.cos(angle)])
        tail = path[0] + self.gap * toward
        curve.dashes.append((tail, tail + self.geometry.dash * toward))
        curve.leaves.append(path[0])
        curve.angles.append(angle)
        curve.claims.append(self._around(path))
        self.taken += curve.claims[-1]

    def _take_back(self, curve: _Curve) -> None:
        """Undo the last dash."""
        self.taken -= curve.claims.pop()
        for of_each_dash in (curve.dashes, curve.leaves, curve.angles):
            of_each_dash.pop()

    def _free(self, paths: npt.NDArray, taken: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
        """(n, points, 2) → (n,): inside the image, a pixel from its edge, and clear of everything."""
        inside = ((paths >= 1) & (paths <= self.geometry.side - 2)).all((1, 2))
        rows, columns = self._cells(paths)
        return inside & (taken[rows, columns] == 0).all(1)

    def _around(self, path: Points) -> npt.NDArray[np.bool_]:
        """The cells nearer to a path than the clearance."""
        rows, columns = self._cells(path)
        near = np.stack([rows, columns], 1)[:, None] + self.disc
        near = np.clip(near, 0, self.cells - 1).reshape(-1, 2)
        found = np.zeros(self.taken.shape, np.bool_)
        found[near[:, 0], near[:, 1]] = True
        return found

    def _cells(self, points: npt.NDArray) -> Iterator[npt.NDArray[np.int64]]:
        cells = np.clip(((points + 0.5) * _CELLS).astype(np.int64), 0, self.cells - 1)
        return iter((cells[..., 0], cells[..., 1]))


def _rendered(geometry: Geometry, curves: list[_Curve], dots: Points) -> npt.NDArray[np.uint8]:
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
