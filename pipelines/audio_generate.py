"""Autoregressive models of waveforms as codes: SaShiMi's task (Goel, Gu, Donahue and Ré, arXiv 2202.09729)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmbio.backbones import Backbone
from ssmbio.data.audio_clips import AudioBatch
from ssmbio.data.audio_codes import Encoding
from ssmbio.errors import UserError
from ssmbio.heads import code_embedding, code_logits
from ssmbio.packing import valid_positions
from ssmbio.pipelines.base import Pipeline

CARRIED_KEY = "carried"


class AudioGenerate(Pipeline):
    """Embedding of codes → causal backbone → a distribution of the next code; the loss is in bits a sample.

    Args:
        backbone: causal, maps (B, L, D) to (B, L, D) and has steps.
        facts: audio, with sample_rate, length and encoding.
        carry: each training piece goes on from the state after the piece before it (truncated backpropagation through
            time); the data must come in order, as they do with `data.carry=true`.
        optimizer, scheduler: see `Pipeline`.

    Attributes:
        test_outputs: after a test, of each clip its place in the split, its samples, and their bits, (n,) each.

    Raises:
        UserError: a bidirectional backbone, facts of other data, or a carry whose pieces would end within a pool.
    """

    task_name = "audio_generate"
    loss_unit = "bits a sample"
    reads = "audio"
    measures = ("val/loss", "val/accuracy")

    def __init__(
        self,
        backbone: Backbone,
        facts: dict[str, Any],
        carry: bool = False,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__(facts, optimizer, scheduler)
        audio = audio_facts(facts, self.task_name, "encoding")
        if not backbone.causal:
            raise UserError(
                "a bidirectional model cannot generate: it would see the samples it is to predict",
                mend="choose a causal mixer, as model/mixer=s4d, with bidirectional=false",
            )
        self.sample_rate: int = audio["sample_rate"]
        self.encoding = Encoding.from_facts(audio["encoding"])
        self.levels = self.encoding.levels
        self.period: int = backbone.period
        if carry and audio["length"] % self.period:
            raise UserError(
                f"data.carry=true with data.length={audio['length']}, whose pieces end within a pool of {self.period}",
                mend=f"set data.length to a multiple of {self.period}",
            )
        self.carry = carry
        self.embedding = code_embedding(self.levels, backbone.d_model)
        self.backbone = backbone
        self.head = code_logits(backbone.d_model, self.levels)
        self._carried: tuple[Tensor, Any] | None = None  # the last codes (B,), and the state after those before them
        self._test_rows: list[Tensor] = []

    def forward(self, codes: Tensor) -> Tensor:
        """codes (B, L) → logits (B, L, levels); those at t have seen the codes before t alone."""
        return self._logits(self._shifted(codes), None)[0]

    def prefill(self, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A stretch of inputs at once, in place of L steps: codes (B, L) → logits (B, L, levels) and the state.

        The logits at i are those of the code that follows `codes[:, i]`. A clip's first input is `encoding.zero`.
        """
        logits, state = self._logits(codes, state)
        return logits.float(), state

    def step(self, codes: Tensor, state: Any) -> tuple[Tensor, Any]:
        """codes (B,) and the state before them → logits (B, levels) of the codes that follow, and the new state."""
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y).float(), state

    def initial_state(self, batch_size: int) -> Any:
        return self.backbone.initial_state(batch_size)

    def bits(self, codes: Tensor) -> Tensor:
        """codes (B, L) → (B, L), minus the logarithm to base 2 of each code's probability after those before it."""
        return _bits(self(codes), codes)

    def inputs(self, batch: AudioBatch) -> tuple[Tensor, ...]:
        return (batch["codes"].long(),)

    def static_forward(self, batch: AudioBatch) -> bool:
        """As that of `Pipeline`; with a carried state the loss does not call `forward`."""
        return not self.carry

    def loss(self, batch: AudioBatch) -> Tensor:
        """Mean bits a sample over the samples of a batch; padding counts for nothing."""
        codes, valid = self._codes(batch)
        if not self.carry:
            return _mean_over(self.bits(codes), valid)
        before, state = self._before(codes, batch["fresh"])
        logits, state = self._logits(self._shifted(codes, before), state)
        last = codes.gather(1, (batch["lengths"] - 1).clamp(min=0)[:, None])[:, 0]
        self._carried = last, pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, state)
        return _mean_over(_bits(logits, codes), valid)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        codes, valid = self._codes(batch)
        logits = self(codes)
        count = int(valid.sum())
        hits = (logits.argmax(-1) == codes) & valid
        self.log("val/loss", _mean_over(_bits(logits, codes), valid), batch_size=count, prog_bar=True, sync_dist=True)
        self.log("val/accuracy", hits.sum() / count, batch_size=count, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self._test_rows = []

    def test_step(self, batch: AudioBatch, batch_idx: int) -> None:
        codes, valid = self._codes(batch)
        total = (self.bits(codes) * valid).sum(1, dtype=torch.float64)
        rows = torch.stack([batch["index"].double(), batch["start"].double(), batch["lengths"].double(), total], 1)
        gathered = torch.as_tensor(self.all_gather(rows))
        self._test_rows.append(gathered.reshape(-1, 4).cpu())

    def on_test_epoch_end(self) -> None:
        # Several devices fill their batches up with pieces that come again.
        rows = torch.cat(self._test_rows)
        _, first = np.unique(rows[:, :2].numpy(), axis=0, return_index=True)
        clips, place = rows[torch.from_numpy(first), 0].unique(return_inverse=True)
        lengths, bits = (
            torch.zeros(len(clips), dtype=torch.float64).index_add_(0, place, rows[torch.from_numpy(first), column])
            for column in (2, 3)
        )
        self.test_outputs = clips.long(), lengths.long(), bits
        self.log("test/nll_bits", bits.sum() / lengths.sum())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._carried is not None:
            leaves = [leaf for leaf in pytree.tree_leaves(self._carried[1]) if isinstance(leaf, Tensor)]
            checkpoint[CARRIED_KEY] = [self._carried[0], *leaves]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(CARRIED_KEY)
        if not self.carry or not saved:
            return
        last, *leaves = (leaf.to(self.device) for leaf in saved)
        # Pieces are whole periods, so the structure of the state is that of a start.
        kept, structure = pytree.tree_flatten(self.initial_state(len(last)))
        given = iter(leaves)
        state = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in kept]
        self._carried = last, pytree.tree_unflatten(state, structure)

    def _codes(self, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        """Codes (B, L) int64, and which of them are samples."""
        (codes,) = self.inputs(batch)
        return codes, valid_positions(batch["lengths"], codes.shape[1])

    def _shifted(self, codes: Tensor, before: Tensor | None = None) -> Tensor:
        """The inputs that go with these targets: each one's predecessor; `before` (B,) is that of the first."""
        first = torch.full_like(codes[:, :1], self.encoding.zero) if before is None else before[:, None]
        return torch.cat([first, codes[:, :-1]], 1)

    def _logits(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.backbone(self.embedding(inputs), state)
        return self.head(y), state

    def _before(self, codes: Tensor, fresh: Tensor) -> tuple[Tensor, Any]:
        """The code and the state before each row: carried ones, or those of a start where a row is fresh."""
        start = torch.full_like(codes[:, 0], self.encoding.zero)
        # All rows begin anew with an epoch: the last batch of the one before may have ended within a pool.
        if self._carried is None or bool(fresh.all()):
            return start, None
        last, state = self._carried

        def cleared(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return leaf.masked_fill(fresh.view(-1, *(1 for _ in leaf.shape[1:])), 0)

        return torch.where(fresh, start, last), pytree.tree_map(cleared, state)


def audio_facts(facts: Mapping[str, Any], task: str, *needed: str) -> dict[str, Any]:
    """The facts of audio data.

    Raises:
        UserError: they are of other data, or lack one of `needed`.
    """
    audio = facts.get("audio")
    if audio is None:
        raise UserError(f"these data are not audio, which {task} needs", mend="choose data=audio_folder")
    for name in needed:
        if name not in audio and name not in facts:
            raise UserError(
                f"these audio data have no {name}, which {task} needs",
                mend="leave data/datamodule out: the task brings its own",
            )
    return dict(audio)


def _bits(logits: Tensor, codes: Tensor) -> Tensor:
    """logits (B, L, levels), codes (B, L) → (B, L) bits."""
    nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    return nats.view_as(codes) / math.log(2)


def _mean_over(bits: Tensor, valid: Tensor) -> Tensor:
    return (bits * valid).sum() / valid.sum().clamp(min=1)
