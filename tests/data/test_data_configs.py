"""Every choice of conf/data is composed, built and used, with small files."""

from __future__ import annotations

from pathlib import Path

import hydra
import pyarrow
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError
from pyarrow import parquet

from ssmbio.data.augment import Augmentation
from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.tokenizers import BpeTokenizer
from ssmbio.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
SEQUENCES = ["ACGTACGTAC", "GGGTACGTAA", "TTGTACGTAC", "CCCTACGTAC"] * 5
LABELS = ["a", "b"] * 10

GENBANK = """LOCUS       chr1                      40 bp    DNA     linear   BCT 01-JAN-2000
FEATURES             Location/Qualifiers
     CDS             1..10
     tRNA            11..20
     CDS             21..30
     tRNA            31..40
ORIGIN
        1 acgtacgtac gggtacgtaa ttgtacgtac ccctacgtac
//
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind of file, and an empty cache."""
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    rows = list(zip(SEQUENCES, LABELS, strict=True))
    (tmp_path / "x.csv").write_text("sequence,label\n" + "".join(f"{s},{label}\n" for s, label in rows))
    for label in "ab":
        (tmp_path / f"{label}.fa").write_text("".join(f">r{i}\n{s}\n" for i, (s, l) in enumerate(rows) if l == label))
    (tmp_path / "genome.fa").write_text(f">chr1\n{''.join(SEQUENCES)}\n")
    (tmp_path / "x.bed").write_text(
        "".join(f"chr1\t{10 * i}\t{10 * i + 10}\t{label}\n" for i, label in enumerate(LABELS))
    )
    (tmp_path / "x.gb").write_text(GENBANK)
    (tmp_path / "bpe.json").write_text(BpeTokenizer.train([s.encode() for s in SEQUENCES], 20).spec()["json"])
    for split in ("train", "dev", "test"):
        for task in ("tf_0", "enhancers", "human_enhancers_cohn"):
            (tmp_path / task).mkdir(exist_ok=True)
            column = "seq" if task == "human_enhancers_cohn" else "sequence"
            table = pyarrow.table({column: SEQUENCES, "label": [int(label == "b") for label in LABELS]})
            parquet.write_table(table, tmp_path / task / f"{split}.parquet")
    return tmp_path


CHOICES = {
    "simulated_genome": ["data.contigs=4", "data.genes_per_contig=20"],
    "table": ["data.train={0}/x.csv", "data.test={0}/x.csv"],
    "fasta": ["data.train={{a:{0}/a.fa,b:{0}/b.fa}}"],
    "fasta_bed": ["data.fasta={0}/genome.fa", "data.intervals={0}/x.bed", "data.length=8"],
    "genbank": ["data.train={0}/x.gb", "data.val_fraction=0.5"],
    "genome_windows": ["data.genomes={{a:{0}/a.fa,b:{0}/b.fa}}", "data.length=8"],
    "gue": ["data.root={0}", "data.name=tf_0"],
    "genomic_benchmarks": ["data.root={0}", "data.name=human_enhancers_cohn"],
    "nucleotide_transformer": ["data.root={0}", "data.name=enhancers"],
}


def compose(overrides: list[str]):
    """A primary configuration with no more than data and seed."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=["+seed=3", *overrides])


def build(overrides: list[str]) -> ClassificationData:
    return instantiate(compose(overrides).data.datamodule)


def test_all_choices_are_tried() -> None:
    elsewhere = {"shapes", "pathfinder", "mnist", "cifar10", "image_folder", "listops"}  # test_pixel_configs.py
    # Those of test_audio_configs.py:
    elsewhere |= {"plucked", "plucked_notes", "sc09", "audio_folder", "youtube_mix", "beethoven"}
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == set(CHOICES) | elsewhere


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_gives_batches(files: Path, choice: str) -> None:
    made = build([f"+data={choice}", "data.batch_size=2", *(text.format(files) for text in CHOICES[choice])])
    made.setup("fit")
    assert (made.seed, made.batch_size, len(made.labels), made.problem) == (3, 2, 2, "binary")
    assert (made.test is None) == (choice in ("fasta", "genbank"))
    batch = next(iter(made.train_dataloader()))
    assert batch["ids"].shape[0] == 2
    assert len(next(iter(made.val_dataloader()))["index"]) >= 1


@pytest.mark.parametrize(
    ("tokenizer", "settings", "ids"),
    [("character", [], 10), ("kmer", ["data.tokenizer.k=2"], 5), ("bpe", ["data.tokenizer.path={0}/bpe.json"], None)],
)
def test_tokenizers(files: Path, tokenizer: str, settings: list[str], ids: int | None) -> None:
    assert {path.stem for path in (CONF / "data" / "tokenizer").glob("*.yaml")} == {"character", "kmer", "bpe"}
    table = ["+data=table", f"data.train={files}/x.csv", f"data/tokenizer={tokenizer}"]
    made = build([*table, *(text.format(files) for text in settings)])
    made.setup("fit")
    assert made.facts()["tokenizer"]["kind"] == tokenizer
    length = next(iter(made.train_dataloader()))["ids"].shape[1]
    assert length == ids if ids else 1 <= length < 10


@pytest.mark.parametrize(
    ("choice", "missing"),
    [
        ("table", {"data.train"}),
        ("fasta", {"data.train"}),
        ("fasta_bed", {"data.fasta", "data.intervals"}),
        ("genbank", {"data.train"}),
    ],
)
def test_what_must_be_set_is_missing_until_then(choice: str, missing: set[str]) -> None:
    config = compose([f"+data={choice}"])
    assert {f"data.{key}" for key in config.data if OmegaConf.is_missing(config.data, key)} == missing
    with pytest.raises(InterpolationToMissingValueError, match="data"):
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_every_setting_reaches_the_datamodule(files: Path) -> None:
    settings = {
        "eval_batch_size": 7,
        "max_length": 9,
        "truncate": True,
        "val_fraction": 0.2,
        "group_lengths": True,
        "num_workers": 1,
        "pin_memory": False,
        "seed": 11,
        "shuffle_labels": True,
        "problem": "multiclass",
    }
    table = ["+data=table", f"data.train={files}/x.csv", "data.class_weights=true"]
    augmentation = ["data.reverse_complement=0.25", "data.shift=2", "data.mutation=0.1"]
    made = build([*table, *augmentation, *(f"data.{key}={str(value).lower()}" for key, value in settings.items())])
    assert {key: getattr(made, key) for key in settings} == settings
    assert made.augment == Augmentation(reverse_complement=0.25, shift=2, mutation=0.1, seed=11)
    made.setup("fit")
    assert made.class_weights is not None
    assert made.sizes() == {"train": 16, "val": 4}


def test_a_dict_of_contigs_takes_the_place_of_the_fractions(files: Path) -> None:
    bed = ["+data=fasta_bed", f"data.fasta={files}/genome.fa", f"data.intervals={files}/x.bed"]
    with pytest.raises(UserError, match="contig 'chr9'"):
        build([*bed, "data.split.val=[chr9]", "data.split.test=[chr9]"]).setup("fit")
    own = build([*bed[:2], f"data.intervals={{train:{files}/x.bed,test:{files}/x.bed}}", "data.split=null"])
    own.setup("fit")
    assert own.sizes() == {"train": 18, "val": 2, "test": 20}
