"""How fast training ran: sequences per second, validation and checkpointing left out."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Counts training sequences and the seconds between the start and the end of their steps."""

    def __init__(self) -> None:
        self.sequences = 0
        self.seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds += time.perf_counter() - self._started
        self.sequences += len(batch["index"]) * trainer.world_size

    @property
    def sequences_per_second(self) -> float:
        return self.sequences / self.seconds if self.seconds else float("nan")
