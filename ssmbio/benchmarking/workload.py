"""What is timed: a case (an op at a shape) and a workload (its call, with the tensors it takes)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An op at a shape, on a device.

    Attributes:
        op: its name in `cases.OPS`.
        device: "cpu" or "cuda".
        dtype: of the inputs; layers keep float32 parameters and run under autocast to it.
        batch, channels, length: B, D, L; L is the number of steps where a layer is decoded.
        states: N, 0 where the op has none; complex ones are counted in pairs.
        taps: K, 0 where the op has none.
    """

    op: str
    device: str
    dtype: torch.dtype
    batch: int
    channels: int
    length: int
    states: int = 0
    taps: int = 0

    @property
    def positions(self) -> int:
        return self.batch * self.length

    @property
    def shape(self) -> str:
        sizes = [f"B{self.batch}", f"D{self.channels}", f"L{power_of_two(self.length)}"]
        return " ".join(sizes + [f"{name}{size}" for name, size in (("N", self.states), ("K", self.taps)) if size])


@dataclass(frozen=True)
class Workload:
    """A call on tensors that are already on the device.

    Attributes:
        call: returns the output whose gradient is `dy`.
        inputs: what the backward pass makes gradients of; none: there is no backward pass.
        dy: gradient of the output.
        cold: whether the caches are emptied before each call, as between the layers of a large model.
    """

    call: Callable[[], Tensor]
    inputs: tuple[Tensor, ...] = ()
    dy: Tensor | None = None
    cold: bool = True

    def forward(self) -> object:
        with torch.no_grad():
            return self.call()

    def forward_backward(self) -> object:
        return torch.autograd.grad(self.call(), self.inputs, self.dy)


def power_of_two(length: int) -> str:
    """1048576 → 2^20; what is no power of two, or shorter than 1024, as it is."""
    exact = length >= 1024 and length & (length - 1) == 0
    return f"2^{length.bit_length() - 1}" if exact else str(length)
