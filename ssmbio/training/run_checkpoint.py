"""Checkpoints of a run: written whole, and the best of them known again where the run's folder has moved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from ssmbio.files import whole_file


class WholeFiles(TorchCheckpointIO):
    """Each file is made beside the one it takes the place of.

    Lightning makes it in the folder for temporary files, and a move from another disk is a copy: where that ends in
    between, neither the old checkpoint nor the new one is left.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        data = io.BytesIO()
        torch.save(checkpoint, data)
        with whole_file(path, "wb") as file:
            file.write(data.getbuffer())


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, whose memory of the best checkpoint moves with the run's folder."""

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))

        def moved(path: str) -> str:
            here = folder / Path(path).name
            return str(here) if path and here.is_file() else path

        best = moved(state_dict.get("best_model_path", ""))
        if Path(best).parent == folder:  # else it is another run that this one begins from
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": best,
                "last_model_path": moved(state_dict.get("last_model_path", "")),
                "kth_best_model_path": moved(state_dict.get("kth_best_model_path", "")),
                "best_k_models": {moved(path): score for path, score in state_dict.get("best_k_models", {}).items()},
            }
        super().load_state_dict(state_dict)
