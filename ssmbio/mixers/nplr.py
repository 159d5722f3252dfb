"""A normal-plus-low-rank system A = Λ - P P*, discretized by the bilinear rule (S4, arXiv 2111.00396, appendix C).

Of each conjugate pair of states one is kept. The whole of P* x is then 2 Re Σ_n conj(P_n) x_n, so the system acts on
the kept half as a real matrix on [Re x, Im x] (2N): the dense forms are those. A is dissipative (x* (A + A*) x < 0), so
Ā is a contraction: its powers and products neither grow nor lose digits. Λ + P Q* would not be so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BilinearNPLR:
    """x_l = Ā x_{l-1} + B̄ u_l, y_l = 2 Re Σ_n C_n x_{l,n}; Ā = (I - ΔA/2)⁻¹ (I + ΔA/2), B̄ = (I - ΔA/2)⁻¹ Δ B.

    Args:
        dt: (D,), Δ. eigenvalues: (D, N), Λ. P: (R, D, N). B, C: (D, N). Complex128, dt float64.
    """

    dt: Tensor
    eigenvalues: Tensor
    P: Tensor
    B: Tensor
    C: Tensor

    def step_matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """G (D, N), left (R, D, N), right (R, D, N) and half (D, N), with which

            x_l = 2 S(x_{l-1} + half u_l) - x_{l-1},    S(v) = (I - ΔA/2)⁻¹ v = G v - Σ_r left_r · 2 Re Σ_n right_rn v_n

        by Woodbury's identity: half = Δ B / 2, and Ā = 2 (I - ΔA/2)⁻¹ - I.
        """
        dt = self.dt[:, None]
        G = 1 / (1 - dt / 2 * self.eigenvalues)
        right = self.P.conj() * G
        small = 2 * torch.einsum("rdn,sdn->drs", right, self.P).real
        small = small + torch.diag_embed((2 / dt).expand(-1, self.P.shape[0]))
        # Not `inv`, which asks the device whether it went well: a CUDA graph cannot hold that. It does: I - ΔA/2 of a
        # stable A is invertible, and so is this.
        left = torch.einsum("sdn,dsr->rdn", G * self.P, torch.linalg.inv_ex(small).inverse.to(G.dtype))
        return G, left, right, dt / 2 * self.B

    def dense_input(self) -> Tensor:
        """B̄ on [Re x, Im x], (D, 2N)."""
        G, left, right, half = self.step_matrices()
        return halves(2 * solve(G, left, right, half))

    def dense_output(self) -> Tensor:
        """C to the left of [Re x, Im x], (D, 2N)."""
        return 2 * halves(self.C.conj())

    def powers(self, most: int) -> list[Tensor]:
        """Ā, Ā², Ā⁴, … up to the last exponent that is not above `most` (at least Ā); each (D, 2N, 2N), real."""
        G, left, right, _ = self.step_matrices()
        n = G.shape[-1]
        identity = torch.eye(n, dtype=G.dtype, device=G.device)
        basis = torch.cat([identity, 1j * identity])[:, None]  # (2N, 1, N)
        columns = halves(2 * solve(G, left, right, basis) - basis)  # (2N, D, 2N)
        found = [columns.permute(1, 2, 0)]
        while 2 ** len(found) <= most:
            found.append(found[-1] @ found[-1])
        return found


def solve(G: Tensor, left: Tensor, right: Tensor, v: Tensor) -> Tensor:
    """(I - ΔA/2)⁻¹ v of kept halves v (…, D, N); the matrices of `BilinearNPLR.step_matrices`."""
    solved = G * v
    for l, r in zip(left, right, strict=True):
        solved = solved - l * (2 * (r * v).real.sum(-1, keepdim=True))
    return solved


def halves(x: Tensor) -> Tensor:
    """(…, N) complex → (…, 2N) real, [Re x, Im x]."""
    return torch.cat([x.real, x.imag], dim=-1)


def from_halves(x: Tensor) -> Tensor:
    """The inverse of `halves`."""
    return torch.complex(*x.chunk(2, dim=-1))
