"""Speech Commands: the published splits, downloads against a server on loopback, and what is left when one fails."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import socket
import sys
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.data import speech_commands
from ssmbio.data.speech_commands import DIGITS, SpeechCommandsSource
from ssmbio.errors import UserError

VAL = ["zero/aa_nohash_0.wav", "bed/aa_nohash_0.wav", "one/aa_nohash_0.wav"]
TEST = ["nine/bb_nohash_1.wav", "bed/bb_nohash_0.wav"]


def contents() -> dict[str, bytes]:
    """Two speakers with two clips each of every digit and of bed; one clip is shorter. With noise beside them."""
    files = {"validation_list.txt": "\n".join(VAL).encode() + b"\n", "testing_list.txt": "\n".join(TEST).encode()}
    rng = np.random.default_rng(0)
    names = [f"{w}/{s}_nohash_{n}.wav" for w in (*DIGITS, "bed") for s in ("aa", "bb") for n in (0, 1)]
    for name in (*names, "_background_noise_/hum.wav", "_background_noise_/hum_nohash_0.wav"):
        written = io.BytesIO()
        frames = 120 if name == "two/bb_nohash_1.wav" else 160
        soundfile.write(written, rng.uniform(-0.5, 0.5, frames), 16000, subtype="PCM_16", format="wav")
        files[name] = written.getvalue()
    return files


FILES = contents()


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz with "./" before each name, as the published one has."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


ARCHIVES = {
    "words.tar.gz": packed(FILES),
    "cut.tar.gz": packed(FILES)[:9000],
    "other.tar.gz": packed({"readme.txt": b"x"}),
    "outside.tar.gz": packed({**FILES, "../../outside.wav": b"x"}),
    "text.tar.gz": b"<html>not here</html>",
    "garbled.tar.gz": gzip.compress(b"not a tar" * 500),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folder as torchaudio leaves it, below another."""
    for name, content in FILES.items():
        path = tmp_path / "copy" / "SpeechCommands" / "speech_commands_v0.02" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "copy"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    """Its address, and the paths that were asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []

    class Host(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = ARCHIVES.get(self.path.strip("/"))
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def message(source: SpeechCommandsSource) -> str:
    with pytest.raises(UserError) as caught:
        source.splits()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_in(folder: Path) -> list[str]:
    """Files below it."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("below", [".", "SpeechCommands", "SpeechCommands/speech_commands_v0.02"])
def test_digits_by_the_published_lists(copy: Path, below: str) -> None:
    splits = SpeechCommandsSource(root=str(copy / below)).splits()
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 37, "val": 2, "test": 1}
    assert splits["val"].names == ["zero/aa_nohash_0.wav", "one/aa_nohash_0.wav"]
    assert splits["test"].names == ["nine/bb_nohash_1.wav"]
    names = splits["train"].names
    # What stands in neither list, without other words and without the noise.
    digits = {name for name in FILES if name.split("/")[0] in DIGITS}
    assert set(names) == digits - set(VAL) - set(TEST)
    assert Counter(splits["train"].labels()) == {w: 3 if w in ("zero", "one", "nine") else 4 for w in DIGITS}
    for name, label, frames in zip(names, splits["train"].labels(), splits["train"].lengths, strict=True):
        assert name.split("/")[0] == label
        assert frames == (120 if name == "two/bb_nohash_1.wav" else 160)
    clip = splits["test"][0]
    samples, _ = soundfile.read(io.BytesIO(FILES["nine/bb_nohash_1.wav"]), dtype="float32")
    assert (clip.name, clip.label) == ("nine/bb_nohash_1.wav", "nine")
    assert np.array_equal(clip.samples, samples)


def test_a_relative_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy / "SpeechCommands" / "speech_commands_v0.02")
    assert SpeechCommandsSource(root=".").splits()["test"].names == ["nine/bb_nohash_1.wav"]


def test_other_words_and_all_words(copy: Path) -> None:
    two = SpeechCommandsSource(root=str(copy), words=["bed", "one"]).splits()
    assert {split: clips.names for split, clips in two.items() if split != "train"} == {
        "val": ["bed/aa_nohash_0.wav", "one/aa_nohash_0.wav"],
        "test": ["bed/bb_nohash_0.wav"],
    }
    assert set(two["train"].labels()) == {"bed", "one"}
    every = SpeechCommandsSource(root=str(copy), words=None).splits()
    assert set(every["train"].labels()) == {*DIGITS, "bed"}
    assert sum(len(clips) for clips in every.values()) == 44
    assert "there is no word 'thre'; did you mean 'three'" in message(
        SpeechCommandsSource(root=str(copy), words=["thre"])
    )


def test_another_rate(copy: Path) -> None:
    clips = SpeechCommandsSource(root=str(copy), sample_rate=8000).splits()["test"]
    assert clips.lengths.tolist() == [80]
    assert clips.read(0).shape == (80,)
    assert clips.resample
    assert not SpeechCommandsSource(root=str(copy), resample=False).splits()["train"].resample
    assert "16,000 Hz, not 8,000 Hz; set data.resample=true" in message(
        SpeechCommandsSource(root=str(copy), sample_rate=8000, resample=False)
    )


def test_downloaded_once_and_read_like_a_copy(host, cache: Path, copy: Path) -> None:
    url, asked = host
    source = SpeechCommandsSource(download=True, url=f"{url}/words.tar.gz")
    splits = source.splits()
    folder = cache / "speech_commands" / "SpeechCommands" / "words"
    own = SpeechCommandsSource(root=str(copy)).splits()
    for split, clips in splits.items():
        assert (clips.root, clips.names, clips.labels()) == (folder, own[split].names, own[split].labels())
        assert all(np.array_equal(clips.read(i), own[split].read(i)) for i in range(len(clips)))
    assert sorted(left_in(cache / "speech_commands")) == sorted(f"SpeechCommands/words/{name}" for name in FILES)
    assert source.splits()["train"].names == own["train"].names
    # Once it is there, nobody has to ask for the download.
    SpeechCommandsSource(url=f"{url}/words.tar.gz").splits()
    assert asked == ["/words.tar.gz"]


