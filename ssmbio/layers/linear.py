"""`torch.nn.Linear` for long sequences."""

from __future__ import annotations

from torch import Tensor, nn

from ssmbio.kernels.linear import linear


class Linear(nn.Linear):
    """`nn.Linear`; on a GPU the gradient of its bias costs one pass over memory."""

    def forward(self, input: Tensor) -> Tensor:
        if self.bias is None or input.device.type != "cuda":
            return super().forward(input)
        return linear(input, self.weight, self.bias)
