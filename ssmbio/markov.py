"""Markov models of codes: what the one or two samples before tell of the next: the bar for models of audio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)


class MarkovBaseline:
    """p(c | a b) = (n(abc) + s p(c | b)) / (n(ab·) + s), and so on down to p(c): each order leans on the one below it.

    The strengths s are those under which `val` is likeliest, order by order. A clip begins after `zero`, as for the
    models: its first sample is predicted too.

    Args:
        levels: codes there are, K.
        zero: the code of silence.
    """

    def __init__(self, levels: int = 256, zero: int = 128) -> None:
        self.levels, self.zero = levels, zero
        self.chosen: list[float] = []

    def fit(self, train: Iterable[npt.ArrayLike], val: Sequence[npt.ArrayLike]) -> MarkovBaseline:
        """Both are clips of codes, each (L,)."""
        singles, pairs, triples = self._counts(train)
        held_out = self._counts(val)
        table: Shares = (singles + 1.0) / (singles.sum() + self.levels)
        self.orders = [table]
        for counts, other in zip((pairs, triples), held_out[1:], strict=True):
            tables = {strength: _leaning(counts, table, strength) for strength in STRENGTHS}
            best = min(STRENGTHS, key=lambda strength: _bits(other, tables[strength]))
            self.chosen.append(best)
            table = tables[best]
            self.orders.append(table)
        return self

    def bits(self, clips: Iterable[npt.ArrayLike]) -> list[float]:
        """Mean bits a sample under the models of order 0, 1 and 2."""
        return [_bits(counts, table) for counts, table in zip(self._counts(clips), self.orders, strict=True)]

    def _counts(self, clips: Iterable[npt.ArrayLike]) -> tuple[Counts, Counts, Counts]:
        """(K,), (K, K) and (K, K, K) of each sample alone, after one and after two."""
        k = self.levels
        flat = np.zeros(k**3, np.int64)
        for clip in clips:
            codes = np.concatenate([[self.zero, self.zero], np.asarray(clip, np.int64)])
            words = (codes[:-2] * k + codes[1:-1]) * k + codes[2:]
            found, count = np.unique(words, return_counts=True)
            flat[found] += count
        triples = flat.reshape(k, k, k)
        return triples.sum((0, 1)), triples.sum(0), triples


def _leaning(counts: Counts, below: Shares, strength: float) -> Shares:
    """counts (…, K, K) of an order, the table (…, K) below it → its table."""
    return ((counts + strength * below) / (counts.sum(-1, keepdims=True) + strength)).astype(np.float64)


def _bits(counts: Counts, table: Shares) -> float:
    seen = counts > 0
    return float(-(counts[seen] * np.log2(table[seen])).sum() / counts.sum())
