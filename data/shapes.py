"""The embedded default for images: shapes at random places, which no single pixel and no row of them tells apart.

All shapes of one size have the same area, and sizes, places, turns and brightness are drawn alike for every class, so
the sum of the pixels says nothing. What tells is how the bright run changes from one row to the next.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHAPES = ("cross", "disc", "square", "triangle")

_LARGEST_TURN = np.pi / 12


def draw_shapes(
    count: int, side: int, noise: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, side, side) and classes (n,), each class as often as the others, give or take one.

    Args:
        noise: standard deviation, of a brightness from 0 to 1.
    """
    classes = rng.permutation(np.arange(count) % len(SHAPES))
    radius = rng.uniform(0.16, 0.26, count) * side
    centre = rng.uniform(0.32, 0.68, (count, 2)) * (side - 1)
    turn = rng.uniform(-_LARGEST_TURN, _LARGEST_TURN, count)
    bright = rng.uniform(0.5, 1.0, count)

    axis = np.arange(side)
    dy = axis[None, :, None] - centre[:, 0, None, None]
    dx = axis[None, None, :] - centre[:, 1, None, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    y, x = cos * dy - sin * dx, sin * dy + cos * dx
    outside = np.empty((count, side, side))  # distance to the edge, negative inside
    for code, shape in enumerate(SHAPES):
        own = classes == code
        outside[own] = _DISTANCE[shape](y[own], x[own], radius[own, None, None])
    pixels = np.clip(0.5 - outside, 0, 1) * bright[:, None, None] + noise * rng.standard_normal(outside.shape)
    return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8), classes


def _disc(y: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.hypot(y, x) - r


def _square(y: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(abs(y), abs(x)) - np.sqrt(np.pi / 4) * r


def _triangle(y: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    inner = np.sqrt(np.pi / (3 * np.sqrt(3))) * r
    return np.maximum(y, np.sqrt(3) / 2 * abs(x) - y / 2) - inner


def _cross(y: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    arm = np.sqrt(np.pi * 9 / 20) * r  # each a third as wide as long: area 20/9 arm²
    upright, level = np.maximum(abs(y) - arm, abs(x) - arm / 3), np.maximum(abs(x) - arm, abs(y) - arm / 3)
    return np.minimum(upright, level)


_DISTANCE = {"disc": _disc, "square": _square, "triangle": _triangle, "cross": _cross}
