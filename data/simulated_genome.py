"""The embedded default: a simulated genome, written as FASTA and BED and read back like any user's files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ssmbio.data.cache import cache_folder
from ssmbio.data.labelled import check_seed
from ssmbio.data.records import RecordSet
from ssmbio.data.simulate import UPSTREAM, VERSION, SimulatedGenome, simulate_genome
from ssmbio.data.sources import IntervalSource
from ssmbio.errors import UserError
from ssmbio.files import new_folder

_LINE = 80  # bases a line of the FASTA
# The window of a gene: all of its promoter and the first codons.
_BEFORE, _AFTER, _JITTER = 113, 15, 5


class SimulatedGenomeSource:
    """Windows at the starts of genes, with the label ``intact`` or ``broken``; see `simulate.py` for the biology.

    The first call writes three files into the cache: ``genome.fa``, ``genes.bed`` (coding sequences) and
    ``windows.bed`` (name of the class in column 4, strand of the gene in column 6, so that a window reads in the
    direction of its gene). The last two contigs are the test split, the one before them is val.

    Args:
        contigs: at least 4.
        genes_per_contig: at least 20; half of them with an intact promoter.
        conservation: probability that a position of a promoter box holds its consensus base, from 0 to 1.
        seed: of the genome. It is apart from the seed of the run, so every run sees the same genome.
        folder: where to write; None for the cache.
    """

    def __init__(
        self,
        *,
        contigs: int = 10,
        genes_per_contig: int = 700,
        conservation: float = 0.97,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        if contigs < 4 or genes_per_contig < 20 or not 0 <= conservation <= 1:
            raise UserError(
                f"contigs {contigs}, genes_per_contig {genes_per_contig}, conservation {conservation}",
                mend="give at least 4 contigs, at least 20 genes, and a conservation from 0 to 1",
            )
        check_seed("data.genome_seed", seed)
        self.parameters = {
            "contigs": contigs,
            "genes_per_contig": genes_per_contig,
            "conservation": conservation,
            "seed": seed,
        }
        address = json.dumps([VERSION, _BEFORE, _AFTER, _JITTER, self.parameters], sort_keys=True)
        name = f"simulated_genome-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        self.folder = Path(folder) / name if folder else cache_folder(name)

    def splits(self) -> dict[str, RecordSet]:
        """Write the files unless they are there, and read them."""
        if not self.folder.is_dir():
            with new_folder(self.folder) as partial:
                write_genome(simulate_genome(**self.parameters), partial)  # type: ignore[arg-type]
        last = int(self.parameters["contigs"])
        return IntervalSource(
            fasta=str(self.folder / "genome.fa"),
            intervals=str(self.folder / "windows.bed"),
            split={"val": [f"chr{last - 2}"], "test": [f"chr{last - 1}", f"chr{last}"]},
        ).splits()


def write_genome(genome: SimulatedGenome, folder: Path) -> None:
    """Write ``genome.fa``, ``genes.bed`` and ``windows.bed`` into ``folder``; intervals are sorted by their place."""
    with open(folder / "genome.fa", "wb") as file:
        for name, sequence in genome.contigs.items():
            lines = [sequence[at : at + _LINE] for at in range(0, len(sequence), _LINE)]
            file.write(b">" + name.encode() + b"\n" + b"\n".join(lines) + b"\n")
    names = list(genome.contigs)
    contig = [names[index] for index in genome.contig]
    strand = np.where(genome.forward, "+", "-")
    _write_bed(folder / "genes.bed", contig, genome.start, genome.end, genome.promoter, strand)
    start = window_starts(genome)
    _write_bed(
        folder / "windows.bed",
        contig,
        start,
        start + _BEFORE + _AFTER,
        np.where(genome.intact, "intact", "broken"),
        strand,
    )


def window_starts(genome: SimulatedGenome) -> np.ndarray:
    """(G,) starts of the windows on the forward strand, moved a little so that the start codon has no fixed place."""
    # The jitter comes from the place, so it needs no generator and is the same whenever the genome is.
    jitter = genome.start % (2 * _JITTER + 1) - _JITTER
    assert _BEFORE + _JITTER <= UPSTREAM
    return np.where(genome.forward, genome.start - _BEFORE, genome.end - _AFTER) + jitter


def _write_bed(
    path: Path, contig: list[str], start: np.ndarray, end: np.ndarray, name: np.ndarray, strand: np.ndarray
) -> None:
    rows = zip(contig, start.tolist(), end.tolist(), name.tolist(), strand.tolist(), strict=True)
    path.write_text("".join(f"{c}\t{s}\t{e}\t{n}\t0\t{d}\n" for c, s, e, n, d in rows), encoding="ascii")