def test_download_into_a_folder_of_ones_own(host, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    SpeechCommandsSource(root=str(root), download=True, url=f"{host[0]}/words.tar.gz").splits()
    assert (root / "SpeechCommands" / "words" / "testing_list.txt").is_file()


def test_not_downloaded(cache: Path, tmp_path: Path) -> None:
    mend = "set data.download=true, or data.root to a folder with a copy."
    assert message(SpeechCommandsSource()) == (
        f"{cache / 'speech_commands'}: Speech Commands has not been downloaded; {mend}"
    )
    assert message(SpeechCommandsSource(root=str(tmp_path / "none"))) == (
        f"{tmp_path / 'none'}: there is no such folder; {mend}"
    )
    assert not cache.exists()


def test_a_folder_of_another_layout(copy: Path) -> None:
    (copy / "SpeechCommands" / "speech_commands_v0.02" / "testing_list.txt").unlink()
    found = message(SpeechCommandsSource(root=str(copy / "SpeechCommands" / "speech_commands_v0.02")))
    assert "no validation_list.txt and testing_list.txt in it, so this is not Speech Commands" in found
    assert found.endswith("data=audio_folder reads other layouts.")


def test_what_another_program_unpacked_in_part_is_not_taken_for_the_whole(host, copy: Path) -> None:
    (copy / "SpeechCommands" / "words").mkdir()
    found = message(SpeechCommandsSource(root=str(copy), download=True, url=f"{host[0]}/words.tar.gz"))
    assert found.endswith(
        "words: no validation_list.txt and testing_list.txt in it; remove it, and it is downloaded again."
    )
    assert host[1] == []


@pytest.mark.parametrize("line", ["zero/clip.wav", "", "zero"])
def test_a_list_of_something_else(copy: Path, line: str) -> None:
    (copy / "SpeechCommands" / "speech_commands_v0.02" / "validation_list.txt").write_text(f"{VAL[0]}\n{line}\n")
    assert "an entry of the validation list does not read <word>/" in message(SpeechCommandsSource(root=str(copy)))


def test_a_file_that_is_listed_and_not_there(copy: Path) -> None:
    (copy / "SpeechCommands" / "speech_commands_v0.02" / VAL[0]).unlink()
    assert f"{VAL[0]}: there is no such file" in message(SpeechCommandsSource(root=str(copy)))


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        ("absent.tar.gz", r"the host answers 404 (Not Found)"),
        ("cut.tar.gz", "not a tar.gz, or damaged"),
        ("text.tar.gz", "not a tar.gz, or damaged"),
        ("garbled.tar.gz", "not a tar.gz, or damaged"),
        ("other.tar.gz", "there is no validation_list.txt in the archive"),
        ("outside.tar.gz", "not a tar.gz, or damaged ('./../../outside.wav' would be extracted to"),
    ],
)
def test_a_download_that_fails_leaves_nothing(host, cache: Path, archive: str, reason: str) -> None:
    url = f"{host[0]}/{archive}"
    found = message(SpeechCommandsSource(download=True, url=url))
    assert found.startswith(f"{url}: {reason}")
    assert found.endswith("check the connection, set data.url to a mirror, or data.root to a folder with a copy.")
    assert not left_in(cache.parent)


def test_a_checksum_that_is_known(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{host[0]}/words.tar.gz"
    monkeypatch.setitem(speech_commands.SHA256, url, "1" * 64)
    digest = hashlib.sha256(ARCHIVES["words.tar.gz"]).hexdigest()
    assert f"{url}: its sha256 is {digest}, not {'1' * 64}" in message(SpeechCommandsSource(download=True, url=url))
    assert not left_in(cache)
    monkeypatch.setitem(speech_commands.SHA256, url, digest)
    assert len(SpeechCommandsSource(download=True, url=url).splits()["train"]) == 37


def test_the_default_address_is_one_that_torchaudio_knows() -> None:
    from torchaudio.datasets import speechcommands

    assert {speech_commands.URL: speechcommands._CHECKSUMS[speech_commands.URL]} == speech_commands.SHA256


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    found = message(SpeechCommandsSource(download=True, url=f"http://127.0.0.1:{port}/words.tar.gz"))
    assert "the host cannot be reached" in found
    assert not left_in(cache)


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_nothing(host, cache: Path, monkeypatch, fault: BaseException) -> None:
    unpack = tarfile.TarFile.extractall

    def stop_half_way(self: tarfile.TarFile, path: Path, **settings) -> None:
        unpack(self, path, members=self.getmembers()[:5], **settings)
        raise fault

    monkeypatch.setattr(tarfile.TarFile, "extractall", stop_half_way)
    source = SpeechCommandsSource(download=True, url=f"{host[0]}/words.tar.gz")
    if isinstance(fault, OSError):
        assert "No space left on device" in message(source)
    else:
        with pytest.raises(KeyboardInterrupt):
            source.splits()
    assert not left_in(cache)


def test_a_torchaudio_that_does_not_import(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.datasets", None)
    assert "torchaudio cannot be imported" in message(SpeechCommandsSource(root=str(copy)))


@pytest.mark.parametrize(
    ("settings", "reason"), [({"words": []}, "data.words is empty"), ({"sample_rate": 0}, "sample_rate 0")]
)
def test_settings_that_cannot_be(settings: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        SpeechCommandsSource(**settings)
