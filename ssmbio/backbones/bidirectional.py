"""Makes any causal mixer bidirectional: one copy reads from the front, one from the end, and the outputs are added."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ssmbio.mixers import Mixer
from ssmbio.packing import reversed_within


class Bidirectional(Mixer):
    """y = f(x; θ_f) + flip f(flip x; θ_b), the flip inside each sequence when they are packed.

    Args:
        d_model: D, channels in and out.
        mixer: makes a causal mixer from d_model.
    """

    causal = False

    def __init__(self, d_model: int, mixer: Callable[[int], Mixer]) -> None:
        super().__init__(d_model)
        self.forwards, self.backwards = mixer(d_model), mixer(d_model)
        if not self.forwards.causal:
            name = type(self.forwards).__name__
            raise ValueError(f"{name} is bidirectional already: set model.bidirectional=false")

    def forward(self, x: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, None]:
        self.refuse_state(state)
        y, _ = self.forwards(x, cu_seqlens=cu_seqlens)
        if cu_seqlens is None:
            y_backward = self.backwards(x.flip(1))[0].flip(1)
        else:
            order = reversed_within(cu_seqlens, x.shape[1])
            y_backward = self.backwards(x[:, order], cu_seqlens=cu_seqlens)[0][:, order]
        return y + y_backward, None
