"""The datamodule: labels, splits, controls, and one plain line for what is wrong with the data."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.labels import stratified, vocabulary
from ssmbio.data.records import PackedRecords, RecordSet
from ssmbio.data.tokenizers import CharacterTokenizer, KmerTokenizer, tokenizer_from_spec
from ssmbio.errors import UserError


def records(labels, name: str = "train.csv", length: int = 6) -> RecordSet:
    rng = np.random.default_rng(len(labels))
    return PackedRecords(
        names=[f"row{i + 1}".encode() for i in range(len(labels))],
        sequences=[bytes(rng.choice(list(b"ACGT"), length).tolist()) for _ in labels],
        labels=labels,
        files=[(name, 0)],
        lines=list(range(2, 2 + len(labels))),
    )


class Given:
    """A source of the given splits."""

    def __init__(self, **splits: RecordSet) -> None:
        self.given = splits

    def splits(self) -> dict[str, RecordSet]:
        return self.given


def data(stage: str = "fit", *, tokenizer=None, given: dict | None = None, **settings) -> ClassificationData:
    splits = {split: records(labels, f"{split}.csv") for split, labels in (given or {"train": ["a", "b"] * 20}).items()}
    made = ClassificationData(Given(**splits), tokenizer or CharacterTokenizer(), **settings)
    made.setup(stage)
    return made


def codes(dataset) -> list:
    return [dataset[i].label.tolist() for i in range(len(dataset))]


def test_labels_are_sorted_and_numbers_by_value() -> None:
    assert vocabulary(["b", "a", "b"]) == ["a", "b"]
    assert vocabulary(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert vocabulary(["10", "9", "x"]) == ["10", "9", "x"]
    assert vocabulary([("b", "a"), (), ("c",)]) == ["a", "b", "c"]


@pytest.mark.parametrize("word", ["nan", "inf", "-Infinity", "1e999"])
def test_words_that_python_reads_as_numbers_without_a_place_are_letters(word: str) -> None:
    # Many labels, or the order by chance might be the right one.
    labels = [word, *map(str, range(30))]
    assert vocabulary(labels) == sorted(labels)


@pytest.mark.parametrize(
    ("labels", "problem", "known", "expected"),
    [
        (["x", "a"] * 5, "binary", ["a", "x"], [1, 0]),
        (["2", "10", "0"] * 5, "multiclass", ["0", "2", "10"], [1, 2, 0]),
        ([("p", "e"), (), ("p",)] * 5, "multilabel", ["e", "p"], [[1, 1], [0, 0], [0, 1]]),
    ],
)
def test_problem_is_seen_from_the_labels(labels, problem, known, expected) -> None:
    made = data(given={"train": labels, "val": labels, "test": labels})
    assert (made.problem, made.labels) == (problem, known)
    assert codes(made.test)[: len(expected)] == expected
    assert codes(made.train) == codes(made.val) == codes(made.test)


def test_problem_may_be_given() -> None:
    assert data(problem="multiclass").problem == "multiclass"
    made = data(problem="multilabel")
    assert codes(made.val) == [[1, 0], [1, 0], [0, 1], [0, 1]] or len(codes(made.val)[0]) == 2
    with pytest.raises(UserError, match=r"problem 'binery'; did you mean 'binary'"):
        data(problem="binery")
    with pytest.raises(UserError, match="3 classes are not binary"):
        data(problem="binary", given={"train": ["a", "b", "c"] * 4})


def test_validation_is_drawn_at_the_shares_of_the_classes() -> None:
    labels = ["rare"] * 40 + ["common"] * 360
    made = data(given={"train": labels}, val_fraction=0.1, seed=1)
    assert made.sizes() == {"train": 360, "val": 40}
    assert sum(codes(made.val)) == 4  # common 0, rare 1
    names = [{dataset.record(i).name for i in range(len(dataset))} for dataset in (made.train, made.val)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 400
    again = data(given={"train": labels}, val_fraction=0.1, seed=1)
    assert {again.val.record(i).name for i in range(40)} == names[1]
    other = data(given={"train": labels}, val_fraction=0.1, seed=2)
    assert {other.val.record(i).name for i in range(40)} != names[1]


def test_stratified_sets_of_labels() -> None:
    rows = np.array([[1, 0]] * 50 + [[1, 1]] * 30 + [[0, 0]] * 20, np.float32)
    rest, drawn = stratified(rows, 0.2, 0)
    assert len(rest) == 80
    assert sorted(map(tuple, rows[drawn].tolist())) == [(0, 0)] * 4 + [(1, 0)] * 10 + [(1, 1)] * 6


def test_given_validation_is_kept() -> None:
    made = data(given={"train": ["a", "b"] * 20, "val": ["a", "b", "b"]})
    assert made.sizes() == {"train": 40, "val": 3}


def test_missing_test_split_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert data().test is None
    assert "no test split" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": ["a"] * 9}, r"train\.csv: all training records are of one class, 'a'; give records of another"),
        ({"train": [None] * 9}, r"train\.csv: the training records have no labels"),
        ({"train": ["a", "b", None] * 9}, r"train\.csv, line 4: the record has no label"),
        (
            {"train": ["a", "b"] * 9, "val": ["a"], "test": ["a", "c"]},
            r"test\.csv, line 3: label 'c' is not among the labels of the training data; there are a, b",
        ),
        ({"train": ["a", "b"] * 9, "val": ["c"]}, r"val\.csv, line 2: label 'c' is not among"),
        ({"train": ["a", "b"] * 9, "val": []}, "the val split has no records; give another file as data.val"),
        ({"test": ["a", "b"]}, "there is no training data; set data.train"),
    ],
)
def test_bad_data_is_one_line(given, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data(given=given)
    assert "\n" not in str(caught.value)


def test_validation_must_leave_something_to_train_on() -> None:
    for n, fraction in ((2, 0.8), (3, 0.9), (40, 0.99)):
        with pytest.raises(UserError, match=f"^val_fraction {fraction} of {n} records leaves none .* data.val_frac"):
            data(given={"train": (["a", "b"] * n)[:n]}, val_fraction=fraction)
    with pytest.raises(UserError, match=r"left for training are of one class, '[ab]'; set data.val_fraction lower"):
        data(given={"train": ["a", "b"] * 20}, val_fraction=0.97)
    assert data(given={"train": ["a", "b"] * 20}, val_fraction=0.9).sizes() == {"train": 4, "val": 36}


@pytest.mark.parametrize("seed", [-1, 1.5, None, "abc", True])
def test_seeds_that_are_none_are_one_line(seed) -> None:
    with pytest.raises(UserError, match=r"^seed \(or data.seed\) is .*; set it to a whole number, 0 or more\.$"):
        data(seed=seed)


@pytest.mark.parametrize(
    "settings",
    [
        *({"batch_size": value} for value in (0, 2.5, "many", None, True)),
        *({"eval_batch_size": value} for value in (-1, 0, 2.5, "many", True)),
        *({"max_length": value} for value in (0, 10.5, None)),
        *({"val_fraction": value} for value in (1.0, "half", None)),
        {"reverse_complement": 1.5},
    ],
)
def test_bad_settings(settings) -> None:
    with pytest.raises(UserError, match=f"set data.{next(iter(settings))} to "):
        data(**settings)


def test_too_long_a_record_is_found_at_the_start() -> None:
    with pytest.raises(UserError, match=r"train\.csv, line 2: record row1 has 6 bases, more than max_length = 5"):
        data(max_length=5)
    made = data(max_length=5, truncate=True)
    assert {len(made.train[i].ids) for i in range(len(made.train))} == {5}


def test_checkpoint_labels_need_no_training_data() -> None:
    made = data("test", given={"test": ["b", "c", "b"]}, labels=["a", "b", "c"], problem="multiclass")
    assert (made.train, made.val) == (None, None)
    assert codes(made.test) == [1, 2, 1]
    with pytest.raises(UserError, match=r"test\.csv, line 3: label 'd' is not among"):
        data("test", given={"test": ["b", "d"]}, labels=["a", "b"], problem="binary")


def test_second_setup_reads_nothing() -> None:
    made = data(given={"train": ["a", "b"] * 20, "test": ["a", "b"]})
    before = (made.train, made.test)
    made.source = None  # type: ignore[assignment]
    made.setup("test")
    assert (made.train, made.test) == before


def test_balanced_weights() -> None:
    made = data(given={"train": ["a"] * 30 + ["b"] * 10, "val": ["a"]}, class_weights=True)
    assert made.class_weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    many = data(given={"train": [("a",)] * 30 + [("a", "b")] * 10, "val": [("a",)]}, class_weights=True)
    assert many.class_weights.tolist() == pytest.approx([0 / 40, 30 / 10])
    assert data().class_weights is None


def test_shuffled_labels_keep_their_shares_and_lose_their_records() -> None:
    labels = ["a", "b"] * 200
    given = {"train": labels, "val": labels, "test": labels}
    plain, shuffled, again = (
        data(given=given),
        data(given=given, shuffle_labels=True),
        data(given=given, shuffle_labels=True),
    )
    for split in ("train", "val", "test"):
        true, drawn = codes(getattr(plain, split)), codes(getattr(shuffled, split))
        assert sum(drawn) == sum(true)
        assert 0.4 < np.mean(np.array(drawn) == true) < 0.6
        assert drawn == codes(getattr(again, split))
    assert codes(shuffled.val) != codes(shuffled.test)


def test_facts_are_plain_and_rebuild_the_tokenizer() -> None:
    made = data(tokenizer=KmerTokenizer(3), max_length=100, class_weights=True)
    facts = json.loads(json.dumps(made.facts()))
    assert facts == made.facts()
    assert tokenizer_from_spec(facts["tokenizer"]).spec() == KmerTokenizer(3).spec()
    assert (facts["labels"], facts["problem"], facts["max_length"]) == (["a", "b"], "binary", 100)
    assert facts["class_weights"] == [1.0, 1.0]


def test_evaluation_is_in_order_and_not_augmented() -> None:
    labels = ["a", "b"] * 20
    made = data(given={"train": labels, "test": labels}, reverse_complement=1.0, batch_size=8, eval_batch_size=16)
    batches = list(made.test_dataloader())
    assert [index for batch in batches for index in batch["index"].tolist()] == list(range(40))
    assert [len(batch["index"]) for batch in batches] == [16, 16, 8]
    tokenizer = CharacterTokenizer()
    first = made.test.record(0).sequence
    assert batches[0]["ids"][0].tolist() == tokenizer.encode(first).tolist()
    assert len(next(iter(made.train_dataloader()))["index"]) == 8
