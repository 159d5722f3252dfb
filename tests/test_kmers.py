"""k-mer counts of the baseline."""

from __future__ import annotations

import numpy as np
import pytest

from ssmbio.kmers import kmer_counts


def test_counts_are_logarithms_of_one_more_than_the_occurrences_of_each_kmer():
    counts = kmer_counts([b"AACAA"], 1, 2).toarray()[0]
    expected = np.zeros(4 + 16)
    expected[[0, 1]] = np.log1p([4, 1])  # A, C
    expected[[4 + 0, 4 + 1, 4 + 4]] = np.log1p([2, 1, 1])  # AA, AC, CA
    np.testing.assert_allclose(counts, expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_counts_of_both_strands_are_those_of_a_sequence_and_its_reverse_complement(k):
    sequence, other_strand = b"ACCGTTNAGA", b"TCTNAACGGT"
    both = np.expm1(kmer_counts([sequence], k, k, both_strands=True).toarray())
    one, other = (np.expm1(kmer_counts([strand], k, k).toarray()) for strand in (sequence, other_strand))
    np.testing.assert_allclose(both, one + other, atol=1e-5)
    assert not np.allclose(both, 2 * one, atol=1e-5)
