"""Models that transformers loads, and the state that a run resumes from. Both appear whole or not at all.

A state is one file: weights, optimiser, random states and the loop's own record cannot come from different steps.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leyden.errors import TrainingStopped
from leyden_trainer.local.parameters import ADAPTER, has_adapters, merged_state

__all__ = ["State", "load_latest", "save_model", "save_state"]

KEPT_STATES = 2


@dataclass(frozen=True)
class State:
    """What was saved: tensors of the learner, and the JSON record that the loop gave."""

    learner: dict[str, Any]
    record: dict[str, Any]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that transformers loads, in the place of what was there. Adapters are merged, and also kept apart.

    Raises:
        TrainingStopped: it could not be written; what was there stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-", ignore_cleanup_errors=True) as place:
            fresh = Path(place) / "model"
            model.save_pretrained(fresh, state_dict=merged_state(model))
            tokenizer.save_pretrained(fresh)
            if has_adapters(model):
                _save_adapter(model, fresh / "adapter")
            for file in fresh.rglob("*"):
                _sync(file)
            # Between the two renames the old model is only in .saving-*: a kill there loses its name, not its files.
            if folder.exists():
                folder.rename(Path(place) / "before")
            fresh.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise TrainingStopped(_cannot_save(folder, error)) from error


def _save_adapter(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir()
    # peft's loader expects the names that its own wrapper would give.
    state = {f"base_model.model.{name}": tensor for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(state, folder / "adapter_model.safetensors")
    model.peft_config[ADAPTER].save_pretrained(folder)  # type: ignore[operator, index]


def save_state(folder: Path, step: int, learner: Mapping[str, Any], record: Mapping[str, Any]) -> Path:
    """Write the state after `step` as one file, and drop all but the newest two. The random states are added.

    Raises:
        TrainingStopped: it could not be written; the states before it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"state-{step:08d}.pt"
    partial = target.with_suffix(".partial")
    content = {
        "learner": dict(learner),
        "record": json.dumps(record),
        "torch_random": torch.get_rng_state(),
        "python_random": json.dumps(random.getstate()),
    }
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
        partial.unlink(missing_ok=True)
        raise TrainingStopped(_cannot_save(target, error)) from error
    for old in _states(folder)[:-KEPT_STATES]:
        old.unlink()
    return target


def load_latest(folder: Path, *, device: torch.device) -> State | None:
    """The newest whole state, None if there is none; sets torch's and Python's random states to the saved ones."""
    states = _states(folder)
    if not states:
        return None
    content: dict[str, Any] = torch.load(states[-1], map_location=device, weights_only=True)
    version, numbers, gauss = json.loads(content["python_random"])
    random.setstate((version, tuple(numbers), gauss))
    torch_random: Tensor = content["torch_random"]
    torch.set_rng_state(torch_random.cpu())
    return State(content["learner"], json.loads(content["record"]))


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.pt"))


def _sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_save(path: Path, error: Exception) -> str:
    free_mb = shutil.disk_usage(path.parent).free / 1e6
    return f"cannot save {path}: {error}; {free_mb:.0f} MB are free there. What was saved before is whole"
