"""Dashed curves that grow among others without touching them; `pathfinder.py` says by what rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""(n, 2) rows and columns."""

_DASHES = 14  # of a long curve
_SHORT = 4  # of one that distracts
_ANGLES = 32  # tried for each dash
_CELLS = 2  # of the map of what is taken, a pixel
_TRIALS = 10  # for each curve that distracts
_DEAD_ENDS = 12  # of the long curves, before an image is begun again


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


@dataclass
class Curve:
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


class Board:
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

    def two_long(self) -> list[Curve] | None:
        """The two long curves, or None where they would not go on; a few dead ends are gone back on."""
        g, rng = self.geometry, self.rng
        room = max((g.side - 1) / 2 - 2 * g.apart, g.side / 16)
        first = (g.side - 1) / 2 + rng.uniform(-room, room, 2)
        angle = rng.uniform(-np.pi, np.pi)
        second = first + g.apart * np.array([np.sin(angle), np.cos(angle)])
        curves = [Curve(), Curve()]
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

    def short_ones(self) -> list[Curve]:
        """Curves that distract, as many as there is room for."""
        return [curve for _ in range(self.geometry.short) if (curve := self._short()) is not None]

    def _short(self) -> Curve | None:
        for _ in range(_TRIALS):
            free = np.flatnonzero(self.taken == 0)
            if not len(free):
                return None
            tail = (np.array(divmod(int(self.rng.choice(free)), self.cells)) + 0.5) / _CELLS - 0.5
            curve = Curve()
            if self._seed(curve, tail) and all(self._extend(curve) for _ in range(_SHORT - 1)):
                return curve
            while curve.dashes:
                self._take_back(curve)
        return None

    def _seed(self, curve: Curve, tail: npt.NDArray) -> bool:
        """The first dash, from `tail` in a random direction; False where something is in its way."""
        angle = self.rng.uniform(-np.pi, np.pi)
        toward = np.array([np.sin(angle), np.cos(angle)])
        path = tail + (self.along - self.gap)[:, None] * toward
        if not self._free(path[None], self.taken)[0]:
            return False
        self._add(curve, path, angle)
        return True

    def _extend(self, curve: Curve) -> bool:
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

    def _add(self, curve: Curve, path: Points, angle: float) -> None:
        toward = np.array([np.sin(angle), np.cos(angle)])
        tail = path[0] + self.gap * toward
        curve.dashes.append((tail, tail + self.geometry.dash * toward))
        curve.leaves.append(path[0])
        curve.angles.append(angle)
        curve.claims.append(self._around(path))
        self.taken += curve.claims[-1]

    def _take_back(self, curve: Curve) -> None:
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
