"""FID, IS, mIS and AM against closed forms, brute force and an independent matrix square root."""

from __future__ import annotations

import numpy as np
import pytest

from ssmbio.audio_quality.measures import am_score, covariance, fid, inception_score, modified_inception_score


def drawn(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) correlated features."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def whitened(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) whose mean is 0 and whose covariance is the identity, exactly."""
    rows = np.random.default_rng(seed).normal(size=(n, d))
    rows -= rows.mean(0)
    return np.linalg.qr(rows)[0] * np.sqrt(n - 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def certain(classes: list[int], of: int, other: float = 1e-9) -> np.ndarray:
    """Log-probabilities of clips that are almost certainly of these classes."""
    p = np.full((len(classes), of), other)
    p[np.arange(len(classes)), classes] = 1 - other * (of - 1)
    return np.log(p)


def kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    return float(sum(np.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))


@pytest.mark.parametrize(("n", "d"), [(50, 6), (5, 12), (2, 3), (40, 1)])
def test_equal_sets_have_no_distance_whatever_the_rank(n, d):
    x = drawn(n, d)
    scale = np.trace(covariance(x))
    assert fid(x, x) < 1e-12 * scale
    assert fid(x, x[::-1]) < 1e-12 * scale  # a set has no order


@pytest.mark.parametrize(("n", "d"), [(50, 6), (5, 12)])
def test_a_shift_costs_its_square(n, d):
    x, shift = drawn(n, d), np.linspace(-2, 3, d)
    assert fid(x + shift, x) == pytest.approx(float(shift @ shift), rel=1e-9)


def test_diagonal_covariances():
    a, b = np.array([0.1, 1.0, 4.0, 0.0]), np.array([2.0, 1.0, 0.25, 3.0])
    x, y = whitened(30, 4) * np.sqrt(a), whitened(45, 4, seed=1) * np.sqrt(b)
    assert fid(x, y) == pytest.approx(float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum()), rel=1e-10)
    assert fid(x, y) == pytest.approx(fid(y, x), rel=1e-10)


def test_a_rotation_of_both_sets_changes_nothing():
    x, y = drawn(40, 5), drawn(30, 5, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    assert fid(x @ turn, y @ turn) == pytest.approx(fid(x, y), rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (40, 30, 5)])
def test_fid_against_an_independent_square_root(n, m, d):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = drawn(n, d), drawn(m, d, seed=1)
    own, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(own + other - 2 * linalg.sqrtm(own @ other)).real
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_clips_than_features():
    # tr((S S_r)^½) from the data themselves: the sum of the singular values of the product of the centred rows.
    x, y = drawn(6, 20), drawn(9, 20, seed=1)
    a, b = (x - x.mean(0)) / np.sqrt(5), (y - y.mean(0)) / np.sqrt(8)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap
    assert fid(x, y) == pytest.approx(expected, rel=1e-7)


def test_fid_is_computed_in_float64():
    # The covariance is 1e-6 of the squared mean: float32 would lose half of its digits.
    x, y = ((drawn(60, 4, seed) / 100 + 10).astype(np.float32) for seed in (0, 1))
    assert fid(x, y) == pytest.approx(fid(x.astype(np.float64), y.astype(np.float64)), rel=1e-12)


def test_inception_score_of_clear_clips_is_the_number_of_classes():
    assert inception_score(certain([0, 1, 2, 3] * 500, 4)) == pytest.approx(4, rel=0.01)
    assert inception_score(certain([2] * 40, 4)) == pytest.approx(1, abs=1e-6)
    assert inception_score(np.log(np.full((30, 5), 0.2))) == pytest.approx(1, abs=1e-12)


