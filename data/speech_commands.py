"""Speech Commands (Warden, arXiv 1804.03209) by torchaudio: words of a second; its ten digits are SC09."""

from __future__ import annotations

import logging
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmbio.data.audio_set import AudioSet
from ssmbio.data.cache import cache_folder
from ssmbio.data.download import fetch
from ssmbio.data.nearest import instead_of, shorten
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError
from ssmbio.files import new_folder

log = logging.getLogger(__name__)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
# As torchaudio has it.
SHA256 = {URL: "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"}

_LISTS = ("validation_list.txt", "testing_list.txt")
# What torchaudio calls the splits; train is what stands in neither list.
_SUBSETS = {"train": "training", "val": "validation", "test": "testing"}
_FOLDER = "SpeechCommands"
_COPY = "set data.download=true, or data.root to a folder with a copy"


class SpeechCommandsSource:
    """Words of Speech Commands; speakers of train, val and test are different ones.

    torchaudio says what is in which split. It is not left to download: of an archive that it could not unpack whole it
    would keep the part, and take it for the whole from then on.

    Args:
        root: the folder with ``validation_list.txt``, ``testing_list.txt`` and a folder for each word, or one that
            holds ``SpeechCommands/<name of the archive>/`` as torchaudio leaves it; None is the cache.
        words: which to take, in any order; None takes all there are, 35 in version 0.02.
        download: fetch and unpack the archive where it is not there. It is removed afterwards.
        url: of the archive; the sha256 of version 0.02 is known and checked.
        sample_rate, resample: as in `AudioFolderSource`; the files are at 16,000 Hz, some
            are shorter than a second.

    Raises:
        UserError: no words.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        words: Sequence[str] | None = DIGITS,
        download: bool = False,
        url: str = URL,
        sample_rate: int = 16_000,
        resample: bool = True,
    ) -> None:
        self.words = None if words is None else [str(word) for word in ([words] if isinstance(words, str) else words)]
        if self.words is not None and not self.words:
            raise UserError("data.words is empty", mend="name some, or set it to null for all")
        if type(sample_rate) is not int or sample_rate < 1:
            raise UserError(f"sample_rate {sample_rate}", mend="set data.sample_rate to samples a second: 16000")
        self.in_cache = root is None
        self.root = cache_folder("speech_commands") if root is None else Path(root).expanduser()
        self.download, self.url = download, url
        self.sample_rate, self.resample = sample_rate, resample

    def splits(self) -> dict[str, AudioSet]:
        """Find the files, or download them, and read the header of each.

        Raises:
            UserError: they are not there, the layout is another, an unknown word, what `fetch`, `audio_info` and
                `check_audio` raise, an archive that is none, or a full disk; nothing half-written is left.
        """
        folder = self._folder()
        spoken = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        for word in self.words or ():
            if word not in spoken:
                raise UserError(f"there is no word '{word}'", where=folder, mend=instead_of(word, spoken))
        return {split: self._read(folder, subset) for split, subset in _SUBSETS.items()}

    def _folder(self) -> Path:
        name = self.url.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".tar")
        fetched = self.root / _FOLDER / name
        for folder in (self.root, fetched, self.root / name):
            if all((folder / file).is_file() for file in _LISTS):
                return Path(os.path.abspath(folder))
        if self.download:
            if fetched.exists():
                raise UserError(
                    f"no {' and '.join(_LISTS)} in it", where=fetched, mend="remove it, and it is downloaded again"
                )
            log.warning("Downloading %s into %s; this is done once.", self.url, fetched)
            download(self.url, fetched)
            return Path(os.path.abspath(fetched))
        if self.in_cache or not self.root.exists():
            what = "Speech Commands has not been downloaded" if self.in_cache else "there is no such folder"
            raise UserError(what, where=self.root, mend=_COPY)
        raise UserError(
            f"no {' and '.join(_LISTS)} in it, so this is not Speech Commands",
            where=self.root,
            mend=f"{_COPY}; data=audio_folder reads other layouts",
        )

    def _read(self, folder: Path, subset: str) -> AudioSet:
        clips = [(path, word) for path, word in _listed(folder, subset) if self.words is None or word in self.words]
        return AudioSet.of_files(
            [path for path, _ in clips],
            [word for _, word in clips],
            sample_rate=self.sample_rate,
            resample=self.resample,
            root=folder,
        )


def _listed(folder: Path, subset: str) -> list[tuple[Path, str]]:
    """Path and word of every clip that torchaudio counts to a subset."""
    dataset_of = _dataset_class()
    with file_faults(folder):
        # Of an address it takes the last part without two suffixes for the name of the folder.
        dataset = dataset_of(folder.parent, url=f"{folder.name}.tar.gz", folder_in_archive="", subset=subset)
    clips = []
    for index in range(len(dataset)):
        try:
            path, _, word, *_ = dataset.get_metadata(index)
        except ValueError:
            raise UserError(
                f"an entry of the {subset} list does not read <word>/<speaker>_nohash_<number>.wav",
                where=folder,
                mend="copy or download it again",
            ) from None
        clips.append((folder.parent / path, word))
    return clips


def download(url: str, folder: Path) -> None:
    """Fetch an archive and unpack it as `folder`, whole or not at all.

    Raises:
        UserError: see `fetch`; also for what is no such archive, and for a full disk.
    """
    mend = "check the connection, set data.url to a mirror, or data.root to a folder with a copy"
    with new_folder(folder) as partial:
        archive = fetch(url, partial / "archive.tar.gz", sha256=SHA256.get(url), mend=mend)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")  # nothing outside of the folder
        except (tarfile.TarError, EOFError, zlib.error) as error:
            reason = shorten(str(error), 80)
            raise UserError(f"not a tar.gz, or damaged ({reason})", where=url, mend=mend) from None
        for file in partial.glob("archive.tar.gz*"):
            file.unlink()
        for name in _LISTS:
            if not (partial / name).is_file():
                raise UserError(f"there is no {name} in the archive", where=url, mend=mend)


def _dataset_class() -> Any:
    # torchaudio imports beside a torch of its own release only.
    try:
        from torchaudio.datasets import SPEECHCOMMANDS
    except (ImportError, OSError) as error:
        raise UserError(
            f"torchaudio cannot be imported ({shorten(str(error), 80)})",
            mend="install the release of torchaudio that belongs to your torch",
        ) from None
    return SPEECHCOMMANDS
