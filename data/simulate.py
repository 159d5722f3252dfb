"""A simulated bacterial genome whose label lies in the order of motifs, not in their number.

Genes stand on both strands. Each has, read along its own strand, an intergenic stretch with a promoter, a
Shine-Dalgarno box, a start codon, codons drawn with a bias, and one stop codon in frame. The factor σ70 needs two
boxes to start transcription: −35 (`CTTGACAT`) and, 16 to 18 bases downstream on the same strand, the extended −10
(`TGNTATAATG`). Real genomes are full of promoters that rearrangements have broken; a gene behind one is silent:

- ``swapped``: the −10 box lies upstream of the −35 box, 16 to 18 bases away;
- ``inverted``: one of the two boxes lies on the other strand;
- ``stretched``: right order and strand, but an insertion holds the boxes 30 to 45 bases apart;
- ``lost``: no boxes at all.

All but the last hold the same boxes as an intact promoter, just as well conserved and at the same places. So counts of
short words tell the classes apart only where a promoter is lost; what tells the rest apart is which box comes first, on
which strand, and how far away the other one is: a scan that carries a state sees it, a bag of words does not.

Everything is drawn in whole arrays from one seeded generator: the same parameters give the same genome, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Raise it whenever the same parameters would give another genome: the cache is addressed by it.
VERSION = 1

BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
ANY = 4  # the code of N in a motif: the background shows through

MINUS_35 = "CTTGACAT"
MINUS_10 = "TGNTATAATG"
SHINE_DALGARNO = "AGGAGG"
# Shares as in E. coli.
START_CODONS = {"ATG": 0.83, "GTG": 0.14, "TTG": 0.03}
STOP_CODONS = {"TAA": 0.64, "TAG": 0.07, "TGA": 0.29}
# Shares of the ways in which a silent gene lost its promoter.
BROKEN = {"swapped": 0.42, "inverted": 0.14, "stretched": 0.06, "lost": 0.38}

#: Bases of intergenic DNA before each start codon; every box lies in the last 105 of them.
UPSTREAM = 160


@dataclass(frozen=True)
class SimulatedGenome:
    """Contigs and where the genes lie; coordinates are zero-based and half-open, as in BED.

    Attributes:
        contigs: name to sequence (upper case A, C, G, T).
        contig: (G,) index of each gene's contig, in the order of ``contigs``.
        start, end: (G,) coding sequence, start and stop codon included.
        forward: (G,) True where the gene is on the forward strand.
        intact: (G,) True where its promoter works; half of the genes of every contig, give or take one.
        promoter: (G,) what became of the promoter: ``intact`` or one of the four ways to break.
    """

    contigs: dict[str, bytes]
    contig: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    forward: NDArray[np.bool_]
    intact: NDArray[np.bool_]
    promoter: NDArray[np.str_]


def simulate_genome(
    *, contigs: int = 10, genes_per_contig: int = 700, conservation: float = 0.97, seed: int = 0
) -> SimulatedGenome:
    """Draw a genome of ``contigs`` contigs with ``genes_per_contig`` genes each, about 0.6 kb a gene.

    Args:
        contigs: how many contigs, named chr1, chr2, ...
        genes_per_contig: genes on each; half of them are intact.
        conservation: probability that a position of a promoter box holds its consensus base; else any base.
        seed: of the one generator all is drawn from.
    """
    rng = np.random.default_rng(seed)
    genes = contigs * genes_per_contig
    promoter = _promoters(rng, contigs, genes_per_contig)

    codons = rng.integers(60, 160, genes)  # start and stop included
    spacer = rng.integers(20, 60, genes)  # between the stop codon and whatever follows
    unit = UPSTREAM + 3 * codons + spacer
    unit_start = np.concatenate([[0], np.cumsum(unit)])
    genome = rng.choice(4, size=unit_start[-1], p=[0.28, 0.22, 0.22, 0.28]).astype(np.uint8)

    cds = unit_start[:-1] + UPSTREAM
    _write_coding(rng, genome, cds, codons)
    _write_motif(rng, genome, cds - rng.integers(12, 15, genes), SHINE_DALGARNO, conservation)
    _write_promoters(rng, genome, unit_start[:-1], promoter, conservation)

    forward = rng.random(genes) < 0.5
    start, end = _turn_reverse_genes(genome, unit_start, cds, cds + 3 * codons, forward)

    contig = np.repeat(np.arange(contigs), genes_per_contig)
    contig_start = unit_start[::genes_per_contig]
    letters = BASES[genome].tobytes()
    return SimulatedGenome(
        contigs={f"chr{i + 1}": letters[contig_start[i] : contig_start[i + 1]] for i in range(contigs)},
        contig=contig,
        start=start - contig_start[contig],
        end=end - contig_start[contig],
        forward=forward,
        intact=promoter == "intact",
        promoter=promoter,
    )


def _promoters(rng: np.random.Generator, contigs: int, genes: int) -> NDArray[np.str_]:
    """(contigs * genes,) the state of each promoter: on every contig half intact, the rest in fixed shares."""
    silent = genes // 2
    counts = np.diff(np.round(np.cumsum([0.0, *BROKEN.values()]) * silent)).astype(int)
    one = np.repeat(["intact", *BROKEN], [genes - silent, *counts])
    return np.concatenate([rng.permutation(one) for _ in range(contigs)])


def _codes(motif: str) -> NDArray[np.uint8]:
    return np.array(["ACGTN".index(base) for base in motif], dtype=np.uint8)


def _reverse_complement(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(codes == ANY, ANY, 3 - codes)[::-1].astype(np.uint8)


def _write_motif(
    rng: np.random.Generator,
    genome: NDArray[np.uint8],
    at: NDArray[np.int64],
    motif: str,
    conservation: float,
    *,
    reverse: bool = False,
) -> None:
    """Write ``motif`` at each position of ``at``; a position outside its consensus keeps the background."""
    codes = _reverse_complement(_codes(motif)) if reverse else _codes(motif)
    where = at[:, None] + np.arange(len(codes))
    kept = (rng.random(where.shape) < conservation) & (codes != ANY)
    genome[where] = np.where(kept, codes, genome[where])


def _write_coding(
    rng: np.random.Generator, genome: NDArray[np.uint8], cds: NDArray[np.int64], codons: NDArray[np.int64]
) -> None:
    """Write start codon, biased sense codons and a stop codon; no stop codon stands in frame before the last."""
    triplets = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1).astype(np.uint8)
    stops = np.array([np.ravel_multi_index(tuple(_codes(codon)), (4, 4, 4)) for codon in STOP_CODONS])
    # Codon bias is a property of the species, so it comes from the seed: a few codons are common, most are rare.
    usage = rng.dirichlet(np.full(64, 1.5))
    usage[stops] = 0.0
    first = np.concatenate([[0], np.cumsum(codons)])
    drawn = rng.choice(64, size=first[-1], p=usage / usage.sum())
    starts = np.array([np.ravel_multi_index(tuple(_codes(codon)), (4, 4, 4)) for codon in START_CODONS])
    drawn[first[:-1]] = rng.choice(starts, size=len(codons), p=list(START_CODONS.values()))
    drawn[first[1:] - 1] = rng.choice(stops, size=len(codons), p=list(STOP_CODONS.values()))
    offset = np.arange(first[-1]) - np.repeat(first[:-1], codons)
    where = (np.repeat(cds, codons) + 3 * offset)[:, None] + np.arange(3)
    genome[where] = triplets[drawn]


def _write_promoters(
    rng: np.random.Generator,
    genome: NDArray[np.uint8],
    unit: NDArray[np.int64],
    promoter: NDArray[np.str_],
    conservation: float,
) -> None:
    """Write two boxes into each upstream stretch, arranged as ``promoter`` says."""
    genes = len(promoter)
    gap = np.where(promoter == "stretched", rng.integers(30, 46, genes), rng.integers(16, 19, genes))
    swapped = promoter == "swapped"
    first_length = np.where(swapped, len(MINUS_10), len(MINUS_35))
    # The 5' untranslated region and the few bases between its start and the last box.
    end = unit + UPSTREAM - rng.integers(18, 41, genes)
    total = len(MINUS_35) + gap + len(MINUS_10)
    first, second = end - total, end - total + first_length + gap
    at_35, at_10 = np.where(swapped, second, first), np.where(swapped, first, second)

    present = promoter != "lost"
    turn_35 = (promoter == "inverted") & (rng.random(genes) < 0.5)
    turn_10 = (promoter == "inverted") & ~turn_35
    for motif, at, turned in ((MINUS_35, at_35, turn_35), (MINUS_10, at_10, turn_10)):
        _write_motif(rng, genome, at[present & ~turned], motif, conservation)
        _write_motif(rng, genome, at[present & turned], motif, conservation, reverse=True)


def _turn_reverse_genes(
    genome: NDArray[np.uint8],
    unit_start: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    forward: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Reverse-complement, in place, the units of genes on the reverse strand; returns the new starts and ends."""
    unit = np.repeat(np.arange(len(forward)), np.diff(unit_start))
    position = np.arange(len(genome))
    mirrored = unit_start[unit] + unit_start[unit + 1] - 1 - position
    genome[:] = np.where(forward[unit], genome, 3 - genome[mirrored])
    flip = unit_start[:-1] + unit_start[1:]
    return np.where(forward, start, flip - end), np.where(forward, end, flip - start)
