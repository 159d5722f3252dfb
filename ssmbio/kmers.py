"""k-mer counts and logistic regression: what a sequence's composition alone can tell, the bar a model has to clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler

# A C G T → 0 1 2 3, everything else → 4, which no counted k-mer may hold.
_DIGIT = np.full(256, 4, np.uint8)
for _value, _letters in enumerate((b"Aa", b"Cc", b"Gg", b"TtUu")):
    _DIGIT[list(_letters)] = _value

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def kmer_counts(
    sequences: Sequence[bytes], smallest: int, largest: int, both_strands: bool = False
) -> sparse.csr_matrix:
    """log(1 + count) of every k-mer for k from `smallest` to `largest`.

    Args:
        sequences: B sequences of ASCII letters; a k-mer with a letter other than A, C, G, T, U is not counted.
        both_strands: count those of the reverse complement too.

    Returns:
        (B, Σ_k 4^k) float32.
    """
    sizes = range(smallest, largest + 1)
    first = np.cumsum([0, *(4**k for k in sizes)])
    rows, columns, values = [], [], []
    for row, sequence in enumerate(sequences):
        digits = _DIGIT[np.frombuffer(sequence, np.uint8)].astype(np.int64)
        for k, offset in zip(sizes, first[:-1], strict=True):
            if len(digits) < k:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(digits, k)
            known = windows[(windows < 4).all(1)]
            place = 4 ** np.arange(k - 1, -1, -1)
            words = known @ place
            if both_strands:
                words = np.concatenate([words, (3 - known) @ place[::-1]])
            index, count = np.unique(words, return_counts=True)
            rows.append(np.full(len(index), row))
            columns.append(index + offset)
            values.append(np.log1p(count).astype(np.float32))
    if not rows:
        return sparse.csr_matrix((len(sequences), int(first[-1])), dtype=np.float32)
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(values), places), shape=(len(sequences), int(first[-1])))


@dataclass
class KmerBaseline:
    """Logistic regression on k-mer counts; its strength of regularization is chosen on validation data.

    Args:
        smallest, largest: k-mers counted.
        both_strands: on both strands.
    """

    smallest: int = 1
    largest: int = 6
    both_strands: bool = False

    def fit(
        self, train: Sequence[bytes], labels: np.ndarray, val: Sequence[bytes], val_labels: np.ndarray
    ) -> KmerBaseline:
        """labels are classes 0..C-1, (B,); the log-likelihood of `val` picks the strength."""
        self.scaler = MaxAbsScaler()
        x, x_val = self.scaler.fit_transform(self._counts(train)), self.scaler.transform(self._counts(val))
        self.classes = 1 + max(labels.max(), val_labels.max())
        best = -np.inf
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=2000).fit(x, labels)
            certainty = self._probabilities(model, x_val)[np.arange(len(val_labels)), val_labels]
            likelihood = np.log(np.maximum(certainty, 1e-12)).mean()
            if likelihood > best:
                best, self.model, self.strength = likelihood, model, strength
        return self

    def scores(self, sequences: Sequence[bytes]) -> np.ndarray:
        """(B, C) probabilities."""
        return self._probabilities(self.model, self.scaler.transform(self._counts(sequences)))

    def _probabilities(self, model: LogisticRegression, x: sparse.csr_matrix) -> np.ndarray:
        """(B, C): a class that only the validation data hold has probability 0."""
        found = np.zeros((x.shape[0], self.classes))
        found[:, model.classes_] = model.predict_proba(x)
        return found

    def _counts(self, sequences: Sequence[bytes]) -> sparse.csr_matrix:
        return kmer_counts(sequences, self.smallest, self.largest, self.both_strands)
