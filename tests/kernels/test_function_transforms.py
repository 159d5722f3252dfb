"""Ops under torch.func: gradients pass vmap; forward-mode derivatives, which they have not, are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssmbio.kernels import causal_conv1d, fft_convolution, lti_scan, selective_scan
from ssmbio.kernels.column_sums import column_sums
from ssmbio.kernels.gated_sum import gated_sum
from ssmbio.kernels.row_norm import row_norm
from ssmbio.kernels.zero_order_hold import zero_order_hold

ROWS, CHANNELS, STATES = (2, 9, 4), torch.linspace(-1, -0.5, 4), torch.linspace(-1, -0.1, 12).reshape(4, 3)


def pairs() -> Tensor:
    return torch.complex(STATES, STATES)


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "selective_scan": lambda x: selective_scan(x, torch.ones(ROWS), STATES, torch.ones(2, 9, 3), torch.ones(2, 9, 3)),
    "causal_conv1d": lambda x: causal_conv1d(x, STATES),
    "lti_scan": lambda x: lti_scan(x, pairs(), pairs(), pairs()),
    "fft_convolution": lambda x: fft_convolution(x, STATES),
    "row_norm": lambda x: row_norm(x, CHANNELS),
    "gated_sum": lambda x: gated_sum(x, torch.ones(ROWS), torch.ones(ROWS)),
    "column_sums": lambda x: column_sums(x.reshape(18, 4)),
    "zero_order_hold": lambda x: zero_order_hold(-x[0, 0, :3].exp()[None], STATES[:1], torch.ones(1, 3, 2), CHANNELS)[
        0
    ],
}


@pytest.mark.parametrize("name", OPS)
def test_an_op_refuses_a_forward_mode_derivative(name: str) -> None:
    x = torch.linspace(-1, 1, 72).reshape(ROWS)
    OPS[name](x)  # runs without one
    with pytest.raises(NotImplementedError, match=f"{name} has no forward-mode derivative"):
        torch.func.jvp(OPS[name], (x,), (torch.ones_like(x),))


def test_the_reference_has_the_forward_mode_derivative() -> None:
    x = torch.linspace(-1, 1, 72).reshape(ROWS)

    def scan(x: Tensor) -> Tensor:
        ones = torch.ones(2, 9, 3)
        return selective_scan(x, torch.ones(ROWS), STATES, ones, ones, backend="reference")

    _, derivative = torch.func.jvp(scan, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(derivative, scan(torch.ones_like(x)))  # the scan is linear in u


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [name for name in OPS if name != "column_sums"])  # it has no gradient
def test_gradients_through_vmap_are_those_of_a_loop(name: str) -> None:
    x = torch.randn(3, *ROWS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mapped = torch.func.vmap(OPS[name])(x)
    each = torch.stack([OPS[name](row) for row in x])
    torch.testing.assert_close(mapped, each)
    cotangent = torch.randn(each.shape, dtype=each.dtype, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad(y, x, cotangent)[0] for y in (mapped, each)))
