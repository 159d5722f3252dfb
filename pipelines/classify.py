"""The base of the classification tasks: from logits to loss and measures, whatever the inputs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ssmbio.backbones import Backbone
from ssmbio.heads import ClassificationHead
from ssmbio.pipelines.base import Pipeline
from ssmbio.training.metrics import Predictions, classification_loss, classification_metrics, mean_logits


class Classify(Pipeline):
    """Embedding → backbone → pooling → one logit a class.

    Subclasses make the embedding and write `forward`, `inputs` (what `forward` takes of a batch), and `collate` (from
    records to a batch, for prediction).

    Args:
        embedding: brings inputs to (B, L, D).
        backbone: maps (B, L, D) to (B, L, D).
        facts: labels, problem (binary, multiclass, multilabel), class_weights or None, and what the subclass needs.
        pooling, head_dropout: see `ClassificationHead`.
        label_smoothing: in [0, 1).
        optimizer, scheduler: see `Pipeline`.
    """

    measures = tuple(f"val/{name}" for name in ("loss", "accuracy", "mcc", "auroc", "auprc", "f1"))
    placed: ClassVar[bool] = True
    """Whether its records have a start, an end and a strand, for tables of predictions."""
    members: nn.ModuleList
    """Other classifiers of the same, whose opinions count as much as its own in evaluation and prediction."""

    def __init__(
        self,
        embedding: nn.Module,
        backbone: Backbone,
        facts: dict[str, Any],
        pooling: str = "mean",
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__(facts, optimizer, scheduler)
        self.labels: list[str] = facts["labels"]
        self.problem: str = facts["problem"]
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 up to 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.embedding = embedding
        self.backbone = backbone
        self.head = ClassificationHead(backbone.d_model, len(self.labels), pooling, head_dropout)
        weights = facts.get("class_weights")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.val_predictions, self.test_predictions = Predictions(), Predictions()
        self.members = nn.ModuleList()

    def collate(self, records: Sequence[Any]) -> Any:
        """Records as prediction reads them → a batch without labels."""
        raise NotImplementedError

    def infer(self, *inputs: Tensor) -> Tensor:
        """Logits (B, C) as evaluation and prediction use them; arguments as for `forward`."""
        return self(*inputs)

    def infer_together(self, *inputs: Tensor) -> Tensor:
        """Logits (B, C) of the mean of the probabilities under this model and its `members`; arguments as `forward`."""
        own = self.infer(*inputs)
        if not self.members:
            return own
        others = [cast(Classify, member).infer(*inputs) for member in self.members]
        return mean_logits([own, *others], self.problem)

    def loss(self, batch: Any) -> Tensor:
        logits = self(*self.inputs(batch))
        return classification_loss(logits, batch["labels"], self.problem, self.class_weights, self.label_smoothing)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._collect(batch, self.val_predictions)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._collect(batch, self.test_predictions)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_predictions)

    def on_test_epoch_end(self) -> None:
        self.test_outputs = self._report("test", self.test_predictions)

    def _collect(self, batch: Any, predictions: Predictions) -> None:
        predictions.update(batch["index"], self.infer_together(*self.inputs(batch)), batch["labels"])

    def _report(self, split: str, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Log the measures of a split; returns its (index, logits, labels) on the CPU."""
        index, logits, labels = predictions.gathered()
        loss = classification_loss(logits, labels, self.problem)
        values = {"loss": float(loss), **classification_metrics(logits, labels, self.problem)}
        for name, value in values.items():
            self.log(f"{split}/{name}", value, prog_bar=split == "val" and name in ("loss", "auroc"))
        return index, logits, labels
