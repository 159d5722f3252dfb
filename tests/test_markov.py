"""The Markov models of codes that audio is measured against."""

from __future__ import annotations

import numpy as np
import pytest

from ssmbio.markov import MarkovBaseline


def draw(length: int, seed: int, order: int) -> np.ndarray:
    """Codes of 4 levels: each is one of two that depend on the `order` codes before it."""
    rng = np.random.default_rng(seed)
    first = np.array([0, 3, 2, 1, 1, 2, 0, 3, 3, 1, 0, 2, 2, 0, 3, 1])  # of the two, after each pair
    codes = [0, 0]
    for coin in rng.integers(0, 2, length):
        past = 5 * codes[-1] if order == 1 else codes[-1] + 4 * codes[-2]
        codes.append((first[past] + coin) % 4)
    return np.array(codes[2:])


@pytest.mark.parametrize("order", [1, 2])
def test_a_chain_of_one_bit_a_step_is_found_by_its_order_and_not_below(order):
    train, val, test = ([draw(20_000, seed, order)] for seed in range(3))
    bits = MarkovBaseline(4, zero=0).fit(train, val).bits(test)
    assert bits[order] == pytest.approx(1, abs=0.01)
    assert all(lower > 1.4 for lower in bits[:order])


def test_tables_are_distributions_even_after_codes_never_seen():
    model = MarkovBaseline(8, zero=0).fit([[1, 2, 3]], [[3, 2]])
    for table in model.orders:
        assert (table > 0).all()
        np.testing.assert_allclose(table.sum(-1), 1)


def test_the_first_sample_of_a_clip_is_predicted_too():
    model = MarkovBaseline(2, zero=0).fit([[1]] * 1000, [[1]])
    bits = model.bits([[1]])
    assert bits[1] < 0.02
    assert model.bits([[0]])[1] > 5
