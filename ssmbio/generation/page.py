"""`index.html` of a folder of clips: players, waveforms and spectrograms, opened from the disk without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from ssmbio.data.audio_files import read_audio
from ssmbio.files import new_file, whole_file
from ssmbio.generation.clip_files import PAGE, TABLE, ListedClip
from ssmbio.generation.spectrogram import FLOOR, gradient, picture, spectrogram

MOST_SHOWN = 256  # clips; the table lists all
_COLUMNS = 600  # of a picture
_TOP = 0.0  # decibels, the brightest colour


def write_page(
    folder: Path,
    clips: Sequence[ListedClip],
    sample_rate: int,
    facts: Mapping[str, str],
    *,
    source: str,
    command: str,
    notice: str = "",
) -> None:
    """Write `index.html`, and a picture of each clip's spectrogram beside it; each file whole or not at all.

    Args:
        folder: where the clips are.
        clips: in the order they are shown; the first `MOST_SHOWN` are.
        sample_rate: Hz, of all clips.
        facts: what to say about all of them, a word or two and its value.
        source: where they come from, for the line under the title.
        command: that made them.
        notice: a sentence to show before all else.

    Raises:
        UserError: the disk is full, or a clip cannot be read.
    """
    shown = clips[:MOST_SHOWN]
    outlines = []
    for clip in shown:
        waveform = read_audio(folder / clip.file, sample_rate=sample_rate)
        outlines.append(outline(waveform))
        with new_file(folder / picture_name(clip)) as path:
            picture(spectrogram(waveform, sample_rate, _COLUMNS), _TOP).save(path, format="PNG", optimize=True)
    limit = _limit(outlines)
    cards = [_card(clip, extremes, limit, sample_rate) for clip, extremes in zip(shown, outlines, strict=True)]
    prompted = any(clip.prompt_seconds for clip in shown)
    more = f"Shown are the first {MOST_SHOWN:,} of {len(clips):,}. " if len(clips) > MOST_SHOWN else ""
    text = html.escape
    page = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=text(f"{_count(len(clips))} · {source}"),
        heading=_count(len(clips)),
        under=text(source),
        notice=f'<p class="notice">{text(notice)}</p>\n' if notice else "",
        facts="\n".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items()),
        command=text(command),
        gradient=", ".join(gradient()),
        floor=_number(FLOOR),
        top=_number(_TOP),
        prompt_legend='<span><b class="patch"></b> the prompt</span>' if prompted else "",
        one=' class="one"' if len(shown) == 1 else "",
        clips="\n".join(cards),
        footer=f'{more}<a href="{TABLE}">{TABLE}</a> lists them.',
    )
    with whole_file(folder / PAGE) as file:
        file.write(page)


def picture_name(clip: ListedClip) -> str:
    return Path(clip.file).with_suffix(".png").name


def outline(waveform: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """The least and the greatest sample of up to `columns` equal stretches: (L,) → (2, columns)."""
    edges = np.linspace(0, len(waveform), min(columns, len(waveform)) + 1).astype(int)[:-1]
    return np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)])


def ticks(end: float, most: int) -> list[float]:
    """Round numbers from 0 to `end`, at most `most` + 1 of them, whose steps are 1, 2 or 5 times a power of ten."""
    least = end / most
    power = 10 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return [i * step for i in range(math.floor(end / step + 1e-9) + 1)]


def _limit(outlines: Sequence[np.ndarray]) -> float:
    """The amplitude at the edge of every waveform's picture: the largest of all clips, rounded up."""
    peak = max((float(np.abs(extremes).max()) for extremes in outlines), default=1.0)
    return next((limit for limit in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if peak <= limit), 1.0)


def _card(clip: ListedClip, extremes: np.ndarray, limit: float, sample_rate: int) -> str:
    name = html.escape(Path(clip.file).stem)
    file, image = html.escape(clip.file), html.escape(picture_name(clip))
    prompt = ""
    if clip.prompt_seconds:
        prompt = f'<div class="prompt" style="width:{100 * clip.prompt_seconds / clip.seconds:.3f}%"></div>'
    rate = sample_rate / 2
    return f"""<article id="{name}" data-seconds="{clip.seconds:.6f}">
<header><h2><a href="{file}">{name}</a></h2>
<span class="bits"><b>{clip.nll_bits:.3f}</b> bits a sample · {_number(round(clip.seconds, 3))} s</span></header>
<div class="plots">
<div class="axis up">{_up([-limit, 0, limit], -limit, limit)}</div>
<div class="plot wave">{_wave(extremes, limit)}{prompt}<div class="cursor"></div></div>
<div class="axis up">{_up(ticks(rate, 4), 0, rate, " Hz")}</div>
<div class="plot spectrum"><img src="{image}" alt="spectrogram of {name}" loading="lazy">{prompt}
<div class="cursor"></div></div>
<div class="axis along">{_along(clip.seconds)}</div>
</div>
<audio controls preload="metadata" src="{file}" aria-label="{name}"></audio>
</article>"""


def _wave(extremes: np.ndarray, limit: float) -> str:
    """An SVG of the area between the least and the greatest samples; it is stretched to its frame."""
    low, high = extremes / limit
    columns = len(low)
    forth = " ".join(f"{i} {-value:.3f}" for i, value in enumerate(high))
    back = " ".join(f"{i} {-low[i]:.3f}" for i in range(columns - 1, -1, -1))
    box = f"0 -1 {max(columns - 1, 1)} 2"
    return f'<svg viewBox="{box}" preserveAspectRatio="none" aria-hidden="true"><path d="M{forth} {back}Z"/></svg>'


def _up(values: Sequence[float], low: float, high: float, unit: str = "") -> str:
    """Labels of a vertical axis from `low` to `high`; the unit stands at the last."""
    return _marks("bottom", values, low, high, unit)


def _along(seconds: float) -> str:
    """Labels of the time axis."""
    return _marks("left", ticks(seconds, 5), 0, seconds, " s")


def _marks(side: str, values: Sequence[float], low: float, high: float, unit: str) -> str:
    places = (f"{side}:{100 * (value - low) / (high - low):.3f}%" for value in values)
    labels = [_number(value) for value in values]
    labels[-1] += unit
    return "".join(f'<i style="{place}">{label}</i>' for place, label in zip(places, labels, strict=True))


def _number(value: float) -> str:
    """Without needless digits, with a proper minus sign."""
    return f"{value:,.6g}".replace("-", "−") if abs(value) < 1e6 else f"{value:,.0f}"


def _count(clips: int) -> str:
    return f"{clips:,} clip{'' if clips == 1 else 's'}"
