"""Classification of DNA sequences: binary, multi-class or multi-label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack
from ssmbio.data.batches import Batch
from ssmbio.data.tokenizers import CharacterTokenizer, tokenizer_from_spec
from ssmbio.errors import UserError
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
        both_strands: evaluate and predict with the mean of the logits of a sequence and its reverse complement
            ("post-hoc conjoining", Caduceus, section 4.2).
        optimizer, scheduler: see `Pipeline`.
    """

    task_name = "dna_classify"
    measures = tuple(f"val/{name}" for name in ("loss", "accuracy", "mcc", "auroc", "auprc", "f1"))

    def __init__(
        self,
        backbone: Stack,
        facts: dict[str, Any],
        pooling: str = "mean",
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        both_strands: bool = False,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__(facts, optimizer, scheduler)
        self.tokenizer = tokenizer_from_spec(facts["tokenizer"])
        self.labels: list[str] = facts["labels"]
        self.problem: str = facts["problem"]
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 up to 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.set_both_strands(both_strands)
        self.embedding = nn.Embedding(self.tokenizer.vocab_size, backbone.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.backbone = backbone
        self.head = ClassificationHead(backbone.d_model, len(self.labels), pooling, head_dropout)
        weights = facts.get("class_weights")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.val_predictions, self.test_predictions = Predictions(), Predictions()

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, L) padded right, lengths (B,) → logits (B, C); padding and neighbours have no influence."""
        valid = valid_positions(lengths, ids.shape[1])
        if bool(valid.all()):
            x, _ = self.backbone(self.embedding(ids))
        else:
            x, _ = self.backbone(self.embedding(pack(ids, valid)), cu_seqlens=offsets(lengths))
            x = unpack(x, valid)
        return self.head(x, valid)

    def set_both_strands(self, both_strands: bool) -> None:
        """Raises UserError if the tokenizer has no complement for each id."""
        if both_strands and not isinstance(self.tokenizer, CharacterTokenizer):
            raise UserError("both_strands needs one id a letter", mend="choose data/tokenizer=character")
        self.both_strands = both_strands

    def infer(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits as evaluation and prediction use them: of one strand, or the mean of both; shapes as for `forward`."""
        logits = self(ids, lengths)
        if self.both_strands:
            logits = (logits + self(reverse_complement_ids(ids, lengths), lengths)) / 2
        return logits

    def loss(self, batch: Batch) -> Tensor:  # type: ignore[override]
        logits = self(batch["ids"], batch["lengths"])
        return classification_loss(logits, batch["labels"], self.problem, self.class_weights, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch, self.val_predictions)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch, self.test_predictions)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_predictions)

    def on_test_epoch_end(self) -> None:
        self.test_outputs = self._report("test", self.test_predictions)

    def _collect(self, batch: Batch, predictions: Predictions) -> None:
        predictions.update(batch["index"], self.infer(batch["ids"], batch["lengths"]), batch["labels"])

    def _report(self, split: str, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Log the measures of a split; returns its (index, logits, labels) on the CPU."""
        index, logits, labels = predictions.gathered()
        loss = classification_loss(logits, labels, self.problem)
        values = {"loss": float(loss), **classification_metrics(logits, labels, self.problem)}
        for name, value in values.items():
            self.log(f"{split}/{name}", value, prog_bar=split == "val" and name in ("loss", "auroc"))
        return index, logits, labels


def reverse_complement_ids(ids: Tensor, lengths: Tensor) -> Tensor:
    """The other strand of padded batches of character ids: ids (B, L), lengths (B,) → (B, L), padding in place."""
    complement = torch.from_numpy(CharacterTokenizer.complement_ids.astype("int64")).to(ids.device)
    position = torch.arange(ids.shape[1], device=ids.device)
    source = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return complement[ids.gather(1, source)]
