"""Classification of images as sequences of pixels, one at a time: sequential MNIST, sCIFAR, Pathfinder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ssmbio.backbones import Backbone
from ssmbio.data.images import Image
from ssmbio.data.pixels import ImageFacts, PixelBatch
from ssmbio.layers import Linear
from ssmbio.pipelines.classify import Classify


class PixelClassify(Classify):
    """Linear map of each pixel → backbone → pooling → one logit a class.

    A pixel has one value, or three, and is a step: L = H·W. Values are real numbers, less the mean of the training
    images and over their standard deviation, channel by channel; both are part of the checkpoint.

    Args:
        backbone: maps (B, L, D) to (B, L, D).
        facts: image (see `ImageFacts`), and those of `Classify`.
        pooling, head_dropout, label_smoothing: see `Classify`.
        optimizer, scheduler: see `Pipeline`.

    Raises:
        UserError: facts of sequences.
    """

    task_name = "pixel_classify"
    reads = "images"
    placed: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        facts: dict[str, Any],
        pooling: str = "mean",
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        image = ImageFacts.from_facts(facts)
        embedding = Linear(image.shape[2], backbone.d_model)
        super().__init__(embedding, backbone, facts, pooling, head_dropout, label_smoothing, optimizer, scheduler)
        self.image = image
        # All of these are in the facts, so the weights of a checkpoint need not hold them.
        self.mean: Tensor
        self.std: Tensor
        self.order: Tensor | None
        self.register_buffer("mean", 255 * torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(image.std), persistent=False)
        order = None if image.order is None else torch.tensor(image.order)
        self.register_buffer("order", order, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, H, W, C) uint8 → logits (B, C)."""
        x = pixels.flatten(1, 2)
        if self.order is not None:
            x = x[:, self.order]
        # In float32 under autocast too: bfloat16 has fewer steps than a pixel, and the residual stream starts here.
        with torch.autocast(x.device.type, enabled=False):
            x = self.embedding((x.float() - self.mean) / self.std)
        x, _ = self.backbone(x)
        return self.head(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def inputs(self, batch: PixelBatch) -> tuple[Tensor, ...]:
        return (batch["pixels"],)

    def collate(self, records: Sequence[Image]) -> PixelBatch:
        pixels = torch.from_numpy(np.stack([record.pixels for record in records]))
        return PixelBatch(pixels=pixels, index=torch.arange(len(records)))
