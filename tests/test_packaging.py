"""What is in the tree is in the wheel, and every way of installing works from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 has no TOML reader of its own")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"conf": "ssmbio.conf", "data": "ssmbio.data", "kernels": "ssmbio.kernels", "pipelines": "ssmbio.pipelines"}


def packages_in_the_tree() -> set[str]:
    found = set()
    for top in ("ssmbio", *MAPPED):
        for marker in (ROOT / top).rglob("__init__.py"):
            parts = marker.parent.relative_to(ROOT).parts
            found.add(".".join([MAPPED.get(parts[0], parts[0]), *parts[1:]]))
    return found


def test_every_package_is_listed():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_every_folder_with_configurations_is_a_package():
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert (file.parent / "__init__.py").is_file(), f"{file.parent} would vanish from the wheel"


def test_readme_and_constraints_agree_on_what_is_pinned():
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirement in PROJECT["project"]["dependencies"]:
        name = requirement.split(";")[0].split(">")[0].split("<")[0].split("=")[0].strip()
        assert name in pinned, f"{name} has no tested version in constraints.txt"


SMOKE = """
import ssmbio, sys
from hydra import compose, initialize_config_module
import ssmbio.kernels.selective_scan, ssmbio.data.sources, ssmbio.pipelines, ssmbio.train
with initialize_config_module("ssmbio.conf", version_base="1.3"):
    config = compose("train", ["task=dna_classify", "model/mixer=mamba"])
assert config.model.mixer._target_ == "ssmbio.mixers.Mamba", config.model.mixer
bare = [name for name in ("kernels", "data", "pipelines", "conf") if name in sys.modules]
assert not bare, bare
print("smoke", ssmbio.__file__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["folder", "editable", "wheel"])
def test_installed_package_works_from_another_folder(way, tmp_path):
    """Installs into a fresh environment that sees this one's libraries, but not this one's ssmbio."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*/site-packages"))
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    environment.pop("SSMBIO_CACHE", None)
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())

    def pip(*arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--quiet", *arguments, "--no-deps", "--no-build-isolation"]
        subprocess.run(command, cwd=tmp_path, check=True, env=environment)

    target = ["--python", str(python)]
    if way == "wheel":
        pip("wheel", str(source), "--wheel-dir", str(tmp_path))
        pip(*target, "install", str(next(tmp_path.glob("ssmbio-*.whl"))))
    elif way == "editable":
        pip(*target, "install", "--editable", str(source))
    else:
        pip(*target, "install", str(source))
    if way != "editable":
        assert not (site / "kernels").exists()
        assert (site / "ssmbio" / "kernels" / "__init__.py").is_file()
    # The new environment's own site-packages come before this one's, which holds another ssmbio.
    paths = os.pathsep.join([str(site), sysconfig.get_paths()["purelib"]])
    check = subprocess.run(
        [python, "-c", SMOKE], cwd="/", env={**environment, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr
    used = Path(check.stdout.split("smoke ")[1].strip()).resolve()
    assert used.is_relative_to((source if way == "editable" else home).resolve())
