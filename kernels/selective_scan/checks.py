"""The checks of `selective_scan`'s arguments."""

from __future__ import annotations

from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_packing, check_parameters, check_rows, check_shape, check_tensors


def check_arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Raises ValueError or TypeError, naming the argument, unless shapes, dtypes and devices fit together."""
    required = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    check_tensors(required, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state, cu_seqlens=cu_seqlens)
    check_rows("u", u)
    # A, D, bias and state are cast, so float64 parameters of a float64 model are all that has to agree here.
    check_floats(u, u=u, delta=delta, B=B, C=C, z=z)
    check_packing("u", u, cu_seqlens)
    batch, length, channels = u.shape
    check_shape("delta", delta, "B, L, D", (batch, length, channels))
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise ValueError(f"A must be (D, N) = ({channels}, N); got {tuple(A.shape)}")
    if not A.is_floating_point():
        raise TypeError(f"A must be real and floating; got {A.dtype}")
    check_parameters("u", u, A=A, D=D, delta_bias=delta_bias, initial_state=initial_state)
    states = A.shape[1]
    for name, M in (("B", B), ("C", C)):
        if M.dim() == 3:
            check_shape(name, M, "B, L, N", (batch, length, states))
        elif M.dim() == 4:
            groups = M.shape[2]
            check_shape(name, M, "B, L, G, N", (batch, length, groups, states))
            if groups < 1 or channels % groups:
                raise ValueError(f"{name} must have a number of groups that divides D = {channels}; got {groups}")
        else:
            raise ValueError(f"{name} must be (B, L, N) or (B, L, G, N); got {tuple(M.shape)}")
    groups_of_B, groups_of_C = (1 if M.dim() == 3 else M.shape[2] for M in (B, C))
    if groups_of_B != groups_of_C:
        raise ValueError(f"C must have the groups of B, {groups_of_B}; got {groups_of_C}")
    check_shape("D", D, "D,", (channels,))
    check_shape("z", z, "B, L, D", (batch, length, channels))
    check_shape("delta_bias", delta_bias, "D,", (channels,))
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rows = "B, D, N" if cu_seqlens is None else "S, D, N"
    check_shape("initial_state", initial_state, rows, (sequences, channels, states))
