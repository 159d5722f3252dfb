"""ListOps: nested lists of digits under MIN, MAX, MED (median) and SM (sum modulo 10), whose value is the class.

The grammar and its distribution are those of the Long Range Arena (Tay et al. 2020, arXiv 2011.04006, after Nangia and
Bowman 2018): a node above the deepest level is a list with probability 1/4, else a digit; a list has an even choice of
operator and of 2 to 10 arguments; expressions count whose length in tokens lies strictly between two bounds, each once.
The median of an even number of values is the mean of the middle two, rounded down.

Here an expression is one byte a token: digits as they are, and one letter for each opening bracket with its operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssmbio.errors import UserError

# Raise it whenever the same parameters would give other expressions: the cache is addressed by it.
VERSION = 1

WORDS = {**{str(digit): str(digit) for digit in range(10)}, "[MIN": "n", "[MAX": "x", "[MED": "d", "[SM": "s", "]": "]"}
"""Each token as files write it, and its letter."""
SYMBOLS = "".join(WORDS.values()).encode()

_OPERATORS = np.frombuffer(b"nxds", np.uint8)
_LIST_SHARE = 0.25
_TREES = 4000  # drawn at once
_FRUITLESS = 200  # rounds without a new expression before it is given up

Ints = npt.NDArray[np.int64]


def evaluate(expression: bytes) -> int:
    """The value of an expression of one letter a token; `_Trees.values` does it in whole arrays."""
    stack: list[list[int]] = [[]]
    operators: list[int] = []
    for letter in expression:
        if letter in b"nxds":
            operators.append(letter)
            stack.append([])
            continue
        if letter == ord("]"):
            values = sorted(stack.pop())
            middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2
            results = {"n": values[0], "x": values[-1], "d": middle, "s": sum(values) % 10}
            value = results[chr(operators.pop())]
        else:
            value = letter - ord("0")
        stack[-1].append(value)
    ((value,),) = stack
    return value


def draw_expressions(
    count: int, *, shortest: int, longest: int, depth: int, arguments: int, seed: int
) -> Iterator[tuple[bytes, int]]:
    """`count` different expressions and their values.

    Args:
        shortest, longest: bounds of the length in tokens, both excluded.
        depth: levels of a tree, digits included.
        arguments: the most a list has; the fewest are 2.
        seed: of all draws.

    Raises:
        UserError: there are too few such expressions.
    """
    rng = np.random.default_rng(seed)
    seen: set[bytes] = set()
    fruitless = 0
    while len(seen) < count:
        fruitless += 1
        for expression, value in _Trees.drawn(rng, depth, arguments).within(shortest, longest):
            if expression not in seen and len(seen) < count:
                seen.add(expression)
                fruitless = 0
                yield expression, value
        if fruitless == _FRUITLESS:
            raise UserError(
                f"only {len(seen):,} different expressions of {shortest + 1} to {longest - 1} tokens were found",
                mend="set data.shortest and data.longest further apart, raise data.depth, or ask for fewer",
            )


@dataclass
class _Level:
    """The nodes of many trees at one depth, all children of a node side by side.

    Attributes:
        tree: (n,) which tree each belongs to.
        parent: (n,) its parent's place in the level above; 0 in the first.
        arguments: (n,) how many children; 0 for a digit.
        letter: (n,) the operator or the digit.
    """

    tree: Ints
    parent: Ints
    arguments: Ints
    letter: npt.NDArray[np.uint8]


class _Trees:
    """Many trees, level by level."""

    def __init__(self, levels: list[_Level]) -> None:
        self.levels = levels

    @classmethod
    def drawn(cls, rng: np.random.Generator, depth: int, arguments: int) -> _Trees:
        levels: list[_Level] = []
        tree, parent = np.arange(_TREES), np.zeros(_TREES, np.int64)
        while len(tree):
            n = len(tree)
            is_list = rng.random(n) < _LIST_SHARE if len(levels) + 1 < depth else np.zeros(n, np.bool_)
            count = np.where(is_list, rng.integers(2, arguments + 1, n), 0)
            digit = rng.integers(ord("0"), ord("9") + 1, n)
            letter = np.where(is_list, rng.choice(_OPERATORS, n), digit).astype(np.uint8)
            levels.append(_Level(tree, parent, count, letter))
            tree, parent = np.repeat(tree, count), np.repeat(np.arange(n), count)
        return cls(levels)

    def within(self, shortest: int, longest: int) -> Iterator[tuple[bytes, int]]:
        """The expressions whose length lies between the bounds, and their values."""
        size = self.sizes()[0]
        kept = self._kept((size > shortest) & (size < longest))
        if not len(kept.levels[0].tree):
            return
        text, ends = kept._written()
        for start, end, value in zip([0, *ends[:-1]], ends, kept.values(), strict=True):
            yield text[start:end], int(value)

    def sizes(self) -> list[Ints]:
        """The tokens of every node, level by level: a list counts its operator and its closing bracket."""
        sizes = [np.ones(len(level.tree), np.int64) for level in self.levels]
        for above, below, level in zip(
            self.levels[-2::-1], self.levels[:0:-1], range(len(sizes) - 2, -1, -1), strict=True
        ):
            inside = np.bincount(below.parent, sizes[level + 1], len(above.tree)).astype(np.int64)
            sizes[level] = np.where(above.arguments > 0, inside + 2, 1)
        return sizes

    def values(self) -> Ints:
        """(trees,) from the deepest level up."""
        values = self.levels[-1].letter.astype(np.int64) - ord("0")
        for level in self.levels[-2::-1]:
            own = level.letter.astype(np.int64) - ord("0")
            lists = np.flatnonzero(level.arguments)
            if len(lists):
                count, letter = level.arguments[lists], level.letter[lists]
                start = np.cumsum(count) - count
                ordered = values[np.lexsort((values, np.repeat(np.arange(len(lists)), count)))]
                middle = (ordered[start + (count - 1) // 2] + ordered[start + count // 2]) // 2
                outcomes = (ordered[start], ordered[start + count - 1], middle, np.add.reduceat(values, start) % 10)
                own[lists] = np.select([letter == operator for operator in _OPERATORS], outcomes)
            values = own
        return values

    def _kept(self, trees: npt.NDArray[np.bool_]) -> _Trees:
        """Some of the trees; levels that are left without nodes go."""
        levels: list[_Level] = []
        place = np.zeros(1, np.int64)
        for level in self.levels:
            keep = trees[level.tree]
            if levels and not keep.any():
                break
            parent = place[level.parent[keep]]
            levels.append(_Level(level.tree[keep], parent, level.arguments[keep], level.letter[keep]))
            place = np.cumsum(keep) - 1
        return _Trees(levels)

    def _written(self) -> tuple[bytes, list[int]]:
        """All trees as letters, one after the other, and where each ends."""
        sizes = self.sizes()
        ends = np.cumsum(sizes[0])
        text = np.empty(int(ends[-1]), np.uint8)
        start = ends - sizes[0]
        for depth, (level, size) in enumerate(zip(self.levels, sizes, strict=True)):
            text[start] = level.letter
            lists = level.arguments > 0
            text[start[lists] + size[lists] - 1] = ord("]")
            if depth + 1 < len(sizes):
                below, inner = self.levels[depth + 1], sizes[depth + 1]
                before = np.cumsum(inner) - inner
                first = np.searchsorted(below.parent, below.parent)  # the eldest sibling
                start = start[below.parent] + 1 + before - before[first]
        return text.tobytes(), ends.tolist()
