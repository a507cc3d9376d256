"""The files of a server that is reached by https."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tls"]


@dataclass(frozen=True)
class Tls:
    """A certificate (with its chain) and its key, in PEM."""

    certificate: Path
    key: Path
