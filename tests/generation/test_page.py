"""The page of a folder of clips: complete, on its own, and its pictures say what the sound is."""

from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssmbio.data.audio_files import write_audio
from ssmbio.errors import UserError
from ssmbio.generation import page, spectrogram
from ssmbio.generation.clip_files import ListedClip, write_table
from ssmbio.generation.page import outline, ticks, write_page
from ssmbio.generation.spectrogram import FLOOR, gradient, picture, window_size

RATE = 8000
VOID = {"meta", "img", "link", "br", "input"}
SHAPES = {"path"}


def sine(frequency: float, seconds: float = 1.0, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


class Page(HTMLParser):
    """What a page refers to, its text, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID and tag not in SHAPES:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def clips(folder: Path, count: int, seconds: float = 0.25, prompt: float = 0.0) -> list[ListedClip]:
    made = []
    for number in range(count):
        write_audio(folder / f"clip_{number:03}.wav", sine(200 + 100 * number, seconds, 0.4), RATE)
        samples = round(seconds * RATE)
        made.append(ListedClip(f"clip_{number:03}.wav", number, 0, 3 + number / 8, seconds, prompt, samples))
    write_table(folder, made)
    return made


def write(folder: Path, listed: list[ListedClip], **more) -> Page:
    given = {"facts": {"Seed": "5"}, "source": "runs/audio", "command": "python -m ssmbio.generate", **more}
    write_page(folder, listed, RATE, given.pop("facts"), **given)
    return Page(folder / "index.html")


@pytest.mark.parametrize("count", [1, 3])
def test_a_page_shows_every_clip_and_needs_nothing_but_its_folder(tmp_path, count):
    listed = clips(tmp_path, count)[::-1]
    shown = write(tmp_path, listed)
    names = [clip.file for clip in listed]
    assert [audio["src"] for audio in shown.all("audio")] == names
    assert [image["src"] for image in shown.all("img")] == [name.replace(".wav", ".png") for name in names]
    assert len(shown.all("svg")) == count
    for link in shown.links:
        assert (tmp_path / link).is_file(), link
    text = (tmp_path / "index.html").read_text()
    assert "http" not in text
    assert "@import" not in text
    assert re.findall(r"url\(", text) == []
    assert shown.text.count("1 clip" if count == 1 else "3 clips") == 2  # in the title and above all
    for clip in listed:
        assert f"{clip.nll_bits:.3f}" in shown.text
    assert "Seed" in shown.text
    assert "5" in shown.text


def test_what_comes_from_outside_is_text_and_no_markup(tmp_path):
    nasty = '<script>alert("x")</script>&'
    shown = write(
        tmp_path, clips(tmp_path, 1), facts={nasty: nasty}, source=nasty, command=f"$title {nasty}", notice=nasty
    )
    assert shown.text.count(nasty) >= 5
    assert f"$title {nasty}" in shown.text
    assert len(shown.all("script")) == 1


def test_a_prompt_is_marked_at_its_share_of_the_clip(tmp_path):
    shown = write(tmp_path, clips(tmp_path, 1, seconds=0.5, prompt=0.125))
    assert [mark["style"] for mark in shown.all("div") if mark.get("class") == "prompt"] == ["width:25.000%"] * 2
    assert "the prompt" in shown.text
    assert "the prompt" not in write(tmp_path, clips(tmp_path, 1)).text


def test_the_axes_say_hertz_and_seconds_at_the_right_places(tmp_path):
    write(tmp_path, clips(tmp_path, 1, seconds=0.5))
    marks = re.findall(r'<i style="(\w+):([\d.]+)%">([^<]*)</i>', (tmp_path / "index.html").read_text())
    along = {text: float(place) for side, place, text in marks if side == "left"}
    assert along == {"0": 0, "0.1": 20, "0.2": 40, "0.3": 60, "0.4": 80, "0.5 s": 100}
    up = [(text, float(place)) for side, place, text in marks if side == "bottom"]
    assert up[:3] == [("−0.5", 0), ("0", 50), ("0.5", 100)]  # the peak is 0.4
    assert up[3:] == [("0", 0), ("1,000", 25), ("2,000", 50), ("3,000", 75), ("4,000 Hz", 100)]


def test_of_very_many_clips_the_first_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SHOWN", 2)
    shown = write(tmp_path, clips(tmp_path, 3))
    assert [audio["src"] for audio in shown.all("audio")] == ["clip_000.wav", "clip_001.wav"]
    assert "first 2 of 3" in shown.text
    assert not (tmp_path / "clip_002.png").exists()


def test_a_page_that_finds_no_room_leaves_no_part_of_it(tmp_path, monkeypatch):
    listed = clips(tmp_path, 2)
    replace = os.replace

    def full(source, target):
        if Path(target).suffix == ".html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"index\.html: cannot be written"):
        write(tmp_path, listed)
    assert sorted(entry.suffix for entry in tmp_path.iterdir()) == [".png", ".png", ".tsv", ".wav", ".wav"]


def test_the_waveform_keeps_its_extremes():
    waveform = 0.01 * np.random.default_rng(0).standard_normal(10_007).astype(np.float32)
    waveform[5_000], waveform[7_001] = 0.9, -0.8
    low, high = outline(waveform, 100)
    assert low.shape == high.shape == (100,)
    assert (low.argmin(), low.min()) == (69, waveform.min())
    assert (high.argmax(), high.max()) == (49, waveform.max())
    assert (low <= high).all()
    np.testing.assert_array_equal(outline(waveform[:3], 100), [waveform[:3], waveform[:3]])


@pytest.mark.parametrize(
    ("end", "most", "expected"),
    [
        (1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (4, 5, [0, 1, 2, 3, 4]),
        (65.536, 5, [0, 20, 40, 60]),
        (11025, 4, [0, 5000, 10000]),
        (0.0125, 5, [0, 0.005, 0.01]),
        (3600, 5, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_round_numbers(end, most, expected):
    assert ticks(end, most) == pytest.approx(expected)


@pytest.mark.parametrize(("amplitude", "decibels"), [(1.0, 0.0), (0.1, -20.0), (0.01, -40.0)])
def test_a_sine_stands_at_its_frequency_with_its_level(amplitude, decibels):
    found = spectrogram.spectrogram(sine(1000, amplitude=amplitude), RATE)
    size = window_size(RATE)
    inner = found[:, 10:-10]  # away from the silence around the clip
    assert (inner.argmax(0) == 1000 * size // RATE).all()
    np.testing.assert_allclose(inner.max(0), decibels, atol=0.01)
    assert (inner[: 800 * size // RATE] < max(FLOOR + 1, decibels - 60)).all()


def test_silence_is_at_the_floor():
    assert (spectrogram.spectrogram(np.zeros(4000, np.float32), RATE) == FLOOR).all()


@pytest.mark.parametrize("samples", [1, 2, 100, 257, 8000, 300_000])
def test_any_length_has_a_picture_that_is_not_too_wide(samples):
    found = spectrogram.spectrogram(sine(500, samples / RATE), RATE, columns=200)
    assert found.shape[0] == window_size(RATE) // 2 + 1
    assert 1 <= found.shape[1] <= 201
    assert np.isfinite(found).all()
    assert samples < 100 or found.max() > -30


def test_a_short_sound_in_a_long_clip_is_seen_where_it_is():
    waveform = np.zeros(100 * RATE, np.float32)
    waveform[40 * RATE : 40 * RATE + 400] = sine(1000, 0.05)
    loudest = spectrogram.spectrogram(waveform, RATE, columns=100).max(0)
    assert loudest.argmax() == pytest.approx(40 * len(loudest) / 100, abs=1)
    assert loudest.max() > -30
    assert (np.delete(loudest, range(loudest.argmax() - 1, loudest.argmax() + 2)) == FLOOR).all()


@pytest.mark.parametrize("columns", [50, 500])
def test_the_picture_does_not_depend_on_how_many_frames_go_at_once(monkeypatch, columns):
    waveform = np.random.default_rng(0).uniform(-1, 1, 30_000).astype(np.float32)
    whole = spectrogram.spectrogram(waveform, RATE, columns)
    monkeypatch.setattr(spectrogram, "_FRAMES_AT_ONCE", 7)
    np.testing.assert_allclose(spectrogram.spectrogram(waveform, RATE, columns), whole, atol=1e-4)


def test_low_frequencies_are_at_the_bottom_and_the_loudest_is_brightest(tmp_path):
    picture(spectrogram.spectrogram(sine(500), RATE)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        bright = np.asarray(image.convert("RGB")).sum(2).astype(int)
    row = bright[:, bright.shape[1] // 2].argmax()
    assert row == len(bright) - 1 - 500 * window_size(RATE) // RATE
    assert gradient(2)[0] == "#000004"
    assert "#{:02x}{:02x}{:02x}".format(*image.convert("RGB").getpixel((bright.shape[1] // 2, row))) == gradient(2)[1]
