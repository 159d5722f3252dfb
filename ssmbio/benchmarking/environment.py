"""On what, with what and when something was measured."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import ssmbio

DISTRIBUTIONS = ("torch", "triton", "mamba-ssm", "causal-conv1d", "flash-linear-attention")
SETTINGS_OF_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


def command(module: str) -> str:
    """What was typed: `python -m module` and its arguments."""
    words = list(sys.argv[1:])
    if words:
        words[0] = words[0].removeprefix("what=")  # see `ssmbio/benchmark.py`
    return shlex.join(["python", "-m", module, *words])


def facts(device: str, load_before: float | None) -> dict[str, object]:
    """What a result says of how it was made; `complete` becomes True at the end."""
    return {
        "command": command("ssmbio.benchmark"),
        "date": now(),
        "complete": False,
        "device": device,
        "hardware": hardware(device),
        "load_before": load_before,
        "versions": versions(),
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def load() -> float | None:
    """Processes that were running in the last minute, on average; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def hardware(device: str) -> dict[str, object]:
    """Processor and threads; of a GPU its name, memory, multiprocessors and capability too."""
    facts: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "thread_settings": {name: os.environ[name] for name in SETTINGS_OF_THREADS if name in os.environ},
    }
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts |= {
            "gpu": gpu.name,
            "gpu_memory_gib": round(gpu.total_memory / 2**30, 1),
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
        }
    return facts


def versions() -> dict[str, str | None]:
    """Of Python, ssmbio, CUDA and the packages that are compared; None for one that is not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "ssmbio": ssmbio.__version__,
        "cuda": torch.version.cuda,
    }
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    """The model's name where Linux tells it, else the architecture."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
