"""Waveforms as codes of 8 bits or fewer, mu-law or linear: what an autoregressive model of audio sees and says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssmbio.data.nearest import instead_of
from ssmbio.errors import UserError

KINDS = ("mu_law", "linear")

_EPSILON = 0.01  # of a level; keeps 1.0 inside the last one
_SHIFT = 1e-8  # added before mu-law's logarithm

Array = TypeVar("Array", npt.NDArray[Any], Tensor)


@dataclass(frozen=True)
class Encoding:
    """A waveform's levels, as the code of SaShiMi defines them (state-spaces/s4, ``src/dataloaders/audio.py``).

    With n = 2^bits, a sample x from −1 to 1 becomes

        y = sign(x) log(1 + μ|x + 1e-8|) / log(1 + μ), μ = n − 1     (mu_law; ITU-T G.711's curve)
        y = x                                                        (linear)
        code = floor((y + 1)/2 · (n − 0.01) + 0.005)

    and a code comes back from the middle of its level, y = (2 code + 1)/n − 1, x = sign(y) ((1 + μ)^|y| − 1)/μ, so that
    a clip which was decoded has the same codes again. (That code comes back from the lower edge, 2 code/n − 1, which
    most codes above n/2 do not survive.) Silence is the code n/2 and comes back as 0 exactly.

    Args:
        kind: mu_law or linear.
        bits: 1 to 8.
        rescale: stretch each clip to its own minimum and maximum first, as the published likelihoods have it:
            x ← 2 (x − min)/(max − min + 1e-6) − 1. Silence then has no code of its own.

    Raises:
        UserError: another kind, or too many bits.
    """

    kind: str = "mu_law"
    bits: int = 8
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"encoding '{self.kind}'", mend=instead_of(str(self.kind), KINDS))
        if type(self.bits) is not int or not 1 <= self.bits <= 8:
            raise UserError(f"an encoding of {self.bits} bits", mend="choose 1 to 8")
        if type(self.rescale) is not bool:
            raise UserError(f"rescale {self.rescale}", mend="set data.rescale to true or false")

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Encoding:
        """From what `plain` gave."""
        return cls(facts["kind"], facts["bits"], facts["rescale"])

    def plain(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return asdict(self)

    def overrides(self) -> str:
        """As settings on a command line."""
        return f"data.encoding={self.kind} data.bits={self.bits} data.rescale={str(self.rescale).lower()}"

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return 1 << self.bits

    @property
    def zero(self) -> int:
        """The code of silence."""
        return self.levels // 2

    def encode(self, waveform: Array) -> Array:
        """(…, L) samples of any float type to (…, L) uint8; those beyond ±1 have the first and the last code.

        A clip is what lies along the last axis. Tensors are encoded on the CPU and come back to their device.
        """
        if isinstance(waveform, Tensor):
            codes = self.encode(waveform.detach().cpu().float().numpy())
            return torch.from_numpy(codes).to(waveform.device)
        x = np.asarray(waveform)
        if self.rescale and x.size:
            low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
            x = 2 * (x - low) / (high - low + x.dtype.type(1e-6)) - 1
        # In float64, where rounding moves no sample of 16 bits over an edge.
        x = x.astype(np.float64).clip(-1, 1)
        if self.kind == "mu_law":
            mu = self.levels - 1
            x = np.sign(x) * (np.log1p(mu * np.abs(x + _SHIFT)) / np.log1p(mu))
        return ((x + 1) / 2 * (self.levels - _EPSILON) + _EPSILON / 2).astype(np.uint8)

    def decode(self, codes: Array) -> Array:
        """Codes of any integer type and shape to float32 samples between −1 and 1, on the device of the codes."""
        values = _values(self.kind, self.bits)
        if isinstance(codes, Tensor):
            return torch.from_numpy(values).to(codes.device)[codes.long()]
        return values[codes]


@lru_cache
def _values(kind: str, bits: int) -> npt.NDArray[np.float32]:
    """(2^bits,) the sample of each code."""
    levels = 1 << bits
    y = (2 * np.arange(levels) + 1) / levels - 1
    y[levels // 2] = 0
    if kind == "mu_law":
        y = np.sign(y) * (levels ** np.abs(y) - 1) / (levels - 1)
    return y.astype(np.float32)
