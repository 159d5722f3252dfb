"""What has to be settled before torch and Triton are imported, and which tests this machine can run."""

import os
import sys
from pathlib import Path

# A waiting thread soon sleeps instead of spinning on: with other processes on the cores, spinning costs a hundred times
# more, and on a quiet machine sleeping at once would take twice as long.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Products on a GPU repeat bit for bit.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # audio_commands.py, audio_generate_cases.py

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when a kernel is defined


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
