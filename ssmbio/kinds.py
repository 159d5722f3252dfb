"""Which of the kinds of data, sequences, images or audio, a configuration gives and a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig

EXAMPLES = {
    "sequences": "data=table",
    "images": "data=image_folder data.root=<folder>",
    "audio": "data=audio_folder data.root=<folder>",
}
"""A choice of data of each kind, for messages."""


def kind_of_data(data: DictConfig) -> str:
    """What a configuration of data gives."""
    if "tokenizer" in data:
        return "sequences"
    return "audio" if "sample_rate" in data else "images"


def unit_of_data(data: DictConfig) -> str:
    """What a sequence of these data is counted in: bases, or tokens of another alphabet."""
    try:
        target = resolve_name(str(data.tokenizer.get("_target_")))
    except (ImportError, ValueError, AttributeError):  # whoever builds it tells what is wrong
        return "bases"
    return getattr(getattr(target, "__self__", target), "unit", "bases")  # of BpeTokenizer.from_file the class


def kind_of_facts(facts: Mapping[str, Any]) -> str:
    """What a model with these facts takes."""
    return "audio" if "audio" in facts else "images" if "image" in facts else "sequences"


def inputs_of(facts: Mapping[str, Any]) -> str:
    """What its embedding reads: of audio codes or samples."""
    kind = kind_of_facts(facts)
    if kind != "audio":
        return kind
    return "codes of audio" if "encoding" in facts["audio"] else "samples of audio"
