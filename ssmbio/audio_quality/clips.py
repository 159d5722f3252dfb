"""Which clips are compared: those of a folder, and the splits of a folder of real ones."""

from __future__ import annotations

from pathlib import Path

from ssmbio.data.audio_files import AUDIO_SUFFIXES, audio_info
from ssmbio.data.audio_folder import AudioFolderSource, audio_files
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.nearest import instead_of
from ssmbio.errors import UserError
from ssmbio.generation.clip_files import TABLE, read_table


def clips_of(folder: Path, sample_rate: int, resample: bool) -> AudioSet:
    """The clips of a folder: what its `clips.tsv` lists, or all audio files in it and below it.

    Args:
        sample_rate: in Hz, of what is read.
        resample: allow files of another rate.

    Raises:
        UserError: no such folder, fewer than 2 clips in it, or a file that cannot be read at this rate.
    """
    check_folder(folder, "clips")
    listed = (folder / TABLE).is_file()
    paths = [folder / clip.file for clip in read_table(folder)] if listed else audio_files(folder)
    if not paths:
        where, mend = folder, f"name a folder of clips ({' '.join(AUDIO_SUFFIXES)})"
        raise UserError(f"{TABLE} lists no clips" if listed else "no clips in it", where=where, mend=mend)
    check_count(len(paths), folder, "the folder")
    for path in paths:
        check_rate(path, sample_rate, resample)
    return AudioSet.of_files(paths, None, sample_rate=sample_rate, resample=resample, root=folder)


def splits_of(folder: Path, sample_rate: int, resample: bool) -> dict[str, AudioSet]:
    """The splits of a folder of real clips, as `AudioFolderSource` finds them; all are `train` where there are none.

    Raises:
        UserError: no such folder, no audio in it, fewer than 2 clips in a split, or whatever the source finds.
    """
    check_folder(folder, "reference")
    # The rates are checked here, since the source speaks of settings that this command has not.
    splits = AudioFolderSource(root=str(folder), sample_rate=sample_rate, resample=True).splits()
    for split, clips in splits.items():
        check_count(len(clips), folder, f"its {split} split" if len(splits) > 1 else "the folder")
        for path in clips.paths:
            check_rate(path, sample_rate, resample)
    return splits


def check_split(splits: dict[str, AudioSet], split: str | None, folder: Path) -> None:
    """Raises UserError unless `split` is one of these, or None for all of them."""
    if split is not None and split not in splits:
        mend = instead_of(split, [*splits, "null"])
        raise UserError(f"no split '{split}', which reference_split asks for", where=folder, mend=mend)


def check_folder(folder: Path, setting: str) -> None:
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "there is no such folder"
        raise UserError(what, where=folder, mend=f"set {setting} to a folder of audio files")


def check_count(n: int, folder: Path, what: str) -> None:
    if n < 2:
        raise UserError(f"{what} has {n} clip", where=folder, mend="FID compares sets of 2 clips at least: give more")


def check_rate(path: Path, sample_rate: int, resample: bool) -> None:
    rate = audio_info(path).sample_rate
    if rate != sample_rate and not resample:
        raise UserError(
            f"{rate:,} Hz, but the checkpoint was trained at {sample_rate:,} Hz", where=path, mend="set resample=true"
        )
