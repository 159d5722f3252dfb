"""The k-mer baseline sees what the model sees, and what it cannot be fitted on is one plain line."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from audio_commands import inside, run


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    with inside(tmp_path):
        yield


def write(name: str, labels: str, head: str = "ACGTACGTAC") -> str:
    """A table of sequences with one head, whose tail tells the label."""
    random.seed(name)
    tails = ("".join(random.choices("AC" if label == "a" else "GT", k=10)) for label in labels)
    rows = (f"{head}{tail},{label}\n" for tail, label in zip(tails, labels, strict=True))
    Path(name).write_text("sequence,label\n" + "".join(rows))
    return name


def test_records_are_cut_as_for_a_model():
    files = [f"data.{split}={write(f'{split}.csv', 'ab' * 15)}" for split in ("train", "val", "test")]
    aurocs = []
    for settings in ((), ("data.truncate=true", "data.max_length=10")):
        code, told = run("baseline", "data=table", *files, *settings)
        assert code == 0, told
        aurocs.append(json.loads(told)["test/auroc"])
    assert aurocs == [1.0, 0.5]


@pytest.mark.parametrize(
    ("labels", "setting", "message"),
    [
        ("ab", "data.val_fraction=0.5", "error: all records that are left for training are of one class, '[ab]'; set"),
        ("abab", "data.val_fraction=0.9", "error: val_fraction 0.9 of 4 records leaves none to train on; set data.val"),
        ("abab", "seed=-1", r"error: seed \(or data.seed\) is -1; set it to a whole number, 0 or more\.$"),
        ("abab", "seed=null", r"error: seed \(or data.seed\) is None; set it to a whole number, 0 or more\.$"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(labels, setting, message):
    files = (f"data.train={write('train.csv', labels)}", f"data.test={write('test.csv', 'ab')}")
    code, error = run("baseline", "data=table", *files, setting)
    assert code == 1
    (line,) = error.splitlines()
    assert re.match(message, line), line
