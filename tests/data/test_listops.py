"""ListOps: values against those worked out by hand, the grammar's shape, and files like the Long Range Arena's."""

from __future__ import annotations

import gzip
from collections import Counter

import numpy as np
import pytest

from ssmbio.data.listops import SYMBOLS, draw_expressions, evaluate
from ssmbio.data.listops_source import ListopsSource, ListopsTokenizer, letters_of, load_listops
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.errors import UserError

SMALL = {"shortest": 3, "longest": 60, "depth": 5, "arguments": 6}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 2 9 [MIN 4 7 ] ]", 2),
        ("[SM 9 9 9 ]", 7),
        ("[SM 5 5 ]", 0),
        ("[MED 1 9 3 ]", 3),
        ("[MED 1 4 ]", 2),  # 2.5, rounded down
        ("[MED 9 0 8 7 ]", 7),  # 7.5
        ("[MED 3 3 ]", 3),
        ("[MAX 2 9 [MIN 4 7 ] 0 [SM 1 [MED 8 8 2 ] 3 ] ]", 9),
        ("[SM [MAX 2 4 ] [MIN 8 [SM 9 9 ] ] 1 ]", 3),  # 4 + 8 + 1 = 13
        ("( ( ( [SM 8 ) 7 ) ] )", 5),  # as the Long Range Arena's files have it
    ],
)
def test_values_worked_out_by_hand(text: str, value: int) -> None:
    assert evaluate(letters_of(text.encode(), "here")) == value


@pytest.mark.parametrize("settings", [SMALL, {**SMALL, "shortest": 100, "longest": 400, "depth": 8, "arguments": 10}])
def test_what_is_drawn_has_the_value_that_reading_it_gives(settings: dict) -> None:
    drawn = list(draw_expressions(300, seed=1, **settings))
    assert len({expression for expression, _ in drawn}) == len(drawn) == 300
    for expression, value in drawn:
        assert evaluate(expression) == value
        assert settings["shortest"] < len(expression) < settings["longest"]
        assert deepest(expression) <= settings["depth"]
        assert 2 <= min(arguments := counts(expression)) <= max(arguments) <= settings["arguments"]


def deepest(expression: bytes) -> int:
    """Levels of the tree, digits included."""
    levels = np.cumsum([1 if letter in b"nxds" else -1 if letter == ord("]") else 0 for letter in expression])
    return int(levels.max()) + 1


def counts(expression: bytes) -> list[int]:
    """How many arguments each list has."""
    open_lists: list[int] = [0]
    done = []
    for letter in expression:
        if letter == ord("]"):
            done.append(open_lists.pop())
        else:
            open_lists[-1] += 1
            if letter in b"nxds":
                open_lists.append(0)
    return done


def test_the_distribution_is_the_published_one() -> None:
    """At the published settings operators are even, and values lean to 0 and 9 (MIN and MAX)."""
    drawn = list(draw_expressions(400, shortest=500, longest=2000, depth=10, arguments=10, seed=0))
    text = b"".join(expression for expression, _ in drawn)
    operators = Counter(letter for letter in text if letter in b"nxds")
    total = sum(operators.values())
    assert all(count / total == pytest.approx(0.25, abs=0.02) for count in operators.values())
    assert total == text.count(b"]")
    arguments = Counter(counts(text))
    assert set(arguments) == set(range(2, 11))
    labels = Counter(value for _, value in drawn)
    assert set(labels) == set(range(10))
    assert max(labels.values()) / len(drawn) < 0.25  # no class is an answer by itself
    assert labels[0] > labels[4]
    assert labels[9] > labels[4]


def test_a_quarter_of_the_nodes_above_the_deepest_level_are_lists() -> None:
    """Of three levels the middle one, below roots of six arguments and more: of those hardly any comes twice.

    Taking each expression once, or by its length, would favour lists or digits elsewhere.
    """
    drawn = draw_expressions(4000, shortest=0, longest=10**6, depth=3, arguments=10, seed=0)
    families = [family for expression, _ in drawn if len(family := arguments_of_the_root(expression)) >= 6]
    are_lists = [is_list for family in families for is_list in family]
    standard_error = (0.25 * 0.75 / len(are_lists)) ** 0.5
    assert standard_error < 0.004
    assert sum(are_lists) / len(are_lists) == pytest.approx(0.25, abs=4 * standard_error)


