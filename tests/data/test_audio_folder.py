"""A folder of audio becomes splits and labels, and clips that are read when they are asked for."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader, Dataset

from ssmbio.data.audio_folder import AudioFolderSource, audio_files
from ssmbio.data.audio_set import AudioSet, Waveform
from ssmbio.errors import UserError

RATE = 8_000
HEADER = "path,label,split\n"


def save(path: Path, frames: int = 200, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A clip of multiples of 2^-15, which differs from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = [ord(letter) for letter in path.name + path.parent.name]
    wave = np.random.default_rng(seed).integers(-20_000, 20_000, (frames, channels)) / 32768
    soundfile.write(path, wave, rate)
    return wave[:, 0].astype(np.float32)


def splits_of(root: Path, **settings) -> dict[str, AudioSet]:
    return AudioFolderSource(root=str(root), sample_rate=RATE, **settings).splits()


def names_of(root: Path, **settings) -> dict[str, list[str]]:
    return {split: clips.names for split, clips in splits_of(root, **settings).items()}


def message(root: Path, **settings) -> str:
    return text_of(lambda: splits_of(root, **settings))


def text_of(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        act()
    text = str(error.value)
    assert "\n" not in text
    return text


def test_labels_are_folders_and_each_is_divided_alike(tmp_path: Path) -> None:
    waves = {}
    for label in ("dog", "cat", "_background_noise_"):
        for i in range(10):
            name = f"{label}/{'deeper/' if i % 2 else ''}{i}.{'flac' if i % 3 else 'WAV'}"
            waves[name] = save(tmp_path / name, 100 + i)
    splits = splits_of(tmp_path, split={"val": 0.2, "test": 0.3})
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 15, "val": 6, "test": 9}
    seen = []
    for clips in splits.values():
        for label in ("dog", "cat", "_background_noise_"):
            assert clips.labels().count(label) == len(clips) / 3
        for i in range(len(clips)):
            clip = clips[i]
            assert isinstance(clip, Waveform)
            assert clip.samples.dtype == np.float32
            assert np.array_equal(clip.samples, waves[clip.name])
            assert clip.name.split("/")[0] == clip.label == clips.label_of(i)
            assert clips.lengths[i] == clips.frames[i] == len(clip.samples)
            assert clips.where(i) == str(tmp_path / clip.name)
            seen.append(clip.name)
    assert sorted(seen) == sorted(waves)
    again = names_of(tmp_path, split={"val": 0.2, "test": 0.3})
    assert again == {split: clips.names for split, clips in splits.items()}
    assert again != names_of(tmp_path, split={"val": 0.2, "test": 0.3}, seed=1)
    assert set(names_of(tmp_path)) == {"train"}
    assert set(names_of(tmp_path, split={"test": 1.0, "val": None})) == {"test"}


def test_files_without_folders_have_no_labels_and_come_in_natural_order(tmp_path: Path) -> None:
    for i in range(50):
        save(tmp_path / f"part {i}.wav")
    ordered = names_of(tmp_path, split={"val": 0.06, "test": 0.06}, split_by="order")
    # As SaShiMi's code cuts: [0, 0.88 n), [0.88 n, 0.94 n), [0.94 n, n).
    assert ordered["train"] == [f"part {i}.wav" for i in range(44)]
    assert ordered["val"] == [f"part {i}.wav" for i in range(44, 47)]
    assert ordered["test"] == [f"part {i}.wav" for i in range(47, 50)]
    drawn = splits_of(tmp_path, split={"val": 0.1, "test": 0.2})
    assert {split: len(clips) for split, clips in drawn.items()} == {"train": 35, "val": 5, "test": 10}
    assert drawn["train"].labels() == [None] * 35
    assert drawn["test"].names != [f"part {i}.wav" for i in range(40, 50)]


def test_the_published_cut(tmp_path: Path) -> None:
    """For any number of files, also where 0.88 and 0.94 of it are whole and floats are a hair below."""
    source = AudioFolderSource(
        root=str(tmp_path), sample_rate=RATE, split={"val": 0.06, "test": 0.06}, split_by="order"
    )
    for n in range(1, 2000):
        parts = source._in_order(n)
        cuts = int(0.88 * n), int((0.88 + (1 - 0.88) / 2) * n)
        assert (len(parts["train"]), len(parts["train"]) + len(parts["val"])) == cuts
        assert np.array_equal(np.concatenate([parts["train"], parts["val"], parts["test"]]), np.arange(n))


def test_natural_order_and_what_is_left_out(tmp_path: Path) -> None:
    kept = ["1.wav", "2.mp3", "10.ogg", "a/2.flac", "a/10.FLAC", "a 1/x.wav", "b2/x.wav", "b10/x.wav"]
    for name in reversed(kept):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for name in (".git/x.wav", "a/.cache/x.wav", "a/._2.flac", "README.md", "a/notes.txt", "wav", "x.wav.part"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in audio_files(tmp_path)] == kept


def test_folders_of_splits_come_before_fractions(tmp_path: Path) -> None:
    for name in ("train/a/1.wav", "train/b/1.wav", "valid/a/2.wav", "test/b/sub/3.wav"):
        save(tmp_path / name)
    splits = splits_of(tmp_path, split={"test": 0.5})
    assert {split: (clips.names, clips.labels()) for split, clips in splits.items()} == {
        "train": (["train/a/1.wav", "train/b/1.wav"], ["a", "b"]),
        "val": (["valid/a/2.wav"], ["a"]),
        "test": (["test/b/sub/3.wav"], ["b"]),
    }
    for name in ("train/1.wav", "test/2.wav"):
        save(tmp_path / "plain" / name)
    assert {split: clips.labels() for split, clips in splits_of(tmp_path / "plain").items()} == {
        "train": [None],
        "test": [None],
    }


def table(root: Path, text: str) -> Path:
    (root / "splits.csv").write_text(text, encoding="utf-8")
    return root / "splits.csv"


def test_a_table_comes_before_folders_and_keeps_its_order(tmp_path: Path) -> None:
    for name in ("train/a.wav", "x/b.wav", "x/c d.wav", "not named.wav"):
        save(tmp_path / name)
    outside = tmp_path.parent / f"{tmp_path.name} outside.wav"
    save(outside)
    rows = ["validation,x/b.wav,yes,1", "train,x/c d.wav,no,", "Test,train/a.wav,yes,", "", f"train,{outside},no,"]
    table(tmp_path, "\n".join(["split,path,label,more", *rows]))
    splits = splits_of(tmp_path, split={"test": 0.9})
    assert {split: (clips.names, clips.labels()) for split, clips in splits.items()} == {
        "train": (["x/c d.wav", outside.as_posix()], ["no", "no"]),
        "val": (["x/b.wav"], ["yes"]),
        "test": (["train/a.wav"], ["yes"]),
    }
    assert list(splits) == ["train", "val", "test"]
    table(tmp_path, "path,label,split\nx/b.wav,,train\nx/c d.wav,,test\n")
    assert {split: clips.labels() for split, clips in splits_of(tmp_path).items()} == {"train": [None], "test": [None]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ": the file is empty"),
        ("\n", ", line 1: there is no column 'path'; the header is path,label,split."),
        ("path,split\na.wav,train\n", ", line 1: there is no column 'label'; the header is path,label,split."),
        ("path\tlabel\tsplit\n", ", line 1: there is no column 'path'"),
        (HEADER, ": no row has the split train; name the files to train on."),
        (HEADER + "a.wav,,test\n", ": no row has the split train"),
        (HEADER + "a.wav,,train\nb.wav,,tran\n", ", line 3: split 'tran'; did you mean 'train'? there are train, val"),
        (HEADER + "a.wav,,\n", ", line 2: split ''; there are train, val, test."),
        (HEADER + "a.wav,,train\nc.wav,,train\n", ", line 3: there is no file 'c.wav'; paths start at "),
        (HEADER + "a.wav,,train\n,,train\n", ", line 3: there is no file ''"),
        (HEADER + "\na.wav,,train\n./a.wav,,test\n", ", line 4: './a.wav' stands in line 3 too; remove one of them."),
        (HEADER + "a.wav,x,train\nb.wav\n", ", line 3: 1 cells where the header has 3; give each row"),
        (HEADER + "a.wav,x,train\nb.wav,,val\n", ", line 3: there is no label, but 'x' in "),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    save(tmp_path / "a.wav")
    save(tmp_path / "b.wav")
    said = message(table(tmp_path, text).parent)
    assert said.startswith(f"{tmp_path}{os.sep}splits.csv{words}")
    if "no label" in words:
        assert said.endswith("splits.csv, line 2; give every file a label, by its folder or in the table, or none.")


def test_one_file_by_two_names_is_found_out(tmp_path: Path) -> None:
    save(tmp_path / "a.wav")
    other = f"../{tmp_path.name}/a.wav"
    table(tmp_path, f"{HEADER}a.wav,,train\n{other},,test\n")
    assert f"splits.csv, line 3: '{other}' stands in line 2 too" in message(tmp_path)


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    root = tmp_path / "x"
    assert message(root) == f"{root}: there is no such folder; set data.root to a folder of audio files."
    save(tmp_path / "file.wav")
    assert "file.wav: this is a file; set data.root to a folder" in message(tmp_path / "file.wav")
    (root / ".hidden").mkdir(parents=True)
    save(root / ".hidden" / "1.wav")
    (root / "note.txt").write_text("no audio")
    assert message(root) == f"{root}: no audio files in it; the suffixes known are .wav .flac .ogg .mp3."
    save(root / "a" / "1.wav")
    save(root / "loose.wav")
    assert message(root) == (
        f"{root}/loose.wav: there is no label, but 'a' in {root}/a/1.wav; "
        "give every file a label, by its folder or in the table, or none."
    )
    save(root / "train" / "b" / "1.wav")
    (root / "test").mkdir()
    assert f"{root}/test: no audio files in it" in message(root)
    save(root / "test" / "1.wav")
    assert f"{root}/test/1.wav: there is no label, but 'b' in" in message(root)


def test_files_that_are_wrong_are_named_when_headers_are_read(tmp_path: Path) -> None:
    save(tmp_path / "a.wav")
    bad = tmp_path / "b.wav"
    save(bad, channels=3)
    assert message(tmp_path) == f"{bad}: 3 channels; mix it to one or two first."
    save(bad, rate=22_050)
    assert f"{bad}: 22,050 Hz, not 8,000 Hz; set data.resample=true." in message(tmp_path, resample=False)
    assert splits_of(tmp_path)["train"].lengths.tolist() == [200, 73]
    bad.write_text("no audio")
    assert f"{bad}: not audio, or damaged (" in message(tmp_path)
    bad.write_bytes((tmp_path / "a.wav").read_bytes()[:-1])
    assert f"{bad}: truncated: 443 bytes of 444" in message(tmp_path)
    bad.unlink()
    bad.symlink_to(tmp_path / "gone.wav")
    assert f"{bad}: there is no such file" in message(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": {"tset": 0.1}}, "split 'tset'; did you mean 'test'"),
        ({"split": {"test": 2}}, "split.test 2; set data.split.test to a fraction from 0 to 1."),
        ({"split": {"val": "0.1"}}, "split.val 0.1; set data.split.val"),
        ({"split": {"test": 0.6, "val": 0.6}}, "more than 1; leave something for train."),
        ({"split_by": "name"}, "split_by 'name'; set data.split_by to random or order."),
        ({"sample_rate": 0}, "sample_rate 0; set data.sample_rate to samples a second: 16000."),
        ({"sample_rate": 16e3}, "sample_rate 16000.0; set"),
    ],
)
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    assert words in text_of(lambda: AudioFolderSource(**{"root": "x", "sample_rate": RATE, **settings}))


@pytest.mark.parametrize("split_by", ["random", "order"])
def test_too_few_files_for_a_split(tmp_path: Path, split_by: str) -> None:
    save(tmp_path / "one.wav")
    text = message(tmp_path, split={"val": 0.06, "test": 0.06}, split_by=split_by)
    assert text.startswith(f"{tmp_path}: 1 file is too few to leave one for ")
    assert "change data.split, cut files into several, or say in splits.csv which go where." in text
    assert names_of(tmp_path, split={"val": 0, "test": None}, split_by=split_by) == {"train": ["one.wav"]}


def test_parts_and_other_rates(tmp_path: Path) -> None:
    wave = save(tmp_path / "a.wav", 5_000, 2 * RATE)
    same = AudioFolderSource(root=str(tmp_path), sample_rate=2 * RATE).splits()["train"]
    assert np.array_equal(same.read(0, 4_000, 500), wave[4_000:4_500])
    assert np.array_equal(same.read(-1, 4_900), wave[4_900:])
    clips = splits_of(tmp_path)["train"]
    assert clips.lengths.tolist() == [2_500]
    assert (clips.sample_rate, clips.resample, clips.root) == (RATE, True, tmp_path)
    assert np.abs(clips.read(0, 2_000, 300) - clips[0].samples[2_000:2_300]).max() < 1e-4
    for index in (1, -2):
        with pytest.raises(IndexError):
            clips.read(index)


def test_rescaling_may_read_beyond_one(tmp_path: Path) -> None:
    wave = np.linspace(-3, 3, 400, dtype=np.float32)
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
    clips = splits_of(tmp_path)["train"]
    assert "samples reach 3, beyond ±1; scale it to ±1." in text_of(lambda: clips.read(0))
    assert np.array_equal(clips.read(0, 10, 50, beyond_one=True), wave[10:60])


def test_subsets_keep_the_order_they_are_asked_in(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(3):
            save(tmp_path / label / f"{i}.wav", 100 + i)
    clips = splits_of(tmp_path)["train"]
    part = clips.subset([4, 0]).subset(np.array([0, 1]))
    assert part.names == ["b/1.wav", "a/0.wav"]
    assert part.labels() == ["b", "a"]
    assert part.lengths.tolist() == [101, 100]
    assert np.array_equal(part[0].samples, clips[4].samples)
    assert len(clips.subset([])) == 0


class Sums(Dataset):
    def __init__(self, clips: AudioSet) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> float:
        return float(self.clips[index].samples.sum(dtype=np.float64))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be listed")
def test_sets_travel_to_workers_and_hold_no_file_open(tmp_path: Path) -> None:
    expected = [float(save(tmp_path / f"{i}.flac").sum(dtype=np.float64)) for i in range(6)]
    clips = splits_of(tmp_path)["train"]
    clips.read(0)
    opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in opened if path.startswith(str(tmp_path))]
    again = pickle.loads(pickle.dumps(clips))
    assert (again.names, again.lengths.tolist()) == (clips.names, clips.lengths.tolist())
    loader = DataLoader(Sums(again), batch_size=None, num_workers=2)
    assert list(loader) == expected
