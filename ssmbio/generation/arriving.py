"""Results on their way from the device to the host, while the device goes on with other work."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """Copies of tensors, queued behind what makes them and before whatever is queued later.

    Args:
        tensors: on one device; on a CPU they are there already.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._tensors = list(tensors)
        if tensors[0].is_cuda:
            self._tensors = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            for there, here in zip(self._tensors, tensors, strict=True):
                there.copy_(here, non_blocking=True)
            self._event = torch.cuda.current_stream(tensors[0].device).record_event()

    def wait(self) -> list[Tensor]:
        """The tensors on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors
