"""Codes of waveforms are those that SaShiMi's code defines. Literal codes below were computed with that code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ssmbio.data.audio_codes import KINDS, Encoding
from ssmbio.errors import UserError

SAMPLES = np.array([-1, -0.5, -0.1, -0.01, -1e-3, -1e-4, 0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.999, 1], np.float32)
CLIP = np.array([0, 0.1, -0.25, 0.5, -0.6, 0.003, -0.0007, 0.31], np.float32)
PCM = (np.arange(-32768, 32768) / 32768).astype(np.float32)
"""Every sample of 16 bits, in order."""


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("mu_law", [0, 15, 52, 98, 122, 127, 128, 128, 133, 157, 203, 240, 255, 255]),
        ("linear", [0, 64, 115, 126, 127, 127, 128, 128, 128, 129, 140, 191, 255, 255]),
    ],
)
def test_codes_of_samples(kind: str, codes: list[int]) -> None:
    encoded = Encoding(kind).encode(SAMPLES)
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == codes


@pytest.mark.parametrize(
    ("kind", "codes"),
    [("mu_law", [201, 226, 23, 255, 0, 202, 201, 246]), ("linear", [139, 162, 81, 255, 0, 140, 139, 211])],
)
def test_rescaled_codes_are_of_each_clip_alone(kind: str, codes: list[int]) -> None:
    encoding = Encoding(kind, rescale=True)
    assert encoding.encode(CLIP).tolist() == codes
    both = encoding.encode(np.stack([CLIP, SAMPLES[:8]]))
    assert both[0].tolist() == codes
    assert np.array_equal(both[1], encoding.encode(SAMPLES[:8]))
    # Beyond ±1 is brought back; the 1e-6 keeps a clip without any range from being divided by zero.
    assert encoding.encode(CLIP * 100).tolist() == codes
    assert encoding.encode(np.zeros(5, np.float32)).tolist() == [0] * 5
    assert encoding.encode(np.zeros(0, np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "mu_law",
            [
                -0.978488031,
                -0.936837087,
                -0.0574790313,
                -0.00898631748,
                -8.58711712e-05,
                0,
                0.000263295689,
                0.0867564428,
                0.978488031,
            ],
        ),
        (
            "linear",
            [-0.99609375, -0.98828125, -0.49609375, -0.21484375, -0.00390625, 0, 0.01171875, 0.56640625, 0.99609375],
        ),
    ],
)
def test_samples_of_codes(kind: str, values: list[float]) -> None:
    codes = np.array([0, 1, 64, 100, 127, 128, 129, 200, 255])
    decoded = Encoding(kind).decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == pytest.approx(values, rel=2e-6, abs=0)


def in_torch(x: torch.Tensor, kind: str) -> torch.Tensor:
    """The definition again, step by step in float32 and by torch's functions."""
    if kind == "mu_law":
        x = torch.sign(x) * torch.log1p(255 * torch.abs(x + 1e-8)) / torch.log1p(torch.tensor(255.0))
    return ((x + 1) / 2 * (256 - 0.01) + 0.01 / 2).long()


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_agree_on_all_samples_of_16_bits(kind: str) -> None:
    codes = Encoding(kind).encode(PCM)
    differs = np.flatnonzero(codes != in_torch(torch.from_numpy(PCM), kind).numpy())
    # Float32 rounds a sample that lies on an edge over it.
    assert len(differs) <= 1
    of_tensor = Encoding(kind).encode(torch.from_numpy(PCM))
    assert of_tensor.dtype == torch.uint8
    assert np.array_equal(of_tensor.numpy(), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors_decode_alike(kind: str) -> None:
    encoding = Encoding(kind)
    codes = np.random.default_rng(0).integers(0, 256, (3, 50)).astype(np.uint8)
    expected = encoding.decode(codes)
    for given in (torch.from_numpy(codes), torch.from_numpy(codes).long()):
        decoded = encoding.decode(given)
        assert decoded.dtype == torch.float32
        assert np.array_equal(decoded.numpy(), expected)
    # What comes back is the caller's own: writing to it changes no later one.
    encoding.decode(np.arange(256))[:] = 7
    assert np.array_equal(encoding.decode(codes), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_order_silence_and_what_is_lost(kind: str, bits: int) -> None:
    encoding = Encoding(kind, bits)
    assert (encoding.levels, encoding.zero) == (2**bits, 2 ** (bits - 1))
    codes = encoding.encode(PCM)
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert np.array_equal(np.unique(codes), np.arange(encoding.levels))
    decoded = encoding.decode(np.arange(encoding.levels))
    assert (np.diff(decoded) > 0).all()
    assert -1 < decoded.min() < decoded.max() < 1

    assert encoding.encode(np.zeros(3, np.float32)).tolist() == [encoding.zero] * 3
    assert encoding.decode(np.array([encoding.zero]))[0] == 0

    # A sample comes back from the middle of its level, where the curve has levels of the same height; silence from 0.
    mu = encoding.levels - 1

    def height(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return x if kind == "linear" else np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu)

    lost = height(PCM) - height(encoding.decode(codes))
    level = 2 / encoding.levels
    silent = codes == encoding.zero
    assert (abs(lost[~silent]) < 0.506 * level).all()
    assert ((lost >= -0.006 * level) & (lost < 1.006 * level))[silent].all()
    if bits > 1:
        assert abs(lost[~silent]).max() > 0.45 * level


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_decoded_clip_has_the_same_codes_again_even_from_a_file_of_16_bits(kind: str, bits: int) -> None:
    encoding = Encoding(kind, bits)
    codes = np.arange(encoding.levels)
    decoded = encoding.decode(codes)
    assert np.array_equal(encoding.encode(decoded), codes)
    assert np.array_equal(encoding.encode(np.round(decoded * 2**15) / 2**15), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_one_is_the_last_code(kind: str) -> None:
    assert Encoding(kind).encode(np.array([-7, -1.001, 1.001, 7], np.float32)).tolist() == [0, 0, 255, 255]


def test_encodings_travel_as_plain_values() -> None:
    encoding = Encoding("linear", 6, True)
    plain = json.loads(json.dumps(encoding.plain()))
    assert plain == {"kind": "linear", "bits": 6, "rescale": True}
    assert Encoding.from_facts(plain) == encoding
    assert Encoding() == Encoding("mu_law", 8, False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "mulaw"}, "encoding 'mulaw'; did you mean 'mu_law'? there are mu_law, linear."),
        ({"bits": 9}, "an encoding of 9 bits; choose 1 to 8."),
        ({"bits": 0}, "an encoding of 0 bits"),
        ({"bits": 8.0}, "an encoding of 8.0 bits"),
        ({"rescale": "yes"}, "rescale yes; set data.rescale to true or false."),
    ],
)
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        Encoding(**settings)
    assert words in str(error.value)
