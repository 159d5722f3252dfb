"""Classification of DNA sequences: binary, multi-class or multi-label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack
from ssmbio.data.batches import Batch
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.heads import ClassificationHead
from ssmbio.packing import offsets, pack, unpack, valid_positions
from ssmbio.pipelines.base import Pipeline
from ssmbio.training.metrics import Predictions, classification_loss, classification_metrics


class DnaClassify(Pipeline):
    """Embedding → backbone → pooling → one logit a class.

    Args:
        backbone: maps (B, L, D) to (B, L, D).
        facts: tokenizer, labels, problem (binary, multiclass, multilabel), max_length, and class_weights or None.
        pooling, head_dropout: see `ClassificationHead`.
        label_smoothing: in [0, 1).
        optimizer, scheduler: see `Pipeline`.
    """

    task_name = "dna_classify"

    def __init__(
        self,
        backbone: Stack,
        facts: dict[str, Any],
        pooling: str = "mean",
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__(facts, optimizer, scheduler)
        self.tokenizer = tokenizer_from_spec(facts["tokenizer"])
        self.labels: list[str] = facts["labels"]
        self.problem: str = facts["problem"]
        self.label_smoothing = label_smoothing
        self.embedding = nn.Embedding(self.tokenizer.vocab_size, backbone.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.backbone = backbone
        self.head = ClassificationHead(backbone.d_model, len(self.labels), pooling, head_dropout)
        weights = facts.get("class_weights")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.predictions = nn.ModuleDict({split: Predictions() for split in ("val", "test")})

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, L) padded right, lengths (B,) → logits (B, C); padding and neighbours have no influence."""
        valid = valid_positions(lengths, ids.shape[1])
        if bool(valid.all()):
            x, _ = self.backbone(self.embedding(ids))
        else:
            x, _ = self.backbone(self.embedding(pack(ids, valid)), cu_seqlens=offsets(lengths))
            x = unpack(x, valid)
        return self.head(x, valid)

    def loss(self, batch: Batch) -> Tensor:  # type: ignore[override]
        logits = self(batch["ids"], batch["lengths"])
        return classification_loss(logits, batch["labels"], self.problem, self.class_weights, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self.test_outputs = self._report("test")

    def _collect(self, batch: Batch, split: str) -> None:
        self.predictions[split].update(batch["index"], self(batch["ids"], batch["lengths"]), batch["labels"])

    def _report(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Log the measures of a split; returns its (index, logits, labels) on the CPU."""
        index, logits, labels = (value.cpu() for value in self.predictions[split].compute())
        self.predictions[split].reset()
        loss = classification_loss(logits, labels, self.problem)
        values = {"loss": float(loss), **classification_metrics(logits, labels, self.problem)}
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, prog_bar=split == "val")
        return index, logits, labels
