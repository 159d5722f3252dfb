"""A diagonal system in each channel, run by `lti_scan`. S4D and DSS differ in how they make its three matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmbio.kernels import lti_scan, lti_scan_step
from ssmbio.mixers.derived import Derived


class ScannedSSM(nn.Module):
    """u → y with h_l = exp(log_a) h_{l-1} + b u_l and y_l = 2 Re Σ_n c_n h_{l,n} + D u_l, in each channel.

    Subclasses write `system`. Its cost is that of (D, N) numbers, whatever the length.

    Args:
        d_model: D, channels.
        pairs: N, conjugate pairs of states a channel.
    """

    def __init__(self, d_model: int, pairs: int) -> None:
        super().__init__()
        self.d_model, self.pairs = d_model, pairs
        self._kept = Derived()

    @property
    def rate(self) -> float:
        """The sample rate of training over that of the input; see `StepSize`."""
        raise NotImplementedError

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """log_a, b and c, each (D, N), complex; real parts of log_a not positive."""
        raise NotImplementedError

    def forward(
        self,
        u: Tensor,
        D: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """u (B, L, D), D (D,), state (B or S, D, N) complex → y like u, and the state after the last position."""
        y, state = lti_scan(u, *self.system(), D, state, True, cu_seqlens, reverse)
        return y, state

    def step(self, u: Tensor, D: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, D), state (B, D, N) → y (B, D) and the new state."""
        log_a, b, c = self._kept.get(self, self.system, self.rate)
        return lti_scan_step(u, log_a, b, c, state, D)

    def initial_state(self, batch_size: int) -> Tensor:
        parameter = next(self.parameters())
        dtype = torch.complex128 if parameter.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch_size, self.d_model, self.pairs, dtype=dtype, device=parameter.device)
