"""Where rollouts, calls and rewards live."""

from leyden.store.protocol import Store
from leyden.store.sql import SqlStore

__all__ = ["SqlStore", "Store"]
