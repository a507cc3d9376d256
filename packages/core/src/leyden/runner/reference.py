"""A user's function by its name: `path.py:function` or `package.module:function`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from leyden.errors import BadConfig

__all__ = ["load_function"]


def load_function(reference: str) -> Callable[..., Any]:
    """Import the function. A file's folder is put on the path, so that it may import its neighbours.

    Raises:
        BadConfig: the reference has another form, the file or the name is not there, or it cannot be called.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise BadConfig(
            f"{reference!r} names no function; expected path/to/file.py:function or package.module:function"
        )
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise BadConfig(f"{place} has no function {name!r}")
    return function


def _file(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise BadConfig(f"there is no file {path}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").absolute() == path:
        return loaded
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem if loaded is None else f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadConfig(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadConfig(f"there is no module {name!r} ({error}); run from its folder, or name a file") from error