def arguments_of_the_root(expression: bytes) -> list[bool]:
    """Whether each is a list."""
    level, found = 0, []
    for letter in expression:
        if letter == ord("]"):
            level -= 1
            continue
        if level == 1:
            found.append(letter in b"nxds")
        level += letter in b"nxds"
    return found


def test_the_same_seed_gives_the_same_expressions_and_another_gives_others() -> None:
    one, same, other = (list(draw_expressions(50, seed=seed, **SMALL)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_too_few_expressions_are_one_clear_error() -> None:
    with pytest.raises(UserError, match="different expressions of 4 to 4 tokens were found"):
        list(draw_expressions(10_000, shortest=3, longest=5, depth=2, arguments=2, seed=0))


def test_what_is_made_is_written_as_files_and_read_back(tmp_path) -> None:
    source = ListopsSource(folder=str(tmp_path), train=30, val=5, test=7, **SMALL)
    splits = source.splits()
    assert {split: len(records) for split, records in splits.items()} == {"train": 30, "val": 5, "test": 7}
    lines = (source.folder / "basic_train.tsv").read_text().splitlines()
    assert lines[0] == "Source\tTarget"
    for index, line in enumerate(lines[1:]):
        text, value = line.split("\t")
        assert splits["train"][index].sequence == letters_of(text.encode(), "here")
        assert splits["train"].label_of(index) == value == str(evaluate(splits["train"][index].sequence))
    everything = [records[i].sequence for records in splits.values() for i in range(len(records))]
    assert len(set(everything)) == 42  # no test expression is in train
    again = ListopsSource(root=str(source.folder)).splits()
    assert again["test"][3].sequence == splits["test"][3].sequence


def test_files_of_the_arena_are_read_with_their_round_brackets(tmp_path) -> None:
    with gzip.open(tmp_path / "basic_test.tsv.gz", "wt") as file:
        file.write("Source\tTarget\n( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )\t9\n")
    (record,) = [ListopsSource(root=str(tmp_path)).splits()["test"][0]]
    assert record.sequence == b"x29n47]]"
    assert record.label == "9"


def test_ids_come_back_as_letters() -> None:
    tokenizer = ListopsTokenizer()
    ids = tokenizer.encode(SYMBOLS)
    assert ids.tolist() == list(range(7, 22))
    assert tokenizer.vocab_size == 22
    assert tokenizer.decode([tokenizer.pad_id, *ids]) == SYMBOLS
    assert isinstance(tokenizer_from_spec(tokenizer.spec()), ListopsTokenizer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Source\tTarget\n[MAX 2 10 ]\t2\n", ["x.tsv, line 2", "'10' is no token of ListOps"]),
        ("Source\tTarget\n[AVG 2 1 ]\t2\n", ["x.tsv, line 2", "'[AVG'"]),
        ("Source\tTarget\n( )\t2\n", ["x.tsv, line 2", "empty"]),
        ("Source\tTarget\n[MAX 2 1 ]\t\n", ["x.tsv, line 2", "'Target' is empty"]),
        ("Text\tTarget\n[MAX 2 1 ]\t2\n", ["x.tsv, line 1", "no column 'Source'"]),
        ("Source\tTarget\n", ["x.tsv", "no rows"]),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text: str, words: list[str]) -> None:
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(UserError) as error:
        load_listops(tmp_path / "x.tsv")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"root": "nowhere"}, "nowhere: no such folder"),
        ({"depth": 1}, "depth 1 of ListOps"),
        ({"train": 0}, "train 0 of ListOps"),
        ({"arguments": 1.5}, "arguments 1.5"),
    ],
)
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ListopsSource(**settings).splits()
