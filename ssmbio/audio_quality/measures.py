"""How close a set of generated clips is to a set of real ones: FID, IS, mIS and AM of a classifier's view of them.

Definitions: SaShiMi (Goel et al. 2022, arXiv 2202.09729, appendix on automated metrics), which takes them from DiffWave
(Kong et al. 2021, arXiv 2009.09761). p(x) are a classifier's probabilities of the classes of clip x. The classifier is
an own one: **figures are comparable only under the same classifier**, whose features and mistakes are part of them.

Everything is float64. Probabilities come as logarithms, because a confident classifier's float32 probabilities
underflow to 0, and KL(p ‖ 0) is infinite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fid(features: Array, reference: Array) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, arXiv 1706.08500).

    ‖μ − μ_r‖² + tr(S + S_r − 2 (S S_r)^½), with the unbiased covariances S of the sets. 0 for equal sets.

    Args:
        features: (n, D) of the clips that are judged, n ≥ 2.
        reference: (n_r, D) of real clips, n_r ≥ 2.

    Raises:
        ValueError: fewer than two rows, another D, or a value that is not finite.
    """
    features, reference = _rows(features, "features"), _rows(reference, "reference")
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"reference has {reference.shape[1]} features, features has {features.shape[1]}")
    shift = features.mean(0) - reference.mean(0)
    own, other = covariance(features), covariance(reference)
    # tr((S S_r)^½) is the sum of the square roots of the eigenvalues of S^½ S_r S^½, which are the singular values of
    # S^½ S_r^½. Taken as such they keep the digits that the square root of an eigenvalue near 0 loses, so covariances
    # without full rank (fewer clips than features) need no perturbation.
    overlap = np.linalg.svd(_root(own) @ _root(other), compute_uv=False).sum()
    # The distance is never negative; rounding may be.
    return max(float(shift @ shift + np.trace(own) + np.trace(other) - 2 * overlap), 0.0)


def inception_score(log_p: Array, seed: int = 0) -> float:
    """IS = exp(mean over x of KL(p(x) ‖ p̄)): from 1, all clips alike to the classifier, up to the number of classes.

    As in the paper, the clips are shuffled and halved: x runs over one half and p̄ is the mean over the other. (The code
    published with the paper takes KL along the clips and not along the classes: about the same where all classes are
    predicted equally often, more or less elsewhere. It is not followed here.)

    Args:
        log_p: (n, C) logarithms of class probabilities, n ≥ 2.
        seed: of the shuffle.
    """
    log_p = _rows(log_p, "log_p")
    order = np.random.default_rng(seed).permutation(len(log_p))
    first, second = np.split(log_p[order], [len(log_p) // 2])
    return float(np.exp((np.exp(first) * (first - _log_mean(second))).sum(1).mean()))


def modified_inception_score(log_p: Array) -> float:
    """mIS = exp(E KL(p(x) ‖ p(x'))) over pairs of clips: large where each clip is clear and clips differ.

    The paper draws 10,000 pairs with replacement; this is the mean over all n² pairs, which is what such a draw
    estimates without bias (before the exponential). KL(p ‖ q) = Σ p log p − Σ p log q is linear in log q for fixed p
    and in p for fixed log q, so the double mean is Σ_c [mean(p log p) − mean(p) mean(log p)]: n·C terms and not n²·C.

    Args:
        log_p: (n, C) logarithms of class probabilities, n ≥ 2.

    Returns:
        infinity where the exponential overflows.
    """
    log_p = _rows(log_p, "log_p")
    p = np.exp(log_p)
    mean_kl = float(((p * log_p).mean(0) - p.mean(0) * log_p.mean(0)).sum())
    with np.errstate(over="ignore"):
        return float(np.exp(mean_kl))


def am_score(log_p: Array, reference_log_p: Array) -> float:
    """AM = KL(p̄_r ‖ p̄) + mean entropy of p(x): 0 for clips that are all clear and of the classes of the reference.

    Zhou et al. 2018 (arXiv 1703.02000), in nats. p̄ is the mean over the clips, p̄_r over the reference.

    Args:
        log_p: (n, C) logarithms of class probabilities, n ≥ 2.
        reference_log_p: (n_r, C) those of real clips, n_r ≥ 2.
    """
    log_p, reference_log_p = _rows(log_p, "log_p"), _rows(reference_log_p, "reference_log_p")
    log_mean, reference_log_mean = _log_mean(log_p), _log_mean(reference_log_p)
    divergence = float((np.exp(reference_log_mean) * (reference_log_mean - log_mean)).sum())
    return divergence - float((np.exp(log_p) * log_p).sum(1).mean())


def covariance(rows: Array) -> Array:
    """(n, D) → (D, D), over n − 1; also where D = 1."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)


def _root(matrix: Array) -> Array:
    """The symmetric square root of a positive semi-definite matrix (D, D)."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # rounding leaves eigenvalues of 0 a little below it


def _log_mean(log_p: Array) -> Array:
    """log of the mean over the rows of exp(log_p): (n, C) → (C,)."""
    highest = log_p.max(0)
    return highest + np.log(np.exp(log_p - highest).mean(0))


def _rows(values: Array, name: str) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"{name} must have two axes and at least 2 rows, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values
