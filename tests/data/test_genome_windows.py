"""Windows of genomes: regions that share no base, random windows that repeat, grids, and faults in plain words."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.genome_windows import GenomeWindowsSource, JoinedGenome
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.errors import UserError

RNG = np.random.default_rng(0)


def letters(count: int) -> bytes:
    return bytes(np.frombuffer(b"ACGT", np.uint8)[RNG.integers(0, 4, count)])


GENOMES = {"one": letters(1000), "two": letters(1500)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two genomes, the second gzip and in two contigs."""
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    genomes = tmp_path / "genomes"
    genomes.mkdir()
    (genomes / "a.fa").write_bytes(b">c1 Escherichia coli K-12\n" + GENOMES["one"] + b"\n")
    two = GENOMES["two"]
    with gzip.open(genomes / "b.fna.gz", "wb") as file:
        file.write(b">c2 Escherichia fergusonii\n" + two[:700] + b"\n>c3 plasmid\n" + two[700:] + b"\n")
    (genomes / "notes.txt").write_text("no genome")
    return genomes


def source(folder: Path, **settings) -> GenomeWindowsSource:
    given = {"genomes": str(folder), "length": 150, "regions": {"val": 0.2, "test": 0.2}, **settings}
    return GenomeWindowsSource(**given)


def test_contigs_are_joined_and_windows_are_the_letters_at_their_place(folder: Path) -> None:
    for records in source(folder).splits().values():
        for index in range(len(records)):
            record = records[index]
            genome = GENOMES["one" if record.name == "a" else "two"]
            assert record.sequence == genome[record.start : record.end]
            assert len(record.sequence) == records.lengths[index] == 150
            assert record.label == records.label_of(index)


def test_no_base_of_one_split_lies_in_another(folder: Path) -> None:
    covered: dict[tuple[str, str], set[int]] = {}
    for split, records in source(folder, windows=200).splits().items():
        for index in range(len(records)):
            record = records[index]
            covered.setdefault((record.name, split), set()).update(range(record.start, record.end))
    for name, size in (("a", 1000), ("b", 1500)):
        train, val, test = (covered[name, split] for split in ("train", "val", "test"))
        assert not train & val
        assert not train & test
        assert not val & test
        # The grid reaches every base of its region, the last window as far as the end.
        assert val == set(range(round(0.6 * size), round(0.8 * size)))
        assert test == set(range(round(0.8 * size), size))
        assert train <= set(range(round(0.6 * size)))


def test_training_windows_are_drawn_anew_in_every_epoch_and_depend_on_seed_epoch_and_index_alone(folder: Path) -> None:
    def starts(epoch: int, **settings) -> list[int]:
        records = source(folder, windows=40, **settings).splits()["train"]
        return [records.in_epoch(epoch, index).start for index in range(len(records))]

    assert starts(0) == starts(0)
    assert starts(0) != starts(1)
    assert starts(0) != starts(0, seed=1)
    assert min(starts(0)) < 50
    assert max(starts(0)) > 650  # train ends at 900 in the longer genome
    records = source(folder, windows=40).splits()["train"]
    copy = pickle.loads(pickle.dumps(records))
    assert [copy.in_epoch(3, index) for index in (5, 60)] == [records.in_epoch(3, index) for index in (5, 60)]
    assert records[7] == records.in_epoch(0, 7)


def test_training_sees_other_windows_in_the_next_epoch_and_validation_the_same(folder: Path) -> None:
    data = ClassificationData(source(folder, windows=4), CharacterTokenizer(), batch_size=8, reverse_complement=0.0)
    data.setup("fit")
    assert data.labels == ["Escherichia coli", "Escherichia fergusonii"]
    assert data.sizes() == {"train": 8, "val": 4, "test": 4}
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        batch = next(iter(loader))
        epochs.append({tuple(ids) for ids in batch["ids"].tolist()})
    assert not epochs[0] & epochs[1]
    first, again = (next(iter(data.val_dataloader()))["ids"] for _ in range(2))
    assert (first == again).all()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("species", {"Escherichia coli", "Escherichia fergusonii"}),
        ("genus", {"Escherichia"}),
        ("file", {"a", "b"}),
    ],
)
def test_classes_come_from_the_header_or_the_file(folder: Path, label: str, expected: set[str]) -> None:
    assert set(source(folder, label=label).splits()["train"].labels()) == expected


