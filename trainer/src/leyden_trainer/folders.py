"""The folders of runs: NAME, NAME-2, NAME-3, ... under the configuration's `output`, and the models in them."""

import json
from pathlib import Path

from leyden.errors import BadConfig
from leyden_trainer.config import TrainConfig

__all__ = [
    "CACHE",
    "checkpoint_folder",
    "fresh_folder",
    "model_within",
    "offered_checkpoint",
    "runs_of",
    "trained_checkpoint",
    "unfinished_folder",
]

CACHE = Path.home() / ".cache" / "leyden"
"""Models that were unpacked."""


def runs_of(config: TrainConfig, *, suffix: str = "") -> list[Path]:
    """The folders that exist of a name (with `suffix` behind it), in the order in which they were made."""
    found: list[Path] = []
    while (folder := _numbered(config, suffix, len(found) + 1)).exists():
        found.append(folder)
    return found


def _numbered(config: TrainConfig, suffix: str, number: int) -> Path:
    name = f"{config.name}{suffix}"
    return config.output / (name if number == 1 else f"{name}-{number}")


def fresh_folder(config: TrainConfig, *, suffix: str = "") -> Path:
    """A new folder, with the configuration in it."""
    folder = _numbered(config, suffix, len(runs_of(config, suffix=suffix)) + 1)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def unfinished_folder(config: TrainConfig) -> Path:
    """The newest run that has no summary yet.

    Raises:
        BadConfig: there is none, or it was begun with another configuration.
    """
    for folder in reversed(runs_of(config)):
        if not (folder / "summary.json").exists():
            _check_same(config, folder)
            return folder
    raise BadConfig(f"no unfinished run named {config.name} in {config.output}; leave out --resume to start one")


def _check_same(config: TrainConfig, folder: Path) -> None:
    """A run goes on as it began; only its length, and where the policy is served, may change."""
    before = TrainConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    free = {"steps", "stop_at", "evaluate_every", "micro_batch_tokens", "host", "port"}
    for name, value in before.model_dump(exclude={"trainer": free}).items():
        now = config.model_dump(exclude={"trainer": free})[name]
        if now != value:
            raise BadConfig(
                f"{folder} was begun with {name} = {value}, got {now}; resume it as it was, or start a new run"
            )


def checkpoint_folder(config: TrainConfig, name: str) -> Path:
    """The folder of a model: base (what training starts from), best or last (of the newest run that has it), or a path.

    Raises:
        BadConfig: no run has such a checkpoint, or the path has no model.
    """
    if name == "base":
        from leyden_trainer.local.source import model_folder  # imports torch

        return model_folder(config.model.path, cache=CACHE)
    if name not in ("best", "last"):
        return model_within(Path(name))
    for run in reversed(runs_of(config)):
        if (folder := run / "checkpoints" / name).is_dir():
            return folder
    raise BadConfig(
        f"no run named {config.name} in {config.output} has a checkpoint {name!r}; train first, or name a folder"
    )


def model_within(folder: Path) -> Path:
    """A model's folder itself, or the checkpoint that a run's folder offers.

    Raises:
        BadConfig: it is neither.
    """
    if offered := trained_checkpoint(folder):
        return folder / "checkpoints" / offered
    try:
        if "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
            return folder
    except (OSError, ValueError) as error:
        raise BadConfig(f"there is no model in {folder}: its config.json cannot be read: {error}") from error
    raise BadConfig(f"there is no model in {folder}, and no checkpoint: a run that has not kept one yet?")


def offered_checkpoint(config: TrainConfig) -> str:
    """What the newest run with a checkpoint offers: best, or last on verl, which keeps its newest alone."""
    return next((name for run in reversed(runs_of(config)) if (name := trained_checkpoint(run))), "best")


def trained_checkpoint(run: Path) -> str | None:
    """The name of the checkpoint that a run's folder offers: the best, else the last; None without either."""
    return next((name for name in ("best", "last") if (run / "checkpoints" / name).is_dir()), None)
