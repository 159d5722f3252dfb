"""The progress bar: Lightning's, less what means nothing to who watches it."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

_SECONDS = 0.2  # between two looks at the loss: each makes a GPU wait


class ProgressBar(RichProgressBar):
    """Lightning's Rich progress bar without the logger's version number, brought up to date a few times a second."""

    _shown_at = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if now - self._shown_at >= _SECONDS or batch_idx + 1 >= self.total_train_batches:
            self._shown_at = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
