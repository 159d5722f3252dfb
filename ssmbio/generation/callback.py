"""A few clips at the end of training, so that a run folder can be listened to."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ssmbio.errors import UserError
from ssmbio.generation.clip_files import ClipFolder, check_folder, prepare_folder
from ssmbio.generation.clips import generate_clips
from ssmbio.generation.page import write_page
from ssmbio.pipelines import AudioGenerate


class WriteClips(Callback):
    """Writes clips, their table and their page after the test, of the weights that were tested.

    Args:
        folder: where to.
        n: how many.
        seconds: of each; None is the length of training.
        seed: of the draws.
    """

    def __init__(self, folder: str, n: int = 4, seconds: float | None = None, seed: int = 0) -> None:
        if type(n) is not int or n < 1 or (seconds is not None and not seconds > 0):
            raise UserError(f"{n} clips of {seconds} seconds", mend="set callbacks.clips.n and seconds above 0")
        self.folder, self.n, self.seconds, self.seed = Path(folder), n, seconds, seed

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, AudioGenerate):
            return
        model, rate = pl_module, pl_module.sample_rate
        samples = model.facts["audio"]["length"] if self.seconds is None else max(1, round(self.seconds * rate))
        check_folder(self.folder, True, [])
        prepare_folder(self.folder)
        with ClipFolder(self.folder, rate, model.encoding, self.n) as clips:
            for clip in generate_clips(model, n=self.n, samples=samples, seed=self.seed, batch_size=self.n):
                clips.add(clip)
        shown = {"Length": f"{samples / rate:.6g} s", "Sample rate": f"{rate:,} Hz", "Seed": str(self.seed)}
        run = self.folder.parent
        best, last = (run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
        ckpt = run if best.exists() else last  # without a validation there is no best one, and the last was tested
        made = f"n={self.n} samples={samples} seed={self.seed} out={self.folder} overwrite=true"
        typed = f"python -m ssmbio.generate ckpt={ckpt} {made}"
        write_page(self.folder, clips.clips, rate, shown, source=str(run), command=typed)
