from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ssmbio.data.records import RecordSet
from ssmbio.data.sources import IntervalSource
from ssmbio.errors import UserError


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{'ACGT' * 30}\n" for name in ("a", "b", "c", "7")))
    rows = [f"{'abc7'[i % 4]}\t{i}\t{i + 5}\tx" for i in range(100)]
    (tmp_path / "x.bed").write_text("\n".join(rows))
    return tmp_path


def split(genome: Path, parts: Any, seed: int = 0) -> dict[str, RecordSet]:
    source = IntervalSource(fasta=str(genome / "g.fa"), intervals=str(genome / "x.bed"), split=parts, seed=seed)
    return source.splits()


def contigs(records: RecordSet) -> set[str]:
    return {record.name for record in records}


def starts(records: RecordSet) -> list[int]:
    return [record.start for record in records]


def test_by_contig_the_rest_is_train(genome: Path) -> None:
    # As Hydra gives it, with a contig that YAML takes for a number.
    splits = split(genome, OmegaConf.create({"test": ["c", 7], "val": "b", "train": None}))
    assert list(splits) == ["train", "val", "test"]
    assert [contigs(records) for records in splits.values()] == [{"a"}, {"b"}, {"c", "7"}]
    assert starts(splits["test"]) == sorted(starts(splits["test"]))


def test_train_may_name_its_contigs(genome: Path) -> None:
    splits = split(genome, {"train": ["a"], "val": ["b"]})
    assert {name: contigs(records) for name, records in splits.items()} == {"train": {"a"}, "val": {"b"}}


def test_by_fraction_each_interval_once(genome: Path) -> None:
    splits = split(genome, {"val": 0.1, "test": 0.25})
    assert {name: len(records) for name, records in splits.items()} == {"train": 65, "val": 10, "test": 25}
    everything = [start for records in splits.values() for start in starts(records)]
    assert sorted(everything) == list(range(100))
    assert starts(splits["test"]) == sorted(starts(splits["test"]))
    assert starts(splits["test"]) == starts(split(genome, {"val": 0.1, "test": 0.25})["test"])
    assert starts(splits["test"]) != starts(split(genome, {"val": 0.1, "test": 0.25}, seed=1)["test"])
    assert starts(splits["test"]) != list(range(min(starts(splits["test"])), min(starts(splits["test"])) + 25))


def test_one_bed_a_split(genome: Path) -> None:
    (genome / "y.bed").write_text("b\t1\t3\tx\n")
    beds = {"train": str(genome / "x.bed"), "test": str(genome / "y.bed")}
    splits = IntervalSource(fasta=str(genome / "g.fa"), intervals=OmegaConf.create(beds)).splits()
    assert {name: len(records) for name, records in splits.items()} == {"train": 100, "test": 1}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"valid": ["b"]}, "split 'valid'; did you mean 'val'"),
        ({"val": ["B"]}, "no contig 'B' for 'val'; did you mean 'b'"),
        ({"val": ["b"], "test": ["b"]}, "contig 'b' is in 'val' and in 'test'"),
        ({"val": 0.1, "test": ["b"]}, "mixes fractions and contigs"),
        ({"val": 0.6, "test": 0.6}, "give each more than 0, and 1 or less in all"),
        ({"val": 0.0}, "give each more than 0"),
        ({"val": ["a", "b", "c", "7"]}, "no interval falls into the split 'train'"),
        ({"val": 0.001}, "no interval falls into the split 'val'"),
    ],
)
def test_faults(genome: Path, parts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(genome, parts)


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_seeds_that_are_none(genome: Path, seed: Any) -> None:
    with pytest.raises(UserError, match=r"^data.split_seed is .*; set it to a whole number, 0 or more\.$"):
        split(genome, {"val": 0.1}, seed=seed)
    assert split(genome, {"val": ["b"]}, seed=seed)  # contigs are not drawn


def test_beds_a_split_and_a_split_are_too_much() -> None:
    with pytest.raises(UserError, match=r"set data.split=null, or give one BED"):
        IntervalSource(fasta="g.fa", intervals={"train": "x.bed"}, split={"val": 0.1})
