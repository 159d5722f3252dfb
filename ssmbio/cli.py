"""What every entry point shares: Hydra composes the configuration; a user's fault is one line and exit code 1."""

from __future__ import annotations

import difflib
import errno
import functools
import logging
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssmbio.errors import UserError

CONFIG_PACKAGE = "pkg://ssmbio.conf"
# What takes less memory, by command; elsewhere the batch size.
_LESS_MEMORY = {
    "train": "set data.batch_size lower, model.activation_checkpointing=true, shorter sequences or a smaller model",
    "evaluate": "set data.eval_batch_size lower",
    "generate": "make fewer clips side by side with batch_size, or shorter ones",
}
# Commands that take data and model as a checkpoint has them.
_FROM_CHECKPOINTS = ("predict", "generate", "audio_quality")
# What a class raises for a value it cannot take; anything else while building is a fault of ours.
_FAULTS_OF_A_VALUE = (UserError, ValueError, TypeError)
# How Hydra begins what it says of a `_target_` that names no class.
_NO_TARGET = ("Error locating target", "Expected a callable target")


def run(config_name: str, command: Callable[[DictConfig], Any]) -> None:
    """Parse the command line, compose `conf/<config_name>.yaml`, call `command`; exit with 1 on a user's fault."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise, so that the message is ours to write
    quiet_libraries()

    @functools.wraps(command)
    def guarded(config: DictConfig) -> Any:
        # Caught here and not around Hydra, which would print a line of its own first.
        with one_line_errors(config_name):
            return command(config)

    with one_line_errors(config_name):
        hydra.main(version_base="1.3", config_path=CONFIG_PACKAGE, config_name=config_name)(guarded)()
        sys.stdout.flush()  # what fails, fails here


@contextmanager
def one_line_errors(config_name: str) -> Iterator[None]:
    """Turn faults of the user into one line on standard error and exit code 1; let faults of ours through."""
    try:
        yield
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__
        if isinstance(error, InstantiationException) and cause is not None and is_out_of_memory(cause):
            fail_for_memory(cause, config_name)
        named_wrong = str(error).startswith(_NO_TARGET)
        if isinstance(error, InstantiationException) and not named_wrong and not isinstance(cause, _FAULTS_OF_A_VALUE):
            raise
        fail(explain_configuration_error(error, config_name, sys.argv[1:]))
    except OSError as error:
        if error.errno is None:
            raise
        if isinstance(error, BrokenPipeError) and reader_has_left():
            sys.exit(1)
        space = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        fail(f"{error.filename or 'writing'}: {error.strerror}; {space}choose another path, then run again.")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail_for_memory(error, config_name)
    except MisconfigurationException as error:
        fail(one_line(error))
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's own, for group=null
            raise
        fail("a group cannot be null; leave it out, or disable its parts, as in callbacks.progress.enabled=false.")
    except KeyboardInterrupt:
        fail("interrupted.", code=130)


@contextmanager
def faults_of(part: str) -> Iterator[None]:
    """Around the making of an object from the user's settings: whatever it raises for them is one line about `part`."""
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{part}: {one_line(cause)}", mend="look at these settings with `--cfg job`") from error
    except (ValueError, TypeError, RuntimeError, ImportError, AssertionError, MisconfigurationException) as error:
        raise UserError(f"{part}: {one_line(error)}", mend="look at these settings with `--cfg job`") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU; torch has a class of error for the latter alone."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def fail_for_memory(error: BaseException, config_name: str) -> NoReturn:
    mend = _LESS_MEMORY.get(config_name, "set batch_size lower")
    fail(f"out of memory: {one_line(error).split('. GPU ')[0]}; {mend}.")


def one_line(error: BaseException) -> str:
    """The message of an error of a library, with its lines joined."""
    return " ".join(str(error).split()) or type(error).__name__


def reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`: there is no one to tell."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file behind it
        return False
    state = select.poll()
    state.register(output, select.POLLOUT)
    if not any(flags & select.POLLERR for _, flags in state.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python would complain when it closes it
    return True


def fail(message: str, code: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def quiet_libraries() -> None:
    """Silence advice that is meant for authors of training scripts, not for who runs them."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.. is deprecated.*",
        ".*litlogger.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)


def require_values(config: DictConfig) -> None:
    """Raise for the first setting that is still `???`."""
    for key in missing_keys(config):
        raise UserError(f"{key} is not set", mend=f"add {key}=… to the command")


def listed(value: Any) -> tuple[str, ...]:
    """A setting that may be one name or several; a name may look like a number."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(part) for part in value if part is not None)
    return () if value is None or value == "" else (str(value),)


def seed_run(seed: object) -> None:
    """Seed every random generator with the run's `seed`; UserError unless that can be one."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} is no seed", mend="give a whole number from 0 to 4294967295")
    seed_everything(seed, workers=True, verbose=False)


def missing_keys(config: DictConfig) -> list[str]:
    """Settings that are `???` themselves (OmegaConf's own function fails on references to such)."""
    return [key for key in _keys(config) if OmegaConf.is_missing(*_parent(config, key))]


def _parent(config: DictConfig, key: str) -> tuple[DictConfig, str]:
    path, _, name = key.rpartition(".")
    return (OmegaConf.select(config, path) if path else config), name


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, by its last part first; None if none does."""
    choices = sorted(choices)
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if found:
        return found[0]
    leaf = word.rsplit(".", 1)[-1]
    by_leaf = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
    found = difflib.get_close_matches(leaf, sorted(by_leaf), n=1, cutoff=0.6)
    return by_leaf[found[0]] if found else None


def explain_configuration_error(error: Exception, config_name: str, overrides: list[str]) -> str:
    """One line for an error of composing or building the configuration; names the nearest valid key or option."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], config_name, overrides)
    if match := re.search(
        r"Could not (?:find|load) '?([\w/.@-]+)'?\.?\s+Available options in '([^']+)':\s*(.*)", text, re.S
    ):
        # After the options, and a blank line, come the places that were searched.
        group, options = match[2], re.split(r"\n\s*\n|Config search path", match[3])[0].split()
        wanted = match[1].rsplit("/", 1)[-1]
        close = nearest(wanted, options)
        hint = f"did you mean {group}={close}?" if close else "choose one of them"
        return f"{group}={wanted} does not exist; {hint} Options of {group}: {', '.join(options)}."
    key = re.search(r"full_key: (\S+)", text)
    if key and text.startswith(_NO_TARGET):
        return f"{key[1]}._target_ names no class that can be imported; {text.splitlines()[0].split(', set env')[0]}."
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        if key is None or isinstance(error.__cause__, UserError):
            return str(error.__cause__)
        return f"{key[1]}: {error.__cause__}."
    cause = error.__cause__ or error
    lines = [line.strip() for line in f"{text}\n{cause if cause is not error else ''}".splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines)) + "."


def _unknown_key(key: str, config_name: str, overrides: list[str]) -> str:
    config = _compose_without(key, config_name, overrides)
    part = key.split(".")[0]
    if config is not None and part != key and part in ("data", "model"):
        if config_name in _FROM_CHECKPOINTS:
            return f"{key}: this command has no settings of {part}; the checkpoint brings them."
        if config.get(part) is None:
            return f"{key} has no meaning yet; choose {part}=<group> too (--help lists them)."
    close = nearest(key, _keys(config)) if config is not None else None
    hint = f"did you mean {close}?" if close else "`--cfg job` prints every key."
    return f"unknown key {key}; {hint}"


def _compose_without(key: str, config_name: str, overrides: list[str]) -> DictConfig | None:
    """The configuration of this command line less everything that sets `key`, to look for a neighbour in."""
    kept = [text for text in overrides if not text.startswith("-") and text.lstrip("+~").split("=")[0] != key]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("ssmbio.conf", version_base="1.3"):
            return hydra.compose(config_name=config_name, overrides=kept)
    except (HydraException, OmegaConfBaseException):
        return None


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    names = []
    for name in map(str, config):
        full = f"{prefix}{name}"
        names.append(full)
        child = config._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_interpolation() or child._is_missing()):
            names.extend(_keys(child, f"{full}."))
    return names


__all__ = ["explain_configuration_error", "fail", "nearest", "require_values", "run"]
