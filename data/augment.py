"""Augmentation of training sequences: the other strand, a shift, point mutations.

What is drawn for an example depends on (seed, epoch, index) alone, so neither the worker that reads it nor what was
read before can change it, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ssmbio.data.alphabet import reverse_complement
from ssmbio.errors import UserError

_BASES = np.frombuffer(b"ACGT", np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Changes to a training sequence, each with a strength of 0 for none; they keep its length.

    Args:
        reverse_complement: probability of the other strand.
        shift: bases that a sequence may move along itself, a whole number drawn from [-shift, shift]; what falls off
            one end is lost, and the other end is filled with N.
        mutation: probability of each letter to be replaced by one of A, C, G and T, drawn evenly (so three in four
            replacements change the base). Insertions and deletions are not made.
        seed: of the draws.
    """

    reverse_complement: float = 0.0
    shift: int = 0
    mutation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, good, range_ in (
            ("reverse_complement", self.reverse_complement, 0 <= self.reverse_complement <= 1, "a probability, 0 to 1"),
            ("shift", self.shift, type(self.shift) is int and self.shift >= 0, "a whole number of bases, 0 or more"),
            ("mutation", self.mutation, 0 <= self.mutation <= 1, "a probability, 0 to 1"),
        ):
            if not good:
                raise UserError(f"{name} {value}", mend=f"set data.{name} to {range_}")

    def __call__(self, sequence: bytes, epoch: int, index: int) -> bytes:
        """The sequence as training sees it in this epoch."""
        if not (self.reverse_complement or self.shift or self.mutation):
            return sequence
        rng = stream(self.seed, epoch, index)
        if self.reverse_complement and rng.random() < self.reverse_complement:
            sequence = reverse_complement(sequence)
        if self.shift:
            sequence = shifted(sequence, int(rng.integers(-self.shift, self.shift + 1)))
        if self.mutation:
            sequence = mutated(sequence, self.mutation, rng)
        return sequence


def stream(seed: int, epoch: int, index: int, use: int = 0) -> np.random.Generator:
    """The random numbers of one example in one epoch: a counter-based generator (Philox), which is quick to make.

    Args:
        use: what they are for; each use has numbers of its own. 0 is augmentation.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch), counter=[0, 0, use, index]))


@lru_cache(maxsize=8)
def _key(seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    return np.asarray(np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64), np.uint64)


def shifted(sequence: bytes, by: int) -> bytes:
    """The sequence moved to the right by `by` bases, or to the left where it is negative; the gap is N."""
    gap = b"N" * min(abs(by), len(sequence))
    kept = len(sequence) - len(gap)
    return gap + sequence[:kept] if by > 0 else sequence[len(sequence) - kept :] + gap


def mutated(sequence: bytes, probability: float, rng: np.random.Generator) -> bytes:
    """Each letter replaced with `probability` by one of A, C, G and T."""
    letters = np.frombuffer(bytearray(sequence), np.uint8)
    places = np.flatnonzero(rng.random(len(letters), dtype=np.float32) < probability)
    letters[places] = _BASES[rng.integers(0, 4, len(places))]
    return letters.tobytes()
