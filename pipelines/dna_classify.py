"""Classification of DNA sequences: binary, multi-class or multi-label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ssmbio.backbones import Backbone
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.errors import UserError
from ssmbio.pipelines.sequence_classify import SequenceClassify


class DnaClassify(SequenceClassify):
    """Embedding → backbone → pooling → one logit a class, of one strand or of both.

    Args:
        backbone: maps (B, L, D) to (B, L, D).
        facts: tokenizer, labels, problem (binary, multiclass, multilabel), max_length, and class_weights or None.
        pooling, head_dropout: see `ClassificationHead`.
        label_smoothing: in [0, 1).
        both_strands: evaluate and predict with the mean of the logits of a sequence and its reverse complement
            ("post-hoc conjoining", Caduceus, section 4.2).
        optimizer, scheduler: see `Pipeline`.

    Raises:
        UserError: facts of images, or of tokens that are not of DNA.
    """

    task_name = "dna_classify"
    placed: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        facts: dict[str, Any],
        pooling: str = "mean",
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        both_strands: bool = False,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__(backbone, facts, pooling, head_dropout, label_smoothing, optimizer, scheduler)
        if self.tokenizer.unit != "bases":
            raise UserError("these data are not DNA", mend="choose task=sequence_classify")
        self.both_strands = both_strands

    def set_both_strands(self, both_strands: bool) -> None:
        """Whether `infer` takes the mean of both strands, of this model and its members."""
        self.both_strands = both_strands
        for member in self.members:
            cast(DnaClassify, member).set_both_strands(both_strands)

    def infer(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Logits as evaluation and prediction use them: of one strand, or the mean of both; shapes as for `forward`."""
        logits = self(ids, lengths)
        if self.both_strands:
            if lengths is None:
                lengths = torch.full_like(ids[:, 0], ids.shape[1])
            logits = (logits + self(*self.other_strand(ids, lengths))) / 2
        return logits

    def other_strand(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, L), lengths (B,) → those of the reverse complements; words of several letters may fall otherwise."""
        if isinstance(self.tokenizer, CharacterTokenizer):
            return reverse_complement_ids(ids, lengths), lengths
        rows = [row[:n] for row, n in zip(ids.cpu().numpy(), lengths.tolist(), strict=True)]
        turned = [torch.from_numpy(self.tokenizer.reverse_complement_ids(row)).long() for row in rows]
        padded = nn.utils.rnn.pad_sequence(turned, batch_first=True, padding_value=self.tokenizer.pad_id)
        return padded.to(ids.device), torch.tensor([len(row) for row in turned], device=ids.device)


def reverse_complement_ids(ids: Tensor, lengths: Tensor) -> Tensor:
    """The other strand of padded batches of character ids: ids (B, L), lengths (B,) → (B, L), padding in place."""
    complement = torch.from_numpy(CharacterTokenizer.complement_ids.astype("int64")).to(ids.device)
    position = torch.arange(ids.shape[1], device=ids.device)
    source = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return complement[ids.gather(1, source)]
