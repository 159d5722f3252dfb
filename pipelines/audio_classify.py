"""Classification of waveforms, sample by sample: spoken words, notes, sounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssmbio.backbones import Backbone
from ssmbio.data.audio_clips import AudioBatch, AudioCollate, AudioExample
from ssmbio.data.audio_set import Waveform
from ssmbio.layers import Linear
from ssmbio.packing import offsets, pack, unpack, valid_positions
from ssmbio.pipelines.audio_generate import audio_facts
from ssmbio.pipelines.classify import Classify


class AudioClassify(Classify):
    """Linear map of each sample → backbone → pooling → one logit a class.

    A step is a sample, seen as it is and on the scale of mu-law (ITU-T G.711): waveforms spend most of their time near
    zero, and norms see a sample alone, so a linear scale would leave quiet ones without differences.

    Args:
        backbone: maps (B, L, D) to (B, L, D); a stack or a U-Net, causal or not.
        facts: audio, with sample_rate and length, and those of `Classify`.
        pooling, head_dropout, label_smoothing: see `Classify`.
        optimizer, scheduler: see `Pipeline`.

    Raises:
        UserError: facts of other data.
    """

    task_name = "audio_classify"
    reads = "audio"
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
        sample_rate = audio_facts(facts, self.task_name, "labels")["sample_rate"]
        embedding = Linear(2, backbone.d_model)
        super().__init__(embedding, backbone, facts, pooling, head_dropout, label_smoothing, optimizer, scheduler)
        self.sample_rate: int = sample_rate

    def forward(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """samples (B, L) float32 padded right, lengths (B,) → logits (B, C); padding has no influence.

        Without lengths all are L long.
        """
        return self.head(*self.encode(samples, lengths))

    def features(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `forward`, up to the pooled vector (B, D) that the head's linear map gets."""
        return self.head.pool(*self.encode(samples, lengths))

    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs of the backbone (B, L, D), and which of them are samples (B, L)."""
        # In float32 under autocast too: bfloat16 has fewer steps than a sample, and the residual stream starts here.
        with torch.autocast(samples.device.type, enabled=False):
            x = self.embedding(torch.stack([samples, companded(samples)], -1))
        if lengths is not None:
            valid = valid_positions(lengths, samples.shape[1])
            if not bool(valid.all()):
                x, _ = self.backbone(pack(x, valid), cu_seqlens=offsets(lengths))
                return unpack(x, valid), valid
        return self.backbone(x)[0], torch.ones_like(samples, dtype=torch.bool)

    def inputs(self, batch: AudioBatch) -> tuple[Tensor, ...]:
        return (batch["samples"],) if batch["full"] else (batch["samples"], batch["lengths"])

    def collate(self, records: Sequence[Waveform]) -> AudioBatch:
        return AudioCollate(None, 1)([AudioExample(record.samples, i, 0) for i, record in enumerate(records)])


def companded(samples: Tensor, mu: int = 255) -> Tensor:
    """The mu-law scale: sign(x) ln(1 + μ|x|) / ln(1 + μ), from −1 to 1 for x from −1 to 1."""
    return samples.sign() * torch.log1p(mu * samples.abs()) / math.log1p(mu)