def test_inception_score_compares_one_half_with_the_mean_of_the_other():
    log_p = log_softmax(np.random.default_rng(3).normal(size=(7, 4)) * 3)
    order = np.random.default_rng(11).permutation(7)
    first, second = log_p[order[:3]], log_p[order[3:]]
    mean = np.log(np.exp(second).mean(0))
    expected = np.exp(np.mean([kl(row, mean) for row in first]))
    assert inception_score(log_p, seed=11) == pytest.approx(expected, rel=1e-12)
    assert inception_score(log_p, seed=12) != pytest.approx(expected, rel=1e-6)


def test_modified_inception_score_is_the_mean_over_all_pairs():
    log_p = log_softmax(np.random.default_rng(4).normal(size=(25, 6)) * 4)
    pairs = [kl(one, two) for one in log_p for two in log_p]
    assert modified_inception_score(log_p) == pytest.approx(np.exp(np.mean(pairs)), rel=1e-12)


def test_random_pairs_as_the_paper_draws_them_estimate_it():
    log_p = log_softmax(np.random.default_rng(5).normal(size=(200, 10)) * 2)
    i, j = np.random.default_rng(6).integers(200, size=(2, 10_000))
    kls = (np.exp(log_p[i]) * (log_p[i] - log_p[j])).sum(1)
    error = kls.std() / np.sqrt(len(kls))
    assert abs(kls.mean() - np.log(modified_inception_score(log_p))) < 4 * error


def test_confident_clips_give_finite_scores():
    # Such probabilities are 0 in float32, and a logarithm of 0 would make every score infinite.
    log_p = log_softmax(np.eye(3)[[0, 1, 2, 0, 1, 2]] * 150)
    # Of two clips of different classes KL is 150; a third of the pairs are of one class.
    assert np.log(modified_inception_score(log_p)) == pytest.approx(100, rel=1e-12)
    assert np.isfinite(inception_score(log_p))
    assert am_score(log_p, log_p) == pytest.approx(0, abs=1e-12)
    assert modified_inception_score(log_p * 100) == np.inf
    # A class that no clip is of: the mean of its probabilities is 0 in float64 too.
    absent = np.hstack([log_p, np.full((6, 1), -2000.0)])
    for score in (inception_score, modified_inception_score):
        assert score(absent) == pytest.approx(score(log_p), rel=1e-12)
    assert am_score(absent, absent) == pytest.approx(0, abs=1e-12)


def test_am_score():
    balanced = certain([0, 1, 2, 3] * 5, 4)
    assert am_score(balanced, balanced) == pytest.approx(0, abs=1e-6)
    # Clips that say nothing: no divergence from a balanced reference, all the entropy.
    assert am_score(np.log(np.full((9, 4), 0.25)), balanced) == pytest.approx(np.log(4), rel=1e-6)
    # Clear clips of two of four classes in equal parts: KL from the balanced mean, with `other` in the missing ones.
    half = am_score(certain([0, 1] * 5, 4, other=1e-6), balanced)
    assert half == pytest.approx(0.5 * np.log(0.25 / 0.5) + 0.5 * np.log(0.25 / 1e-6), rel=1e-3)


def test_am_score_takes_the_divergence_of_the_reference_from_the_clips():
    x, y = (log_softmax(np.random.default_rng(i).normal(size=(8, 3))) for i in (7, 8))
    means = [np.log(np.exp(rows).mean(0)) for rows in (x, y)]
    entropy = -np.mean([(np.exp(row) * row).sum() for row in x])
    assert am_score(x, y) == pytest.approx(kl(means[1], means[0]) + entropy, rel=1e-12)


@pytest.mark.parametrize("measure", [inception_score, modified_inception_score, lambda x: fid(x, x)])
def test_one_row_or_values_that_are_no_numbers_are_refused(measure):
    with pytest.raises(ValueError, match="at least 2 rows"):
        measure(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        measure(np.array([[0.0, 1.0], [np.nan, 1.0]]))


def test_other_features_are_refused():
    with pytest.raises(ValueError, match="reference has 4 features"):
        fid(np.zeros((3, 5)), np.zeros((3, 4)))
