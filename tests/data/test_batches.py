"""Examples and batches: padding, labels, weights, and augmentation that depends on (seed, epoch, index) alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.augment import Augmentation
from ssmbio.data.batches import Collate, SequenceDataset
from ssmbio.data.records import PackedRecords, Record
from ssmbio.data.tokenizers import CharacterTokenizer, KmerTokenizer
from ssmbio.errors import UserError

SEQUENCES = [b"ACGTT", b"ggA", b"NNACGTACGTAC", b"T"]


def records(sequences: list[bytes] = SEQUENCES) -> PackedRecords:
    return PackedRecords(
        names=[f"r{i}".encode() for i in range(len(sequences))],
        sequences=sequences,
        labels=[None] * len(sequences),
        files=[("x.csv", 0)],
        lines=list(range(2, 2 + len(sequences))),
    )


def dataset(labels=None, sequences: list[bytes] = SEQUENCES, **settings) -> SequenceDataset:
    return SequenceDataset(records(sequences), settings.pop("tokenizer", CharacterTokenizer()), labels, **settings)


def test_batch_is_padded_on_the_right() -> None:
    data = dataset(np.array([1, 0, 1, 0]))
    batch = Collate(4)([data[1], data[0]])
    assert batch["ids"].dtype == batch["lengths"].dtype == batch["index"].dtype == batch["labels"].dtype == torch.int64
    assert batch["ids"].tolist() == [[9, 9, 7, 4, 4], [7, 8, 9, 10, 10]]
    assert batch["lengths"].tolist() == [3, 5]
    assert batch["index"].tolist() == [1, 0]
    assert batch["labels"].tolist() == [0, 1]
    assert "weights" not in batch


def test_multilabel_labels_are_floats_and_prediction_has_none() -> None:
    data = dataset(np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32))
    batch = Collate(4)([data[i] for i in range(4)])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert "labels" not in Collate(4)([dataset()[0]])


def test_weights_follow_the_case_and_the_strand() -> None:
    batch = Collate(4)([dataset(soft_masked_weight=0.25)[i] for i in (1, 0)])
    assert batch["weights"].dtype == torch.float32
    assert batch["weights"].tolist() == [[0.25, 0.25, 1, 0, 0], [1] * 5]
    turned = dataset(soft_masked_weight=0.25, augment=Augmentation(1.0))[0, 1]
    assert turned.ids.tolist() == [10, 8, 8]
    assert turned.weights is not None
    assert turned.weights.tolist() == [1, 0.25, 0.25]


def test_weights_need_one_id_a_letter() -> None:
    with pytest.raises(UserError, match=r"data/tokenizer=character"):
        dataset(soft_masked_weight=0.5, tokenizer=KmerTokenizer(3))


def test_augmentation_happens_in_training_only_and_at_its_rate() -> None:
    tokenizer = CharacterTokenizer()
    data = dataset(sequences=[b"AACG"] * 500, augment=Augmentation(0.3))
    forward, turned = tokenizer.encode(b"AACG").tolist(), tokenizer.encode(reverse_complement(b"AACG")).tolist()
    drawn = [data[0, i].ids.tolist() for i in range(500)]
    assert all(ids in (forward, turned) for ids in drawn)
    assert 0.24 < np.mean([ids == turned for ids in drawn]) < 0.36
    assert all(data[i].ids.tolist() == forward for i in range(500))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_augmentation_of_none_or_all(probability: float) -> None:
    data = dataset(sequences=[b"AACG"] * 50, augment=Augmentation(probability))
    turned = CharacterTokenizer().encode(b"CGTT").tolist()
    assert {data[e, i].ids.tolist() == turned for e in range(3) for i in range(50)} == {bool(probability)}


def test_augmentation_depends_on_seed_epoch_and_index_alone() -> None:
    def drawn(data: SequenceDataset, epoch: int) -> list[list[int]]:
        return [data[epoch, i].ids.tolist() for i in range(64)]

    data = dataset(sequences=[b"AACG"] * 64, augment=Augmentation(0.5, seed=3))
    first = drawn(data, 0)
    assert drawn(data, 1) != first
    assert drawn(pickle.loads(pickle.dumps(data)), 0) == first
    assert drawn(dataset(sequences=[b"AACG"] * 64, augment=Augmentation(0.5, seed=4)), 0) != first
    assert [data[0, i].ids.tolist() for i in reversed(range(64))] == first[::-1]


def test_too_long_is_an_error_unless_truncated() -> None:
    with pytest.raises(
        UserError, match=r"x\.csv, line 4: record r2 has 12 bases, more than max_length = 5; .*truncate"
    ):
        dataset(max_length=5)
    data = dataset(max_length=5, truncate=True)
    assert [len(data[i].ids) for i in range(4)] == [5, 3, 5, 1]
    assert data.record(2).sequence == SEQUENCES[2][:5]


def test_the_place_of_a_truncated_record_is_that_of_what_is_seen() -> None:
    """What test_predictions.tsv lists."""
    seen = dataset(max_length=4, truncate=True).record(2)
    assert (seen.sequence, seen.start, seen.end) == (b"NNAC", 0, 4)
    genome = b"AACCGGTTAC"
    forward = Record("chr1", genome[2:9], start=2, strand="+").first(3)
    assert (forward.start, forward.end) == (2, 5)
    assert genome[forward.start : forward.end] == forward.sequence
    reverse = Record("chr1", reverse_complement(genome[2:9]), start=2, strand="-").first(3)
    assert (reverse.start, reverse.end) == (6, 9)
    assert reverse_complement(genome[reverse.start : reverse.end]) == reverse.sequence
    assert reverse.first(3) is reverse
