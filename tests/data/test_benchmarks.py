"""Benchmarks by name: local copies in every layout, and downloads from a server on loopback."""

from __future__ import annotations

import functools
import gzip
import http.server
import threading
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ssmbio.data.benchmarks import GenomicBenchmarksSource, GueSource, NucleotideTransformerSource
from ssmbio.errors import UserError


def write_csv(path: Path, rows: list[tuple[str, int]], header: str = "sequence,label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *(f"{sequence},{label}" for sequence, label in rows)]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_parquet(path: Path, rows: list[tuple[str, int]], column: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: [s for s, _ in rows], "label": [label for _, label in rows]}), path)


def contents(splits) -> dict[str, list[tuple[bytes, str]]]:
    return {name: [(record.sequence, record.label) for record in map(set_.__getitem__, range(len(set_)))]
            for name, set_ in splits.items()}  # fmt: skip


@pytest.mark.parametrize("folder", ["300_tata", "prom_300_tata", "GUE/prom/prom_300_tata", "prom/prom_300_tata"])
def test_gue_layouts(tmp_path: Path, folder: str) -> None:
    for number, split in enumerate(("train", "dev", "test")):
        write_csv(tmp_path / folder / f"{split}.csv{'.gz' if number else ''}", [("ACGT" * (number + 1), number % 2)])
    assert contents(GueSource(name="300_tata", root=str(tmp_path)).splits()) == {
        "train": [(b"ACGT", "0")],
        "val": [(b"ACGTACGT", "1")],
        "test": [(b"ACGTACGTACGT", "0")],
    }


def test_gue_has_the_28_tasks_of_the_paper() -> None:
    assert len(GueSource.tasks) == 28
    assert len({folder for folder, _ in GueSource.tasks.values()}) == 28


def test_nucleotide_transformer_local(tmp_path: Path) -> None:
    write_parquet(tmp_path / "enhancers_types" / "train.parquet", [("ACGT", 2), ("CCGT", 0)], "sequence")
    write_csv(tmp_path / "enhancers_types" / "test.csv", [("TTGT", 1)])
    splits = NucleotideTransformerSource(name="enhancers_types", root=str(tmp_path)).splits()
    assert contents(splits) == {"train": [(b"ACGT", "2"), (b"CCGT", "0")], "test": [(b"TTGT", "1")]}


def test_revised_tasks_are_read_from_a_local_copy(tmp_path: Path) -> None:
    write_parquet(tmp_path / "H2AFZ" / "train.parquet", [("ACGT", 1)], "sequence")
    assert list(NucleotideTransformerSource(name="H2AFZ", root=str(tmp_path)).splits()) == ["train"]


def test_genomic_benchmarks_class_folders(tmp_path: Path) -> None:
    for split, name, number, sequence in (
        ("train", "positive", 1, "AC\n"),
        ("train", "negative", 7, "GGT"),
        ("test", "positive", 0, "TT"),
    ):
        path = tmp_path / "human_nontata_promoters" / split / name / f"{number}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(sequence)
    splits = GenomicBenchmarksSource(name="human_nontata_promoters", root=str(tmp_path)).splits()
    assert contents(splits) == {
        "train": [(b"GGT", "negative"), (b"AC", "positive")],
        "test": [(b"TT", "positive")],
    }
    assert splits["train"].where(1).startswith(str(tmp_path / "human_nontata_promoters/train/positive/1.txt"))


def test_genomic_benchmarks_tables(tmp_path: Path) -> None:
    write_parquet(tmp_path / "human_enhancers_cohn" / "train.parquet", [("ACGT", 1)], "seq")
    splits = GenomicBenchmarksSource(name="human_enhancers_cohn", root=str(tmp_path)).splits()
    assert contents(splits) == {"train": [(b"ACGT", "1")]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "300_tat"}, "gue has no task '300_tat'; did you mean '300_tata'"),
        ({"name": "300_tata", "root": "{tmp}/absent"}, "absent: there is no folder '300_tata' in it; check data.root"),
        ({"name": "empty", "root": "{tmp}"}, "empty: no train, dev, test of a table in it; the layout is"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    settings = {key: value.format(tmp=tmp_path) for key, value in settings.items()}
    with pytest.raises(UserError, match=message):
        GueSource(**settings).splits()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub on loopback that serves `tmp_path/hub`, and an empty cache."""
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "hub"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder / "datasets", server.shutdown
    server.shutdown()
    server.server_close()
    thread.join()


def test_gue_from_the_hub_then_from_the_cache(hub, tmp_path: Path) -> None:
    url, datasets, stop = hub
    for split in ("train", "dev", "test"):
        write_csv(datasets / "leannmlindsey/GUE/resolve/main/GUE/human_tf_0" / f"{split}.csv", [(f"ACG{split}"[:4], 1)])
    first = contents(GueSource(name="tf_0", url=url).splits())
    assert first == {"train": [(b"ACGt", "1")], "val": [(b"ACGd", "1")], "test": [(b"ACGt", "1")]}
    assert (tmp_path / "cache/gue/tf_0/dev.csv.sha256").is_file()
    stop()
    assert contents(GueSource(name="tf_0", url=url).splits()) == first
    assert contents(GueSource(name="tf_0", root=str(tmp_path / "cache/gue")).splits()) == first


def test_nucleotide_transformer_from_the_hub(hub) -> None:
    url, datasets, _ = hub
    remote = datasets / "InstaDeepAI/nucleotide_transformer_downstream_tasks/resolve/main/promoter_tata"
    write_parquet(remote / "train.parquet", [("ACGT", 1)], "sequence")
    write_parquet(remote / "test.parquet", [("GGGT", 0)], "sequence")
    splits = NucleotideTransformerSource(name="promoter_tata", url=f"{url}/").splits()
    assert contents(splits) == {"train": [(b"ACGT", "1")], "test": [(b"GGGT", "0")]}


def test_genomic_benchmarks_from_the_hub(hub) -> None:
    url, datasets, _ = hub
    remote = datasets / "katarinagresova/Genomic_Benchmarks_demo_human_or_worm/resolve/refs/convert/parquet/default"
    write_parquet(remote / "train" / "0000.parquet", [("ACGT", 1)], "seq")
    write_parquet(remote / "test" / "0000.parquet", [("GGGT", 0)], "seq")
    splits = GenomicBenchmarksSource(name="demo_human_or_worm", url=url).splits()
    assert contents(splits) == {"train": [(b"ACGT", "1")], "test": [(b"GGGT", "0")]}


def test_missing_on_the_hub_tells_of_a_local_copy(hub, tmp_path: Path) -> None:
    url, datasets, _ = hub
    write_csv(datasets / "leannmlindsey/GUE/resolve/main/GUE/human_tf_0/train.csv", [("ACGT", 1)])
    with pytest.raises(UserError, match=r"dev\.csv: the host answers 404 .*data\.root to a folder with a copy"):
        GueSource(name="tf_0", url=url).splits()
    left = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert left == ["train.csv", "train.csv.sha256"]
