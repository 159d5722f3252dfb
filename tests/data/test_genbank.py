from __future__ import annotations

import gzip
from io import StringIO
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from ssmbio.data.records import Record
from ssmbio.data.sources import GenbankSource
from ssmbio.errors import UserError

LETTERS = "ATGAAACCCGGGTTTTAGNNACGTACGTRYAC"


def location(start: int, end: int, strand: int = 1) -> SimpleLocation:
    return SimpleLocation(start, end, strand=strand)


def record(name: str, organism: str, letters: str = LETTERS) -> SeqRecord:
    features = [
        SeqFeature(location(0, len(letters)), type="source", qualifiers={"strain": [f"{organism} K"]}),
        SeqFeature(location(0, 18), type="CDS", qualifiers={"gene": ["abc"]}),
        SeqFeature(location(20, 28, -1), type="tRNA"),
        SeqFeature(CompoundLocation([location(2, 5), location(8, 11)]), type="CDS", qualifiers={"gene": ["def"]}),
        SeqFeature(CompoundLocation([location(28, 32), location(0, 3)]), type="CDS", qualifiers={"gene": ["origin"]}),
        SeqFeature(CompoundLocation([location(0, 3, -1), location(28, 32, -1)]), type="tRNA"),
    ]
    notes = {"molecule_type": "DNA", "organism": organism, "topology": "circular"}
    return SeqRecord(Seq(letters), id=name, name=name, description="d", annotations=notes, features=features)


def write(path: Path, *records: SeqRecord) -> str:
    text = StringIO()
    SeqIO.write(records, text, "genbank")
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["x.gb", "x.gbk.gz"])
def test_features_on_their_strand_with_their_type(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, record("R1", "Ecoli"))
    records = GenbankSource(train=path, features=["tRNA", "CDS"]).splits()["train"]
    # Those over the origin are left out; a joined one spans its parts.
    assert list(records) == [
        Record("R1", LETTERS[:18].encode(), "CDS", 0, 18),
        Record("R1", str(Seq(LETTERS[20:28]).reverse_complement()).encode(), "tRNA", 20, 28, "-"),
        Record("R1", LETTERS[2:11].encode(), "CDS", 2, 11),
    ]
    assert records.where(1) == f"{path}, R1:21-28"


def test_features_with_a_qualifier_in_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gb", record("R1", "a"), record("R2", "b"))
    source = GenbankSource(val=[path], features=["tRNA", "CDS"], label="gene", length=20)
    records = source.splits()["val"]
    assert records.labels() == ["abc", "def"] * 2  # the tRNA has no gene
    assert records[0].sequence.decode() == "N" + LETTERS[:19]
    assert records[2].name == "R2"


def test_whole_records_with_an_annotation(tmp_path: Path) -> None:
    one = write(tmp_path / "x.gb", record("R1", "Ecoli"), record("R2", "Bsub"))
    two = write(tmp_path / "y.gb", record("R3", "Ecoli"))
    for label, values in (("organism", ["Ecoli", "Bsub", "Ecoli"]), ("strain", ["Ecoli K", "Bsub K", "Ecoli K"])):
        records = GenbankSource(train=[one, two], label=label).splits()["train"]
        assert records.labels() == values
    assert records[2] == Record("R3", LETTERS.encode(), "Ecoli K")
    assert records.where(2) == f"{two}, record 'R3'"
    assert GenbankSource(train=one, label=None).splits()["train"].labels() == [None, None]


def fault(source: GenbankSource) -> str:
    with pytest.raises(UserError) as caught:
        source.splits()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_faults(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "x.gb", record("R1", "a")))
    assert "x.gb, record 'R1': there is no annotation 'organisms'; did you mean 'organism'" in fault(
        GenbankSource(train=str(path), label="organisms")
    )
    assert "there is no feature 'cds'; did you mean 'CDS'?" in fault(GenbankSource(train=str(path), features=["cds"]))
    assert "no feature has the qualifier 'locus'" in fault(
        GenbankSource(train=str(path), features=["CDS"], label="locus")
    )
    assert "a second record is named 'R1'" in fault(GenbankSource(train=[str(path)] * 2, features=["CDS"]))
    text = path.read_text()
    path.write_text(text[: text.index("ORIGIN") + 20])
    assert "x.gb: not a GenBank file that can be read" in fault(GenbankSource(train=str(path), label=None))
    path.write_text(text[: text.index("ORIGIN")] + "CONTIG      join(X1.1:1..32)\n//\n")
    assert "record 'R1': there is no sequence; get the full file" in fault(GenbankSource(train=str(path), label=None))
    path.write_text(">fasta\nACGT\n")
    assert "there are no GenBank records" in fault(GenbankSource(train=str(path), label=None))
    write(path, record("R1", "a", LETTERS + "!!"))
    assert "record 'R1': '!' at letter 33" in fault(GenbankSource(train=str(path), label=None))


def test_whole_records_take_no_length_and_no_type() -> None:
    with pytest.raises(UserError, match="whole GenBank records have no type; give features, or label=organism"):
        GenbankSource(train="x.gb")
    with pytest.raises(UserError, match="whole GenBank records have no length"):
        GenbankSource(train="x.gb", label=None, length=5)
