"""S4: a normal-plus-low-rank state space in each channel (Gu, Goel and Ré, arXiv 2111.00396)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmbio.kernels import fft_convolution
from ssmbio.mixers.complex_parameters import Eigenvalues, as_complex, complex_normal, complex_parameter, pairs_of
from ssmbio.mixers.derived import Derived
from ssmbio.mixers.hippo import HIPPO_NAMES, normal_plus_low_rank
from ssmbio.mixers.nplr import BilinearNPLR, from_halves, halves, solve
from ssmbio.mixers.nplr_cauchy import kernel_by_cauchy_sums, nodes
from ssmbio.mixers.nplr_powers import kernel_by_powers
from ssmbio.mixers.nplr_states import carried_output, decayed_state, final_state
from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.sequence_rows import SequenceRows
from ssmbio.mixers.settings import check_choice, check_flag
from ssmbio.mixers.ssm_layer import SSMLayer
from ssmbio.mixers.step_size import StepSize

S4_KERNELS = {"cauchy": kernel_by_cauchy_sums, "powers": kernel_by_powers}


class LowRankSSM(nn.Module):
    """x' = (Λ - P P*) x + B u, y = 2 Re(C x) + D u in each channel, bilinear; a convolution, or step by step.

    Everything made of parameters alone is computed in float64; it is small, and a million positions are then as exact
    as one. States and sums over positions are float32 (float64 when the input is).

    Args:
        d_model: D, channels.
        d_state: N, real states a channel; N/2 conjugate pairs are kept.
        init: the HiPPO transition to start from: legs, lagt, fourier (rank 1) or legt (rank 2).
        kernel: how the convolution kernel is made: by Cauchy sums as in the paper, or from powers of Ā, which is the
            same to rounding and several times faster.
        dt_min, dt_max, rate: see `StepSize`.
        shared: one Λ, P and B for all channels, which then differ in Δ and C.
        lr: learning rate of Λ, P, B and Δ; None: the optimizer's.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "legs",
        kernel: str = "powers",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        shared: bool = False,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__()
        check_choice(S4_KERNELS, kernel=kernel)
        check_choice(HIPPO_NAMES, init=init)
        check_flag(shared=shared)
        self.make_kernel = S4_KERNELS[kernel]
        self.d_model, self.pairs, self.lr = d_model, pairs_of(d_state), lr
        form = normal_plus_low_rank(init, d_state)
        copies = 1 if shared else d_model
        self.A = Eigenvalues(form.eigenvalues.repeat(copies, 1), lr)
        self.P = complex_parameter(form.P[:, None].repeat(1, copies, 1))
        self.B = complex_parameter(form.B.repeat(copies, 1))
        self.C = complex_parameter(complex_normal(d_model, self.pairs))
        self.dt = StepSize(d_model, dt_min, dt_max, rate, lr)
        self._kept = Derived()

    def system(self) -> BilinearNPLR:
        A, B, C, P = self.A(), *(as_complex(part) for part in (self.B, self.C, self.P))
        wide = torch.complex128
        return BilinearNPLR(
            self.dt().double(),
            A.to(wide).expand_as(C),
            P.to(wide).expand(-1, *C.shape),
            B.to(wide).expand_as(C),
            C.to(wide),
        )

    def kernel(self, length: int) -> Tensor:
        """K_0 … K_{L-1}, (D, L), float64."""
        with torch.autocast(self.C.device.type, enabled=False):
            system = self.system()
            return self.make_kernel(system, system.powers(nodes(length)), length)

    def forward(
        self,
        u: Tensor,
        D: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """u (B, L, D), D (D,), state (B or S, D, N) complex → y like u, and the state after the last position."""
        rows = SequenceRows(u, cu_seqlens, reverse)
        sequences = rows.split(u)
        real = torch.float64 if u.dtype == torch.float64 else torch.float32
        with torch.autocast(u.device.type, enabled=False):
            system = self.system()
            powers = system.powers(nodes(rows.longest))
            kernel = self.make_kernel(system, powers, rows.longest).to(real)
            y = rows.join(fft_convolution(sequences, kernel, None if D is None else D.to(real)))
            # Recomputed in a backward pass, if any: most never ask for the gradient of the last state.
            last = _recomputed(lambda u: final_state(system, powers, u.to(real)), sequences)
            if state is not None:
                x = halves(state).to(real)
                carried = carried_output(system, powers, x, rows.longest)
                y = y + rows.join(carried.to(y.dtype), ends_meet=False)
                last = last + decayed_state(powers, x, rows.lengths)
        return y, from_halves(last)

    def step(self, u: Tensor, D: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, D), state (B, D, N) → y (B, D) and the new state."""
        matrices = self._kept.get(self, self._step_matrices, self.dt.rate)
        G, left, right, half, C = (matrix.to(state.dtype) for matrix in matrices)
        x = u.to(state.real.dtype)
        state = 2 * solve(G, left, right, state + half * x[..., None]) - state
        y = 2 * (C * state).real.sum(-1)
        return (y if D is None else y + D * x).to(u.dtype), state

    def _step_matrices(self) -> tuple[Tensor, ...]:
        system = self.system()
        return *system.step_matrices(), system.C

    def initial_state(self, batch_size: int) -> Tensor:
        dtype = torch.complex128 if self.C.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch_size, self.d_model, self.pairs, dtype=dtype, device=self.C.device)

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(("P", "B"), self.lr)


def _recomputed(function, u: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return function(u)
    return checkpoint(function, u, use_reentrant=False, preserve_rng_state=False)


class S4(SSMLayer):
    """S4 layer: normal-plus-low-rank SSM → GELU → dropout → Linear + GLU.

    Args: those of `LowRankSSM`, and
        dropout: after the GELU.
        bidirectional: two systems, one from either end; causal otherwise.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "legs",
        kernel: str = "powers",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        shared: bool = False,
        lr: float | None = 1e-3,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        make = partial(LowRankSSM, d_model, d_state, init, kernel, dt_min, dt_max, rate, shared, lr)
        super().__init__(d_model, make, dropout, bidirectional)
