"""Augmentation of clips: each change is what its setting says, drawn from a seed, and none by default."""

from __future__ import annotations

import numpy as np
import pytest

from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.errors import UserError


def augmented(samples: np.ndarray, draws: int = 200, **settings) -> list[np.ndarray]:
    augment = ClipAugmentation(seed=5, **settings)
    before = samples.copy()
    made = [augment(samples, 0, index) for index in range(draws)]
    np.testing.assert_array_equal(samples, before)
    assert all(len(one) == len(samples) and one.dtype == np.float32 for one in made)
    return made


def test_shift_moves_and_brings_zeros_in() -> None:
    samples = np.arange(1, 8, dtype=np.float32)
    expected = {by: np.zeros(7, np.float32) for by in range(-2, 3)}
    for by, row in expected.items():
        for i in range(7):
            if 0 <= i - by < 7:
                row[i] = samples[i - by]
    made = {tuple(one.tolist()) for one in augmented(samples, shift=2)}
    assert made == {tuple(row.tolist()) for row in expected.values()}
    short = {tuple(one.tolist()) for one in augmented(samples[:2], shift=5)}
    assert short == {(1.0, 2.0), (0.0, 1.0), (2.0, 0.0)}  # never nothing but zeros


def test_gain_is_even_in_decibels() -> None:
    made = augmented(np.array([0.1, -0.2], np.float32), gain=6.0, draws=2000)
    decibels = np.array([20 * np.log10(one[0] / 0.1) for one in made])
    assert np.abs(decibels).max() <= 6.0001
    assert abs(decibels.mean()) < 0.3
    assert decibels.std() == pytest.approx(12 / np.sqrt(12), rel=0.05)
    assert all(one[1] == pytest.approx(-2 * one[0]) for one in made)


def test_noise_has_the_ratio_that_is_drawn() -> None:
    samples = np.sin(np.arange(20000) / 9).astype(np.float32)
    ratios = []
    for one in augmented(samples, noise=10.0):
        added = one - samples
        assert abs(np.corrcoef(added[1:], added[:-1])[0, 1]) < 0.05  # white
        ratios.append(10 * np.log10(np.mean(samples**2) / np.mean(added**2)))
    assert min(ratios) == pytest.approx(10, abs=1)
    assert max(ratios) == pytest.approx(40, abs=1)
    assert np.mean(ratios) == pytest.approx(25, abs=2)
    silence = np.zeros(9, np.float32)
    np.testing.assert_array_equal(augmented(silence, noise=-20)[0], silence)


def test_speed_moves_everything_about_the_middle() -> None:
    """A tone of 1/20 is one of speed/20 afterwards, in phase in the middle; a slower clip ends in zeros."""
    middle = 499.5
    place = np.arange(1000) - middle
    samples = np.cos(2 * np.pi * place / 20).astype(np.float32)
    speeds = []
    for one in augmented(samples, speed=0.25):
        inside = one[300:700]
        spectrum = np.abs(np.fft.rfft(one * np.hanning(1000), 2**16))
        speed = 20 * spectrum.argmax() / 2**16
        np.testing.assert_allclose(inside, np.cos(2 * np.pi * speed * place[300:700] / 20), atol=0.05)
        speeds.append(speed)
        beyond = np.abs(place) * speed > middle + 1e-3 * 1000
        assert (one[beyond] == 0).all()
    assert min(speeds) == pytest.approx(0.75, abs=0.01)
    assert max(speeds) == pytest.approx(1.25, abs=0.01)
    assert np.mean(speeds) == pytest.approx(1, abs=0.03)


def test_augmentation_is_seeded_and_off_by_default() -> None:
    samples = np.sin(np.arange(100)).astype(np.float32)
    assert ClipAugmentation()(samples, 0, 0) is samples
    augment, again = (ClipAugmentation(3, 2.0, 20, seed=4) for _ in range(2))
    first = augment(samples, 1, 2)
    augment(samples, 7, 7)
    np.testing.assert_array_equal(again(samples, 1, 2), first)
    for other in (augment(samples, 1, 3), augment(samples, 2, 2), ClipAugmentation(3, 2.0, 20, seed=5)(samples, 1, 2)):
        assert not np.array_equal(other, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": -1}, "shift -1; set data.shift to a whole number of samples, 0 or more"),
        ({"shift": 0.5}, "shift 0.5; set data.shift"),
        ({"gain": -1.0}, "gain -1.0; set data.gain to decibels, 0 to 60"),
        ({"gain": "loud"}, "gain loud; set data.gain"),
        ({"noise": 41}, "noise 41; set data.noise to a signal-to-noise ratio in decibels, -20 to 40, or to null"),
        ({"noise": True}, "noise True; set data.noise"),
        ({"speed": 0.6}, "speed 0.6; set data.speed to a part of the speed, 0 to 0.5"),
    ],
)
def test_bad_augmentation(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClipAugmentation(**settings)
