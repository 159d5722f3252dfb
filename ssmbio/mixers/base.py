"""What every mixer promises: (B, L, D) in, (B, L, D) out, and for causal ones a state that can be carried.

A causal mixer obeys, to a stated tolerance: whole sequence = one step at a time = two pieces with the state carried =
several sequences packed into one row. A bidirectional mixer has no state: it sees both ends.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssmbio.mixers.inputs import check_position, check_sequences, check_state
from ssmbio.mixers.settings import check_whole


class Mixer(nn.Module):
    """Mixes information along the length of a sequence.

    Attributes:
        d_model: D, channels in and out.
        causal: whether output t depends on inputs 0..t alone. Only causal mixers have states and steps.
    """

    causal = True

    def __init__(self, d_model: int) -> None:
        super().__init__()
        check_whole(1, d_model=d_model)
        self.d_model = d_model

    def forward(self, x: Tensor, state: Any = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Any]:
        """Run over a whole sequence, or over several packed into one row.

        Args:
            x: (B, L, D); with `cu_seqlens`, (1, total, D).
            state: what an earlier call returned; None stands for a start from nothing.
            cu_seqlens: (S + 1,) int32 offsets of packed sequences, from 0 to the total.

        Returns:
            y like x, and the state after the last position (None from a bidirectional mixer); it is differentiable.

        Raises:
            ValueError, TypeError: an argument that does not fit the mixer or the others, which the message names.
            RuntimeError: a state for a bidirectional mixer.
        """
        raise NotImplementedError

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One position: x (B, D) and the state before it → y (B, D) and the state after it."""
        raise RuntimeError(f"{type(self).__name__} is bidirectional: it needs the whole sequence and has no steps")

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first position of `batch_size` sequences (or packed sequences)."""
        raise RuntimeError(f"{type(self).__name__} is bidirectional: it has no state")

    def check_input(self, x: Tensor, state: Any, cu_seqlens: Tensor | None) -> None:
        """For `forward`: raise unless its arguments fit. Offsets are looked at by whatever splits the row by them."""
        check_sequences(x, self.d_model, cu_seqlens)
        if not self.causal:
            self.refuse_state(state)
        elif state is not None:
            axis, count = ("B", x.shape[0]) if cu_seqlens is None else ("S", cu_seqlens.shape[0] - 1)
            check_state(state, self.initial_state(0), axis, count, x)

    def check_step(self, x: Tensor, state: Any) -> None:
        """For `step`: raise unless its arguments fit."""
        check_position(x, self.d_model)
        check_state(state, self.initial_state(0), "B", x.shape[0], x)

    def refuse_state(self, state: Any) -> None:
        """For bidirectional mixers: raise if a state was given."""
        if state is not None:
            raise RuntimeError(f"{type(self).__name__} is bidirectional: a carried state has no meaning for it")