def test_classes_can_be_named_and_files_listed(folder: Path) -> None:
    files = [str(folder / "a.fa"), str(folder / "b.fna.gz")]
    named = source(folder, genomes={"x": files[0], "y": files[1]}).splits()["test"]
    assert set(named.labels()) == {"x", "y"}
    assert set(source(folder, genomes=files, label="file").splits()["test"].labels()) == {"a", "b"}


def test_stride_and_shares(folder: Path) -> None:
    splits = source(folder, stride=30, regions={"test": 0.4}).splits()
    assert set(splits) == {"train", "test"}
    starts = [splits["test"][index].start for index in range(len(splits["test"]))]
    assert starts[:10] == [600, 630, 660, 690, 720, 750, 780, 810, 840, 850]


def test_a_short_part_is_an_error_or_repeated_but_never_in_training(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.fa: its part for val has 200 bases, less than a window of 450; .*repeat=true"
    ):
        source(folder, length=450).splits()
    splits = source(folder, length=450, repeat=True).splits()
    part = GENOMES["one"][600:800]
    record = splits["val"][0]
    assert record.sequence == part + part + part[:50]
    assert (record.start, record.end) == (600, 1050)
    assert all(set(records.lengths.tolist()) == {450} for records in splits.values())
    with pytest.raises(
        UserError, match=r"a\.fa: its part for train has 600 bases, less than a window of 700; lower"
    ) as fault:
        source(folder, length=700, repeat=True).splits()
    assert "repeat" not in str(fault.value)


def test_the_cache_is_written_once_and_follows_the_file(folder: Path) -> None:
    path = folder / "a.fa"
    genome = JoinedGenome(str(path))
    assert (genome.length, genome.fetch(10, 20)) == (1000, GENOMES["one"][10:20])
    cached = list((folder.parent / "cache" / "genomes").iterdir())
    assert len(cached) == 1
    before = cached[0].stat().st_mtime_ns
    JoinedGenome(str(path))
    assert cached[0].stat().st_mtime_ns == before
    path.write_bytes(b">c1 Escherichia coli\nACGTT\n")
    os.utime(path, ns=(1, 1))
    assert JoinedGenome(str(path)).fetch(0, 5) == b"ACGTT"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length 0"),
        ({"length": 2**21}, "length 2097152"),
        ({"windows": 0}, "windows 0; set data.windows"),
        ({"stride": -1}, "stride -1"),
        ({"label": "specie"}, "label 'specie'; .*species"),
        ({"regions": {"train": 0.5}}, "region 'train'"),
        ({"regions": {"val": 0.5, "test": 0.5}}, "below 1"),
        ({"regions": {"val": -0.1}}, "below 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(folder, **settings)


def test_faults_of_the_files_name_them(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty: there are no genomes in it; give a folder of \.fa"):
        source(empty).splits()
    with pytest.raises(UserError, match=r"missing: there is no such file"):
        source(tmp_path / "missing").splits()
    (folder / "c.fa").write_text(">c4\nACGT\n")
    with pytest.raises(UserError, match=r"c\.fa, line 1: the first header line names no species; set data\.label=file"):
        source(folder).splits()
    (folder / "c.fa").write_text(">c4 Escherichia albertii\nACGTX\n")
    with pytest.raises(UserError, match=r"c\.fa, record 'c4'.*'X' at letter 5"):
        source(folder).splits()
    assert not list((tmp_path / "cache" / "genomes").glob(".*"))
