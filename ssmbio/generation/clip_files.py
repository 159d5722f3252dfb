"""A folder of generated clips: a file for each, whole or not at all, and the table that lists them."""

from __future__ import annotations

import bisect
import csv
import math
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_files import write_audio
from ssmbio.errors import UserError
from ssmbio.files import new_file, whole_file

if TYPE_CHECKING:
    from ssmbio.generation.clips import Clip

TABLE, PAGE = "clips.tsv", "index.html"
FORMATS = ("wav", "flac")
_OURS = re.compile(r"clip_\d+\.(wav|flac|png)")


@dataclass(frozen=True)
class ListedClip:
    """One row of `clips.tsv`.

    Args:
        file: its name in the folder.
        number: which of the clips of its seed it is, from 0.
        seed: of the whole run.
        nll_bits: minus the logarithm to base 2 of its likelihood, mean of the generated samples.
        seconds: with the prompt it begins with.
        prompt_seconds: of the prompt, 0 without one.
        samples: with those of the prompt.
    """

    file: str
    number: int
    seed: int
    nll_bits: float
    seconds: float
    prompt_seconds: float
    samples: int


class ClipFolder:
    """Writes clips into a folder as they are finished; what the table lists is there, and nothing else is.

    Each clip is written whole and then listed, in a table that is replaced whole. On leaving the `with` block, for
    whatever reason, what is finished is listed; a clip that the disk has no room to list is removed.

    Args:
        path: the folder.
        sample_rate: Hz.
        encoding: of the clips' codes.
        count: how many clips will come, for names of equal length.
        format: wav (16 bits) or flac.
        keep: how many of the most likely clips to keep; None keeps all.
        sort: list the most likely first; otherwise by number.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        encoding: Encoding,
        count: int,
        format: str = "wav",
        keep: int | None = None,
        sort: bool = False,
    ) -> None:
        self.path, self.sample_rate, self.encoding = path, sample_rate, encoding
        self.format, self.keep, self.sort = format, keep, sort
        self._digits = max(3, len(str(count - 1)))
        self._ranked: list[ListedClip] = []  # the most likely first
        self._written: set[str] = set()
        self._unlisted = 0

    @property
    def clips(self) -> list[ListedClip]:
        """Those that are kept so far, in the order of the table."""
        kept = self._ranked[: self.keep]
        return kept if self.sort else sorted(kept, key=lambda clip: clip.number)

    def add(self, clip: Clip) -> None:
        """Write and list a clip, if it is among those to keep.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        listed = ListedClip(
            file=f"clip_{clip.number:0{self._digits}}.{self.format}",
            number=clip.number,
            seed=clip.seed,
            nll_bits=clip.nll_bits,
            seconds=len(clip.codes) / self.sample_rate,
            prompt_seconds=clip.prompt_samples / self.sample_rate,
            samples=len(clip.codes),
        )
        if self.keep is not None and len(self._ranked) >= self.keep and _rank(listed) > _rank(self._ranked[-1]):
            return
        self._written.add(listed.file)
        write_audio(self.path / listed.file, self.encoding.decode(clip.codes), self.sample_rate)
        bisect.insort(self._ranked, listed, key=_rank)
        del self._ranked[self.keep or len(self._ranked) :]
        self._unlisted += 1
        # Every clip at once while they are few; a table of thousands grows by a hundredth at a time.
        if self._unlisted > (len(self._ranked) - 1) // 100:
            self._list()

    def _list(self) -> None:
        write_table(self.path, self.clips)
        self._unlisted = 0
        self._remove_unlisted()

    def _remove_unlisted(self) -> None:
        # The table on the disk is asked: an interruption may fall between its writing and what follows it here.
        listed = {clip.file for clip in read_table(self.path)}
        for name in self._written - listed:
            (self.path / name).unlink(missing_ok=True)
        self._written &= listed

    def __enter__(self) -> ClipFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._unlisted:
                self._list()
        except UserError:
            if error is None:
                raise
        finally:
            if self._written:
                self._remove_unlisted()


def _rank(clip: ListedClip) -> tuple[float, int]:
    return (math.inf if math.isnan(clip.nll_bits) else clip.nll_bits), clip.number


def write_table(folder: Path, clips: Iterable[ListedClip]) -> None:
    """Replace `clips.tsv`, whole or not at all; times are exact to a microsecond."""
    with whole_file(folder / TABLE) as file:
        file.write("\t".join(field.name for field in fields(ListedClip)) + "\n")
        for clip in clips:
            cells = (f"{value:.6f}" if isinstance(value, float) else str(value) for value in astuple(clip))
            file.write("\t".join(cells) + "\n")


def read_table(folder: Path) -> list[ListedClip]:
    """The clips that `clips.tsv` of a folder lists; none where there is no table.

    Raises:
        UserError: it is not such a table.
    """
    path = folder / TABLE
    if not path.is_file():
        return []
    kinds = {"int": int, "float": float, "str": str}  # annotations are text here
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            return [ListedClip(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(ListedClip)}) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("not a table of clips", where=path, mend="generate the clips anew") from error


def check_folder(path: Path, overwrite: bool, read: Iterable[Path] = ()) -> None:
    """Whether clips may be written into a folder.

    Args:
        overwrite: clips that are there already may go.
        read: files that are read and so must not be removed.

    Raises:
        UserError: it is a file, it holds clips, or one of those is read.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file", mend="name a folder")
    there = _clips_of_before(path)
    if there and not overwrite:
        raise UserError(f"out={path} already holds {there[0].name}", mend="choose another out=, or overwrite=true")
    for file in read:
        if file.exists() and any(old.exists() and old.samefile(file) for old in there):
            raise UserError(f"overwrite=true would remove {file}, which is read", mend="choose another out=")


def prepare_folder(path: Path) -> None:
    """Make the folder, see that it can be written, and remove the clips, the table and the page of an earlier run.

    Raises:
        UserError: it cannot be made or written.
    """
    with new_file(path / TABLE) as partial:
        partial.write_text("", encoding="utf-8")
    for old in _clips_of_before(path):
        old.unlink()


def _clips_of_before(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    # The table goes first, so that it lists no file that is gone.
    order = (TABLE, PAGE)
    found = [entry for entry in path.iterdir() if entry.name in order or _OURS.fullmatch(entry.name)]
    return sorted(found, key=lambda entry: (entry.name not in order, entry.name))
