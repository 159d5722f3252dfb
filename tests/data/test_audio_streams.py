"""Carried states: lanes go through clips in order, every sample comes once an epoch, and a stopped epoch goes on."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch

from ssmbio.data.audio import AudioData
from ssmbio.data.audio_clips import AudioBatch, ClipReader
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_folder import AudioFolderSource
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.audio_streams import CarriedPieces, LaneSampler
from ssmbio.data.sampler import TrainingLoader
from ssmbio.errors import UserError

RATE = 8000
FRAMES = [70, 16, 200, 5, 33, 64, 128]
LENGTH = 32
ENCODING = Encoding("linear", 8)


def wave_of(index: int) -> np.ndarray:
    """A ramp, another for every clip."""
    return ((np.arange(FRAMES[index]) * (2 * index + 1) + 20 * index) % 256 / 128 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for index in range(len(FRAMES)):
        for split in ("train", "val"):
            path = root / split / f"{index}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, wave_of(index), RATE, subtype="FLOAT")
    return root


@pytest.fixture
def clips(root: Path) -> AudioSet:
    return AudioFolderSource(root=str(root), sample_rate=RATE).splits()["train"]


def data(root: Path, **settings) -> AudioData:
    source = AudioFolderSource(root=str(root), sample_rate=RATE)
    made = AudioData(
        source, **{"batch_size": 3, "length": LENGTH, "encoding": "linear", "carry": True, "seed": 1, **settings}
    )
    made.setup("fit")
    return made


def epoch_of(loader: TrainingLoader, epoch: int) -> list[AudioBatch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def plain(batches: Iterable[AudioBatch]) -> list[dict]:
    def of(value: object) -> object:
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return [{key: of(value) for key, value in batch.items()} for batch in batches]


def test_an_epoch_has_every_sample_once(root: Path) -> None:
    loader = data(root).train_dataloader()
    for epoch in range(4):
        found = [np.full(frames, -1) for frames in FRAMES]
        batches = epoch_of(loader, epoch)
        assert len(batches) == len(loader) == 7  # 20 pieces on 3 lanes
        for batch in batches:
            assert batch["codes"].shape[0] == 3
            for codes, n, index, start in zip(
                batch["codes"], batch["lengths"], batch["index"], batch["start"], strict=True
            ):
                if not n:
                    assert index == -1
                    continue
                place = found[index][start : start + n]
                assert (place == -1).all()
                place[:] = codes[:n]
                assert (codes[n:] == ENCODING.zero).all()
        for index, codes in enumerate(found):
            np.testing.assert_array_equal(codes, ENCODING.encode(wave_of(index)))


def test_lanes_go_on_where_they_were_unless_fresh(root: Path) -> None:
    loader = data(root).train_dataloader()
    carried = 0
    for epoch in range(4):
        before = None
        for batch in epoch_of(loader, epoch):
            for b in range(3):
                n, index, start = (int(batch[key][b]) for key in ("lengths", "index", "start"))
                if before is None or n == 0 or start == 0:
                    assert batch["fresh"][b]
                    continue
                assert not batch["fresh"][b]
                # The row before is the piece before, whole: the state after it is that of the sample before this one.
                assert (before["index"][b], before["start"][b] + before["lengths"][b]) == (index, start)
                assert before["lengths"][b] == before["codes"].shape[1] == LENGTH
                carried += 1
            before = batch
    assert carried > 4 * 7  # of 20 pieces an epoch, 7 begin a clip and at most 3 a lane


def test_few_long_clips_keep_all_lanes_busy(tmp_path: Path) -> None:
    for index, frames in enumerate([1000, 17]):
        path = tmp_path / "train" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(frames), RATE)
    clips = AudioFolderSource(root=str(tmp_path), sample_rate=RATE).splits()["train"]
    pieces = CarriedPieces(ClipReader(clips, ENCODING), LENGTH)
    assert len(pieces) == 33
    for epoch in range(3):
        sampler = LaneSampler(pieces, batch_size=4, seed=2)
        assert len(sampler) == 9 * 4
        order = sampler.order(epoch).reshape(9, 4)
        assert [(column >= 0).sum() for column in order.T] == [9, 8, 8, 8]
        assert (order[:8] >= 0).all()


def test_epochs_differ_and_repeat_with_the_seed(root: Path) -> None:
    first, again, other = (data(root, seed=seed).train_dataloader() for seed in (1, 1, 2))
    epochs = [plain(epoch_of(first, epoch)) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert plain(epoch_of(again, 2)) == epochs[2]  # no matter what was read before
    assert plain(epoch_of(other, 0)) != epochs[0]


def test_workers_change_nothing(root: Path) -> None:
    alone, helped = data(root).train_dataloader(), data(root, num_workers=2).train_dataloader()
    assert plain(epoch_of(helped, 1)) == plain(epoch_of(alone, 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 6, 7])
def test_a_stopped_epoch_goes_on(root: Path, workers: int, done: int) -> None:
    whole = [plain(epoch_of(data(root).train_dataloader(), epoch)) for epoch in range(3)]
    stopped = data(root, num_workers=workers).train_dataloader()
    stopped.sampler.set_epoch(1)
    batches = iter(stopped)
    for _ in range(done):
        next(batches)
    state = stopped.state_dict()
    assert (state["epoch"], state["batches"]) == (1, done)

    resumed = data(root, num_workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    assert plain(resumed) == whole[1][done:]
    assert plain(epoch_of(resumed, 2)) == whole[2]
    assert plain(epoch_of(resumed, 1)) == whole[1]


class Recorder(pl.LightningModule):
    """Writes down the batches it is trained on, and saves or fails at given steps."""

    def __init__(self, save_at: int = -1, fail_at: int = -1, path: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps: list[dict] = []
        self.save_at, self.fail_at, self.path = save_at, fail_at, path

    def training_step(self, batch: AudioBatch, batch_idx: int):
        if self.trainer.global_step == self.fail_at:
            raise RuntimeError("killed")
        self.steps += plain([batch])
        return self.weight * 0

    def on_train_batch_end(self, *_: object) -> None:
        if self.trainer.global_step == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Recorder, root: Path, ckpt: Path | None = None) -> Recorder:
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data(root), ckpt_path=ckpt, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_the_pieces_that_come_next(root: Path, tmp_path: Path) -> None:
    whole = fit(Recorder(), root).steps
    assert len(whole) == 21
    path = tmp_path / "saved.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        fit(Recorder(9, 12, path), root)
    assert fit(Recorder(), root, path).steps == whole[9:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 4}, "with batch_size 3; it is 4 now; resume with the same batch_size, or start from it"),
        ({"length": 64}, "with length 32; it is 64 now; resume with the same length"),
        ({"length": 34, "pad_to": 2}, "with length 32; it is 34 now"),  # there are as many pieces as before
        ({"carry": False}, "with carry True; it is False now; resume with the same carry"),
    ],
)
def test_resuming_with_other_pieces_is_refused_within_an_epoch(root: Path, settings: dict, message: str) -> None:
    state = {**data(root).train_dataloader().state_dict(), "batches": 3}
    other = data(root, **settings)
    with pytest.raises(UserError, match=f"the checkpoint was taken within an epoch, {message}"):
        other.train_dataloader().load_state_dict(state)
    for done in (0, state["of"]):
        other.train_dataloader().load_state_dict({**state, "batches": done})
    state = {**other.train_dataloader().state_dict(), "batches": 3}
    with pytest.raises(UserError, match="the checkpoint was taken within an epoch, with "):
        data(root).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_devices_have_lanes_of_their_own(clips: AudioSet, devices: int) -> None:
    pieces = CarriedPieces(ClipReader(clips, ENCODING), LENGTH)
    samplers = [LaneSampler(pieces, batch_size=3, seed=1, num_replicas=devices, rank=rank) for rank in range(devices)]
    parts = [list(sampler) for sampler in samplers]
    steps = -(-20 // (3 * devices))
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers] == [3 * steps] * devices
    assert sorted(piece for part in parts for piece, _ in part if piece >= 0) == list(range(20))
    for part in parts:
        for lane in range(3):
            own = part[lane::3]
            assert own[0].fresh
            for one, after in itertools.pairwise(own):
                begins = after.number < 0 or pieces.place(after.number)[1] == 0
                assert after.fresh == begins
                assert begins or after.number == one.number + 1
    # Where the last batch cannot be filled, devices share what is left.
    if devices == 2:
        assert [sum(piece < 0 for piece, _ in part) for part in parts] == [2, 2]


def test_lanes_pickle(root: Path) -> None:
    made = data(root)
    again = pickle.loads(pickle.dumps(made.train))
    item = list(made.sampler())[4]
    assert torch.equal(made.collate([made.train[item]])["codes"], made.collate([again[item]])["codes"])


def test_evaluation_and_overfitting_do_not_carry(root: Path) -> None:
    made = data(root)
    batches = list(made.val_dataloader())
    assert sum(int(batch["lengths"].sum()) for batch in batches) == sum(FRAMES)
    assert all(batch["fresh"].all() for batch in batches)
    made.trainer = pl.Trainer(overfit_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert all(batch["fresh"].all() for batch in made.train_dataloader())
    assert "fresh" not in next(iter(data(root, carry=False).val_dataloader()))


def test_the_length_of_carried_pieces_fits_the_pools(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"length 40 with carry=true; set data\.length to a multiple of data\.pad_to = 16"
    ):
        data(root, length=40)
    assert data(root, length=40, carry=False).length == 40
    assert data(root, length=40, pad_to=8).length == 40
