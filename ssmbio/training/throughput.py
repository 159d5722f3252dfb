"""How fast training ran: sequences and positions per second, validation left out, loading of data included."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Counts training sequences, their positions and the seconds they took; all go on where a resumed run stopped.

    Attributes:
        sequences: seen in training, on all devices.
        positions: of those sequences, padding left out: bases, tokens or samples; 0 for images.
        training_seconds: between the start and the end of training, validation left out.
        seconds: since the start of the run.
    """

    def __init__(self) -> None:
        self.sequences = 0
        self.positions: int | torch.Tensor = 0  # on the device while training runs, so that counting waits for nothing
        self.training_seconds = 0.0
        self._running_since: float | None = None
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def sequences_per_second(self) -> float:
        return self.sequences / self.training_seconds if self.training_seconds else float("nan")

    def rates(self) -> dict[str, float]:
        """Sequences and, where they have lengths, positions a second."""
        rates = {"train/sequences_per_second": self.sequences_per_second}
        if positions := int(self.positions):
            rates["train/positions_per_second"] = (
                positions / self.training_seconds if self.training_seconds else float("nan")
            )
        return rates

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running_since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running_since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.sequences += len(batch["index"]) * trainer.world_size
        if "lengths" in batch:
            self.positions = self.positions + batch["lengths"].sum() * trainer.world_size

    def _stop(self) -> None:
        if self._running_since is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.training_seconds += time.perf_counter() - self._running_since
        self._running_since = None

    def state_dict(self) -> dict[str, Any]:
        running = 0.0 if self._running_since is None else time.perf_counter() - self._running_since
        return {
            "sequences": self.sequences,
            "positions": int(self.positions),
            "training_seconds": self.training_seconds + running,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sequences, self.training_seconds = state_dict["sequences"], state_dict["training_seconds"]
        self.positions = state_dict.get("positions", 0)
        self._begun = time.perf_counter() - state_dict["seconds"]
