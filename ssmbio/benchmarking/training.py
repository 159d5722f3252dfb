"""Training steps of an audio model on random codes, as the trainer makes them: loss, gradients, optimizer."""

from __future__ import annotations

import torch

from ssmbio.data.audio_clips import AudioBatch
from ssmbio.pipelines import AudioGenerate
from ssmbio.training.graphed import graph_forward
from ssmbio.training.optimizer import parameter_groups

PLAIN, GRAPHS, CHECKPOINTING = WAYS = ("plain", "graphs", "checkpointing")
"""How a step runs: as it is; with forward and backward pass as CUDA graphs; with layers recomputed in the latter."""


class TrainingStep:
    """One step a call, always on the same batch; the weights move as they do in training.

    Args:
        pipeline: with an optimizer, on its device.
        batch: of full clips, on that device.
        dtype: autocast to it, unless it is float32.
        graphs: the first call captures forward and backward pass, and the others replay them (`callbacks.graphs`).
    """

    def __init__(self, pipeline: AudioGenerate, batch: AudioBatch, dtype: torch.dtype, graphs: bool = False) -> None:
        assert pipeline.make_optimizer is not None
        self._pipeline, self._batch, self._dtype = pipeline.train(), batch, dtype
        self._optimizer = pipeline.make_optimizer(parameter_groups(pipeline))
        self._to_capture = graphs

    def __call__(self) -> None:
        if self._to_capture:
            graph_forward(self._pipeline, self._pipeline.inputs(self._batch), self._autocast)
            self._to_capture = False
        with self._autocast():
            loss = self._pipeline.loss(self._batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def _autocast(self) -> torch.autocast:
        # Without a cache of cast weights, as in the trainer: graphs could not hold it.
        kind = self._pipeline.device.type
        return torch.autocast(kind, self._dtype, enabled=self._dtype != torch.float32, cache_enabled=False)


def random_batch(clips: int, length: int, levels: int, device: str) -> AudioBatch:
    """Codes (B, L), all of them samples."""
    zeros = torch.zeros(clips, dtype=torch.int64, device=device)
    return AudioBatch(
        codes=torch.randint(levels, (clips, length), dtype=torch.uint8, device=device),
        lengths=zeros + length,
        index=torch.arange(clips, device=device),
        start=zeros,
        full=True,
    )
