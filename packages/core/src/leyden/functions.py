"""A function that a user hands over, as a reference that another process can load.

One that stands in a file is named. One of a notebook has no file: it is pickled by value (cloudpickle), with what it
uses of the notebook, beside a module that loads it.
"""

import hashlib
import importlib
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.errors import BadConfig

__all__ = ["reference_of"]

_LOADER = '''"""A function of a notebook, pickled beside this file when its run began."""

from pathlib import Path

import cloudpickle

{name} = cloudpickle.loads(Path(__file__).with_suffix(".pickle").read_bytes())
'''


def reference_of(function: Callable[..., Any] | str, *, keep: Path, role: str) -> str:
    """`FILE.py:NAME` of a function; a text is taken as such a reference already.

    Args:
        keep: a folder for what has to be pickled.
        role: what the function is to the run, for names and messages.

    Raises:
        BadConfig: it stands in no file and cannot be pickled.
    """
    if isinstance(function, str):
        return function
    name = getattr(function, "__qualname__", "")
    file = inspect.getsourcefile(function) if inspect.isroutine(function) else None
    if file is not None and Path(file).is_file() and name.isidentifier():
        return f"{Path(file).resolve()}:{name}"
    return _pickled(function, keep, role)


def _pickled(function: Callable[..., Any], keep: Path, role: str) -> str:
    cloudpickle: Any = importlib.import_module("cloudpickle")  # it has no types
    try:
        content = cloudpickle.dumps(function)
    except (pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadConfig(
            f"the {role} stands in no file and cannot be copied to the runner: {type(error).__name__}: {error}. "
            f'Write it to one (in a notebook: %%writefile {role}.py) and give {role}="{role}.py:NAME"'
        ) from error
    keep.mkdir(parents=True, exist_ok=True)
    file = keep / f"{role}_{hashlib.sha256(content).hexdigest()[:16]}.py"
    file.with_suffix(".pickle").write_bytes(content)
    file.write_text(_LOADER.format(name=role), encoding="utf-8")
    return f"{file.resolve()}:{role}"
