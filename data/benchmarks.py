"""Published benchmarks by name: GUE, GenomicBenchmarks and the tasks of the Nucleotide Transformer.

Each is taken from a local copy (`root`) or downloaded from Hugging Face's hub, or a mirror of it (`url`), into the
cache, in the layout that a local copy has too: ``<root>/<name>/<split>.<csv, csv.gz, tsv, parquet, …>``. No checksum
is pinned in the code: the hub publishes the sha256 of what it keeps in large-file storage (all parquet files) and
that is compared; of plain csv files only the length is. See `download.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from ssmbio.data.cache import cache_folder
from ssmbio.data.download import fetch
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import PackedRecords, RecordSet
from ssmbio.data.sources import TableSource
from ssmbio.data.tables import TABLE_SUFFIXES
from ssmbio.errors import UserError

HUB = "https://huggingface.co"


class BenchmarkSource(ABC):
    """One task of a benchmark.

    Args:
        name: of the task.
        root: a folder with a local copy; None downloads.
        url: the hub, or a mirror of it.
        timeout: seconds without an answer before a download is given up.

    Raises:
        UserError: an unknown name (when it would be downloaded), or no such folder.
    """

    collection: ClassVar[str]
    names: ClassVar[Iterable[str]]
    # Which file is which split; a set without its own validation split leaves val out.
    stems: ClassVar[Mapping[str, str]]
    sequence_column = "sequence"

    def __init__(self, *, name: str, root: str | None = None, url: str = HUB, timeout: float = 30.0) -> None:
        self.name, self.url, self.timeout = str(name), url.rstrip("/"), timeout
        self.root = None if root is None else Path(root).expanduser()
        if self.root is None and self.name not in self.names:
            raise UserError(f"{self.collection} has no task '{self.name}'", mend=instead_of(self.name, self.names))

    @abstractmethod
    def remote_file(self, stem: str) -> str:
        """The address of one split, below the hub."""

    def local_folders(self) -> list[str]:
        """Where the task may lie below `root`, the first one that exists is taken."""
        return [self.name]

    def splits(self) -> dict[str, RecordSet]:
        """Read the local copy, or download what the cache lacks and read that."""
        if self.root is None:
            files = {split: self._downloaded(stem) for split, stem in self.stems.items()}
        else:
            files = {split: path for split, stem in self.stems.items() if (path := self._local(stem)) is not None}
            if not files:
                raise UserError(
                    f"no {', '.join(self.stems.values())} of a table in it",
                    where=self._folder(),
                    mend=f"the layout is <data.root>/{self.name}/<split>.csv, also .gz, .tsv or .parquet",
                )
        paths = {split: str(path) for split, path in files.items()}
        return TableSource(**paths, sequence_column=self.sequence_column).splits()

    def _downloaded(self, stem: str) -> Path:
        remote = self.remote_file(stem)
        suffix = remote[remote.rindex(".") :]
        return fetch(
            f"{self.url}/{remote}",
            cache_folder(self.collection, self.name, f"{stem}{suffix}"),
            timeout=self.timeout,
            mend="check the connection, set data.url to a mirror, or data.root to a folder with a copy",
        )

    def _folder(self) -> Path:
        assert self.root is not None
        found = [self.root / name for name in self.local_folders() if (self.root / name).is_dir()]
        if not found:
            raise UserError(f"there is no folder '{self.name}' in it", where=self.root, mend="check data.root")
        return found[0]

    def _local(self, stem: str) -> Path | None:
        folder = self._folder()
        candidates = (folder / f"{stem}{suffix}{packed}" for suffix in TABLE_SUFFIXES for packed in ("", ".gz"))
        return next((path for path in candidates if path.is_file()), None)


_MARKS = ("H3", "H3K14ac", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K79me3", "H3K9ac", "H4", "H4ac")


class GueSource(BenchmarkSource):
    """Genome Understanding Evaluation of DNABERT-2 (arXiv 2306.15006), 28 tasks with train, dev and test.

    The authors publish one archive on Google Drive; downloaded is the copy ``leannmlindsey/GUE`` on the hub. Both
    layouts are accepted below `root`, and the short names that stand here: ``<root>/300_tata/train.csv``.
    """

    collection = "gue"
    stems: ClassVar = {"train": "train", "val": "dev", "test": "test"}
    # Short name: folder on the hub, folder in the authors' archive.
    tasks: ClassVar[dict[str, tuple[str, str]]] = {
        **{f"{size}_{kind}": (f"prom_{size}_{kind}", f"prom/prom_{size}_{kind}")
           for size in ("core", "300") for kind in ("all", "notata", "tata")},
        **{f"tf_{i}": (f"human_tf_{i}", f"tf/{i}") for i in range(5)},
        **{f"mouse_{i}": (f"mouse_{i}", f"mouse/{i}") for i in range(5)},
        **{mark: (f"emp_{mark}", f"EMP/{mark}") for mark in _MARKS},
        "splice": ("splice_reconstructed", "splice/reconstructed"),
        "covid": ("virus_covid", "virus/covid"),
    }  # fmt: skip
    names = tasks

    def remote_file(self, stem: str) -> str:
        return f"datasets/leannmlindsey/GUE/resolve/main/GUE/{self.tasks[self.name][0]}/{stem}.csv"

    def local_folders(self) -> list[str]:
        others = self.tasks.get(self.name, ())
        return [self.name, *others, *(f"GUE/{other}" for other in (self.name, *others))]


class NucleotideTransformerSource(BenchmarkSource):
    """The 18 downstream tasks of the Nucleotide Transformer (bioRxiv 2023.01.11.523679), with train and test.

    Downloaded is ``InstaDeepAI/nucleotide_transformer_downstream_tasks``. Their revised tasks have the same layout and
    are read from a local copy.
    """

    collection = "nucleotide_transformer"
    stems: ClassVar = {"train": "train", "test": "test"}
    names: ClassVar = (
        *_MARKS,
        "enhancers",
        "enhancers_types",
        "promoter_all",
        "promoter_no_tata",
        "promoter_tata",
        "splice_sites_acceptors",
        "splice_sites_all",
        "splice_sites_donors",
    )

    def remote_file(self, stem: str) -> str:
        return f"datasets/InstaDeepAI/nucleotide_transformer_downstream_tasks/resolve/main/{self.name}/{stem}.parquet"


class GenomicBenchmarksSource(BenchmarkSource):
    """GenomicBenchmarks (Grešová et al. 2023, BMC Genomic Data 24:25), nine sets with train and test.

    Downloaded are the authors' copies ``katarinagresova/Genomic_Benchmarks_<name>``, as the hub converts them to
    parquet. A local copy is the same files, or what the package ``genomic-benchmarks`` leaves behind:
    ``<root>/<name>/<split>/<class>/<id>.txt``, one sequence a file.
    """

    collection = "genomic_benchmarks"
    stems: ClassVar = {"train": "train", "test": "test"}
    sequence_column = "seq"
    names: ClassVar = (
        "demo_coding_vs_intergenomic_seqs",
        "demo_human_or_worm",
        "drosophila_enhancers_stark",
        "dummy_mouse_enhancers_ensembl",
        "human_enhancers_cohn",
        "human_enhancers_ensembl",
        "human_ensembl_regulatory",
        "human_nontata_promoters",
        "human_ocr_ensembl",
    )

    def remote_file(self, stem: str) -> str:
        branch = quote("refs/convert/parquet", safe="")
        return f"datasets/katarinagresova/Genomic_Benchmarks_{self.name}/resolve/{branch}/default/{stem}/0000.parquet"

    def splits(self) -> dict[str, RecordSet]:
        if self.root is None or not (self._folder() / "train").is_dir():
            return super().splits()
        folders = {split: self._folder() / stem for split, stem in self.stems.items()}
        return {split: read_class_folders(folder) for split, folder in folders.items() if folder.is_dir()}


def read_class_folders(folder: Path) -> RecordSet:
    """``<folder>/<class>/<id>.txt``, one sequence a file, in the order of the classes and of the file names.

    Raises:
        UserError: no such files, an empty one, or letters outside IUPAC.
    """
    paths = sorted(path for path in folder.glob("*/*.txt"))
    if not paths:
        raise UserError("no <class>/<id>.txt in it", where=folder, mend="check data.root")
    return PackedRecords(
        names=[path.stem.encode() for path in paths],
        sequences=[path.read_bytes().strip() for path in paths],
        labels=[path.parent.name for path in paths],
        files=[(str(path), index) for index, path in enumerate(paths)],
    )
