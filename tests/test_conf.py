"""Every shipped configuration composes, and what it names can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ssmbio.build import build_pipeline, check_targets
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.training.setup import build_enabled, build_trainer

CONF = Path(__file__).parent.parent / "conf"
LABELS = {"labels": ["a", "b"], "problem": "binary"}
FACTS = {"tokenizer": CharacterTokenizer().spec(), "max_length": 100, **LABELS}
PIXELS = {"image": {"shape": [3, 4, 1], "size": None, "mean": [0.5], "std": [0.2], "order": None}, **LABELS}

AUDIO = {"audio": {"sample_rate": 8000, "length": 32, "encoding": Encoding().plain()}, **LABELS}
IDS = (torch.randint(7, 11, (2, 12)), torch.tensor([12, 5]))
# Of each task: what its data say, inputs, and the shape of what the model makes of them.
TASKS = {
    "dna_classify": (FACTS, IDS, (2, 2)),
    "sequence_classify": (FACTS, IDS, (2, 2)),
    "pixel_classify": (PIXELS, (torch.randint(0, 256, (2, 3, 4, 1), dtype=torch.uint8),), (2, 2)),
    "audio_classify": (AUDIO, (torch.rand(2, 12), torch.tensor([12, 5])), (2, 2)),
    "audio_generate": (AUDIO, (torch.randint(0, 256, (2, 12)),), (2, 12, 256)),
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str):
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize("mixer", choices("model/mixer"))
@pytest.mark.parametrize("task", choices("task"))
def test_every_task_with_every_mixer(task, mixer):
    config = composed(f"task={task}", f"model/mixer={mixer}", "model.d_model=8", "model.n_layers=1", "run_dir=x")
    check_targets(OmegaConf.to_container(config.model, resolve=True))
    check_targets(OmegaConf.to_container(config.task, resolve=True))
    facts, inputs, shape = TASKS[task]
    if task == "audio_generate" and mixer == "bimamba":
        with pytest.raises(InstantiationException, match="cannot generate"):
            build_pipeline(config, facts)
        return
    assert build_pipeline(config, facts)(*inputs).shape == shape


@pytest.mark.parametrize("scheduler", choices("scheduler"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_optimizer_with_every_schedule(optimizer, scheduler):
    config = composed("task=dna_classify", f"optimizer={optimizer}", f"scheduler={scheduler}")
    parameter = torch.nn.Parameter(torch.ones(1))
    made = instantiate(config.optimizer)([{"params": [parameter]}])
    schedule = instantiate(config.scheduler)(made, total_steps=10)
    parameter.sum().backward()
    for _ in range(10):
        made.step()
        schedule.step()
    assert parameter.item() < 1


@pytest.mark.parametrize("callbacks", choices("callbacks"))
@pytest.mark.parametrize("trainer", choices("trainer"))
def test_every_trainer_with_all_its_callbacks_enabled(trainer, callbacks, tmp_path):
    config = composed("task=dna_classify", f"trainer={trainer}", f"callbacks={callbacks}", f"run_dir={tmp_path}")
    for node in config.callbacks.values():
        if hasattr(node, "enabled"):
            node.enabled = True
    built = build_enabled(config.callbacks)
    assert len(built) == sum(1 for node in config.callbacks.values() if hasattr(node, "_target_"))
    made = build_trainer(config, built, build_enabled(config.logger))
    assert made.max_epochs == config.trainer.max_epochs
    assert all(callback.monitor.startswith("val/") for callback in built if getattr(callback, "monitor", None))


@pytest.mark.parametrize("name", [f"{group}={name}" for group in ("experiment", "debug") for name in choices(group)])
def test_every_recipe_composes(name):
    config = composed("task=dna_classify", name, "run_dir=x")
    assert instantiate(config.model).d_model == config.model.d_model


def test_what_the_command_line_says_wins_over_task_and_recipe():
    config = composed("task=dna_classify", "debug=fast", "trainer.max_epochs=7", "data=table", "model/mixer=mamba")
    assert config.trainer.max_epochs == 7
    assert config.data.datamodule.source._target_.endswith("TableSource")
    assert config.model.mixer._target_.endswith(".Mamba")
