"""The short causal depthwise convolution, one tap after another: the meaning of the op.

For channel d, position t and K taps, with x of negative position taken from the state:

    y_t = act(bias + Σ_k weight_k x_{t-K+1+k})          act: SiLU or none
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.packing import sequence_bounds


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = "silu",
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs y (B, L, D) and final state (B or S, K − 1, D), the last inputs, oldest first in the order of the scan.

    Plain torch, differentiable by autograd, in float64 when `x` is float64 and in float32 otherwise.
    """
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs, finals = [], []
    for s, (start, end) in enumerate(sequence_bounds(length, cu_seqlens)):
        # 1. The sequence in the order of the scan, with what came before it in front.
        inputs = x[:, start:end].to(dtype)
        inputs = inputs.flip(1) if reverse else inputs
        if initial_state is None:
            before = inputs.new_zeros(batch, taps - 1, channels)
        else:
            before = initial_state.to(dtype) if cu_seqlens is None else initial_state[s : s + 1].to(dtype)
        inputs = torch.cat([before, inputs], dim=1)
        # 2. The taps: the last one meets the present position.
        y = torch.zeros_like(inputs[:, : end - start])
        for k in range(taps):
            y = y + inputs[:, k : k + end - start] * weight[:, k].to(dtype)
        if bias is not None:
            y = y + bias.to(dtype)
        # 3. Activation, and back to the order of the row.
        y = F.silu(y) if activation == "silu" else y
        outputs.append(y.flip(1) if reverse else y)
        finals.append(inputs[:, end - start :])
    return torch.cat(outputs, dim=1).to(x.dtype), torch.cat(finals, dim=0)
