"""The layer round a linear state-space model: SSM → GELU → dropout → Linear to 2D → GLU (S4, arXiv 2111.00396)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.layers import Linear
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.selective_ssm import in_autocast_dtype
from ssmbio.mixers.settings import check_dropout, check_flag


class SSM(Protocol):
    """A linear system of D channels, as the layer runs it; D is also its skip, (D,)."""

    def __call__(
        self,
        u: Tensor,
        D: Tensor | None = None,
        state: Any = None,
        cu_seqlens: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, Any]: ...

    def step(self, u: Tensor, D: Tensor | None, state: Any) -> tuple[Tensor, Any]: ...

    def initial_state(self, batch_size: int) -> Any: ...


class SSMLayer(Mixer):
    """y = GLU(W · dropout(gelu(ssm(x) + D x))).

    Bidirectional, a second system of its own weights runs from the end of each sequence and the two outputs are added
    before the GELU; the skip, W and the GLU are shared (S4, appendix D.2).

    Args:
        d_model: D, channels in and out.
        make_ssm: makes a linear system of D channels.
        dropout: after the GELU.
        bidirectional: two systems, one from either end.
    """

    ssm: SSM
    ssm_forward: SSM
    ssm_backward: SSM

    def __init__(
        self, d_model: int, make_ssm: Callable[[], nn.Module], dropout: float = 0.0, bidirectional: bool = False
    ) -> None:
        super().__init__(d_model)
        check_dropout(dropout)
        check_flag(bidirectional=bidirectional)
        self.causal = not bidirectional
        for name in ("ssm_forward", "ssm_backward") if bidirectional else ("ssm",):
            self.add_module(name, make_ssm())
        self.D = nn.Parameter(torch.randn(d_model))
        self.dropout = nn.Dropout(dropout)
        self.mix = Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor, state: Any = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Any]:
        self.check_input(x, state, cu_seqlens)
        x = in_autocast_dtype(x)
        if self.causal:
            y, state = self.ssm(x, self.D, state, cu_seqlens)
            return self._output(y), state
        y, _ = self.ssm_forward(x, self.D, None, cu_seqlens)
        y_backward, _ = self.ssm_backward(x, None, None, cu_seqlens, reverse=True)
        return self._output(y + y_backward), None

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if not self.causal:
            return super().step(x, state)
        self.check_step(x, state)
        y, state = self.ssm.step(in_autocast_dtype(x), self.D, state)
        return self._output(y), state

    def initial_state(self, batch_size: int) -> Any:
        return self.ssm.initial_state(batch_size) if self.causal else super().initial_state(batch_size)

    def _output(self, y: Tensor) -> Tensor:
        return F.glu(self.mix(self.dropout(F.gelu(y))), dim=-1)
