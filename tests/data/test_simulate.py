"""The simulated genome: its biology, its files, and where its signal lies."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from ssmbio.data import simulated_genome
from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.simulate import MINUS_10, MINUS_35, START_CODONS, STOP_CODONS, simulate_genome
from ssmbio.data.simulated_genome import SimulatedGenomeSource
from ssmbio.errors import UserError

SMALL = {"contigs": 4, "genes_per_contig": 60, "conservation": 1.0}
BOX_35 = MINUS_35.encode()
BOX_10 = MINUS_10.replace("N", "[ACGT]").encode()
PROMOTER = re.compile(BOX_35 + b"[ACGT]{16,18}" + BOX_10)


@pytest.fixture(scope="module")
def genome():
    return simulate_genome(contigs=3, genes_per_contig=101, conservation=1.0, seed=5)


def gene(genome, index: int, before: int = 0) -> bytes:
    """The coding sequence with `before` bases upstream of it, read along the strand of the gene."""
    contig = list(genome.contigs.values())[genome.contig[index]]
    start, end = genome.start[index], genome.end[index]
    if genome.forward[index]:
        return contig[start - before : end]
    return reverse_complement(contig[start : end + before])


def test_same_parameters_same_genome() -> None:
    one, two, other = (simulate_genome(contigs=2, genes_per_contig=30, seed=seed) for seed in (1, 1, 2))
    assert one.contigs == two.contigs
    assert np.array_equal(one.start, two.start)
    assert one.contigs != other.contigs


def test_coding_sequences_are_open_reading_frames(genome) -> None:
    assert 0.4 < genome.forward.mean() < 0.6
    for index in range(len(genome.start)):
        sequence = gene(genome, index).decode()
        codons = [sequence[at : at + 3] for at in range(0, len(sequence), 3)]
        assert len(sequence) % 3 == 0
        assert codons[0] in START_CODONS
        assert codons[-1] in STOP_CODONS
        assert not set(codons[1:-1]) & set(STOP_CODONS)


def test_codons_are_biased(genome) -> None:
    codons = [
        gene(genome, i)[at : at + 3] for i in range(150) for at in range(3, genome.end[i] - genome.start[i] - 3, 3)
    ]
    counts = np.sort(np.unique(codons, return_counts=True)[1])[::-1]
    assert counts[:6].sum() > 2.5 * counts.sum() * 6 / 61


def test_genes_do_not_overlap(genome) -> None:
    for contig in range(3):
        of_it = genome.contig == contig
        order = np.argsort(genome.start[of_it])
        assert (genome.start[of_it][order][1:] > genome.end[of_it][order][:-1]).all()


def test_promoters_are_what_they_are_called(genome) -> None:
    for index, kind in enumerate(genome.promoter):
        upstream = gene(genome, index, before=155)[:155]
        other_strand = reverse_complement(upstream)
        found_35, found_10 = re.search(BOX_35, upstream), re.search(BOX_10, upstream)
        assert bool(PROMOTER.search(upstream)) == (kind == "intact")
        if kind == "swapped":
            assert found_10.end() + 16 <= found_35.start() <= found_10.end() + 18
        elif kind == "stretched":
            assert found_35.end() + 30 <= found_10.start() <= found_35.end() + 45
        elif kind == "inverted":
            turned_35, turned_10 = re.search(BOX_35, other_strand), re.search(BOX_10, other_strand)
            assert bool(found_35) + bool(found_10) == bool(turned_35) + bool(turned_10) == 1
        elif kind == "lost":
            assert not (found_35 and found_10)  # one may stand there by chance


def test_classes_are_balanced_on_every_contig(genome) -> None:
    for contig in range(3):
        assert genome.intact[genome.contig == contig].sum() == 51  # of 101


def test_files_are_read_like_any_others(tmp_path: Path) -> None:
    source = SimulatedGenomeSource(**SMALL, folder=str(tmp_path))
    splits = source.splits()
    assert {name: len(records) for name, records in splits.items()} == {"train": 60, "val": 60, "test": 120}
    names = {name: {records[i].name for i in range(len(records))} for name, records in splits.items()}
    assert names == {"train": {"chr1"}, "val": {"chr2"}, "test": {"chr3", "chr4"}}
    strands = [splits["test"][i].strand for i in range(120)]
    assert 0.3 < np.mean([strand == "+" for strand in strands]) < 0.7
    # Every window reads in the direction of its gene, so the promoter is found without looking at the other strand.
    for records in splits.values():
        for i in range(len(records)):
            assert bool(PROMOTER.search(records[i].sequence)) == (records.label_of(i) == "intact")


def test_files_are_written_once_and_addressed_by_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path))
    SimulatedGenomeSource(**SMALL).splits()
    (folder,) = tmp_path.iterdir()
    assert {"genome.fa", "genes.bed", "windows.bed"} <= {path.name for path in folder.iterdir()}
    before = (folder / "genome.fa").stat().st_mtime_ns
    SimulatedGenomeSource(**SMALL).splits()
    assert (folder / "genome.fa").stat().st_mtime_ns == before
    SimulatedGenomeSource(**SMALL, seed=1).splits()
    assert len(list(tmp_path.iterdir())) == 2


def test_interrupted_writing_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(genome, folder: Path) -> None:
        (folder / "genome.fa").write_text(">chr1\nACGT\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated_genome, "write_genome", broken)
    with pytest.raises(KeyboardInterrupt):
        SimulatedGenomeSource(**SMALL, folder=str(tmp_path)).splits()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"contigs": 3}, {"genes_per_contig": 5}, {"conservation": 1.5}, {"seed": -1}])
def test_settings_out_of_range(wrong) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SimulatedGenomeSource(**wrong)


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """Letters (n, L) as 0..3 and labels (n,) of each split of the default, and the seconds it took to make them."""
    started = time.perf_counter()
    splits = SimulatedGenomeSource(folder=str(tmp_path_factory.mktemp("default"))).splits()
    seconds = time.perf_counter() - started
    table = np.zeros(256, np.int64)
    table[list(b"ACGT")] = range(4)
    letters, labels = {}, {}
    for name, records in splits.items():
        rows = b"".join(records[i].sequence for i in range(len(records)))
        letters[name] = table[np.frombuffer(rows, np.uint8)].reshape(len(records), -1)
        labels[name] = np.array([records.label_of(i) == "intact" for i in range(len(records))])
    return letters, labels, seconds


def test_default_is_made_in_seconds(default) -> None:
    letters, labels, seconds = default
    assert seconds < 5
    assert {name: rows.shape for name, rows in letters.items()} == {
        "train": (4900, 128),
        "val": (700, 128),
        "test": (1400, 128),
    }
    assert all(values.mean() == 0.5 for values in labels.values())


def kmer_counts(letters: np.ndarray, k: int):
    sparse = pytest.importorskip("scipy.sparse")
    words = sum(letters[:, offset : letters.shape[1] - k + 1 + offset] * 4 ** (k - 1 - offset) for offset in range(k))
    rows = np.repeat(np.arange(len(words)), words.shape[1])
    ones = np.ones(words.size, np.float32)
    return sparse.csr_matrix((ones, (rows, words.ravel())), shape=(len(words), 4**k))


def test_short_words_do_not_tell_the_classes_apart(default) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from scipy import sparse
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import MaxAbsScaler

    letters, labels, _ = default
    counts = {
        name: sparse.hstack([kmer_counts(rows, k) for k in range(1, 7)]).tocsr() for name, rows in letters.items()
    }
    scaler = MaxAbsScaler().fit(counts["train"])
    counts = {name: scaler.transform(rows) for name, rows in counts.items()}
    best = (0.0, 0.0)
    for strength in (1e-3, 1e-2, 1e-1):
        model = linear_model.LogisticRegression(C=strength, max_iter=200).fit(counts["train"], labels["train"])
        best = max(best, tuple(roc_auc_score(labels[s], model.decision_function(counts[s])) for s in ("val", "test")))
    assert 0.55 < best[1] <= 0.80


def test_order_and_spacing_tell_the_classes_apart(default) -> None:
    """The best pair of boxes at the right distance, scored by matches to the consensus, is nearly enough."""
    metrics = pytest.importorskip("sklearn.metrics")
    letters, labels, _ = default
    rows = letters["test"]

    def matches(motif: str) -> np.ndarray:
        width = rows.shape[1] - len(motif) + 1
        hits = [rows[:, o : o + width] == "ACGT".index(base) for o, base in enumerate(motif) if base != "N"]
        return np.sum(hits, axis=0)

    first, second = matches(MINUS_35), matches(MINUS_10)
    score = np.zeros(len(rows))
    for gap in (16, 17, 18):
        step = len(MINUS_35) + gap
        pair = first[:, : second.shape[1] - step] + second[:, step:]
        score = np.maximum(score, pair.max(1))
    assert metrics.roc_auc_score(labels["test"], score) > 0.97
