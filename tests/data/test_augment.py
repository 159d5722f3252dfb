"""Augmentation: what it may change, how often, and that its draws depend on (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest

from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.augment import Augmentation, mutated, shifted
from ssmbio.errors import UserError

SEQUENCE = bytes(np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, 200)])


@pytest.mark.parametrize(
    ("by", "expected"),
    [(0, b"ACGTT"), (2, b"NNACG"), (-2, b"GTTNN"), (5, b"NNNNN"), (-5, b"NNNNN"), (9, b"NNNNN"), (-9, b"NNNNN")],
)
def test_shift_moves_and_fills_with_n(by: int, expected: bytes) -> None:
    assert shifted(b"ACGTT", by) == expected


def test_every_shift_is_drawn_about_evenly() -> None:
    augment = Augmentation(shift=2)
    drawn = [augment(SEQUENCE, 0, index) for index in range(1000)]
    counts = [drawn.count(shifted(SEQUENCE, by)) for by in (-2, -1, 0, 1, 2)]
    assert sum(counts) == 1000
    assert min(counts) > 150


def test_mutation_replaces_letters_at_its_rate_with_all_four_bases() -> None:
    rng = np.random.default_rng(1)
    before = np.frombuffer(b"A" * 100_000, np.uint8)
    after = np.frombuffer(mutated(before.tobytes(), 0.2, rng), np.uint8)
    assert len(after) == len(before)
    for base in b"CGT":  # three of four replacements change the base
        assert 0.045 < (after == base).mean() < 0.055
    assert mutated(SEQUENCE, 0.0, rng) == SEQUENCE
    assert set(mutated(b"N" * 1000, 1.0, rng)) == set(b"ACGT")


def test_all_three_together_keep_the_length_and_come_in_this_order() -> None:
    augment = Augmentation(reverse_complement=1.0, shift=7, mutation=0.0, seed=5)
    for index in range(20):
        found = augment(SEQUENCE, 0, index)
        assert found in {shifted(reverse_complement(SEQUENCE), by) for by in range(-7, 8)}
    assert len(Augmentation(0.5, 300, 0.5)(b"ACGT", 0, 0)) == 4


def test_draws_depend_on_seed_epoch_and_index() -> None:
    def draw(seed: int = 0, epoch: int = 0, index: int = 0) -> bytes:
        return Augmentation(0.5, 10, 0.3, seed)(SEQUENCE, epoch, index)

    assert draw() == draw()
    assert len({draw(), draw(seed=1), draw(epoch=1), draw(index=1)}) == 4


def test_nothing_is_drawn_for_no_augmentation() -> None:
    assert Augmentation()(SEQUENCE, 3, 4) is SEQUENCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reverse_complement": 1.5}, r"reverse_complement 1\.5; set data\.reverse_complement"),
        ({"shift": -1}, r"shift -1; set data\.shift"),
        ({"shift": 1.5}, r"shift 1\.5; set data\.shift"),
        ({"mutation": -0.1}, r"mutation -0\.1; set data\.mutation"),
    ],
)
def test_strengths_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation(**settings)
