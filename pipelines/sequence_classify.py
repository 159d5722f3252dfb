"""Classification of sequences of tokens of any alphabet: binary, multi-class or multi-label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssmbio.backbones import Backbone
from ssmbio.data.batches import Batch, Collate, Example
from ssmbio.data.records import Record
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.errors import UserError
from ssmbio.packing import offsets, pack, unpack, valid_positions
from ssmbio.pipelines.classify import Classify


class SequenceClassify(Classify):
    """Embedding of token ids → backbone → pooling → one logit a class.

    Args:
        backbone: maps (B, L, D) to (B, L, D).
        facts: tokenizer and max_length, and those of `Classify`.
        pooling, head_dropout, label_smoothing: see `Classify`.
        optimizer, scheduler: see `Pipeline`.

    Raises:
        UserError: facts of images.
    """

    task_name = "sequence_classify"
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
        if "tokenizer" not in facts:
            raise UserError(f"these data are images, and {self.task_name} reads sequences", mend="use pixel_classify")
        tokenizer = tokenizer_from_spec(facts["tokenizer"])
        embedding = nn.Embedding(tokenizer.vocab_size, backbone.d_model)
        nn.init.normal_(embedding.weight, std=0.02)
        super().__init__(embedding, backbone, facts, pooling, head_dropout, label_smoothing, optimizer, scheduler)
        self.tokenizer = tokenizer

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids (B, L) padded right, lengths (B,) → logits (B, C); padding and neighbours have no influence.

        Without lengths all are L long. That takes the same way through the model as lengths that say so.
        """
        if lengths is None:
            return self.head(self.backbone(self.embedding(ids))[0], torch.ones_like(ids, dtype=torch.bool))
        valid = valid_positions(lengths, ids.shape[1])
        if bool(valid.all()):
            return self(ids)
        x, _ = self.backbone(self.embedding(pack(ids, valid)), cu_seqlens=offsets(lengths))
        return self.head(unpack(x, valid), valid)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch["ids"],) if batch["full"] else (batch["ids"], batch["lengths"])

    def collate(self, records: Sequence[Record]) -> Batch:
        encode = self.tokenizer.encode
        examples = [Example(encode(record.sequence), None, None, i) for i, record in enumerate(records)]
        return Collate(self.tokenizer.pad_id)(examples)
