"""Leyden's adapter for AutoGen AgentChat. Installed, it is found by its entry point; nothing is imported by hand.

By hand, it is an ordinary logging handler: `logging.getLogger(EVENT_LOGGER_NAME).addHandler(LeydenHandler())`.
"""

from leyden_autogen.adapter import AutoGenAdapter
from leyden_autogen.handler import LeydenHandler

__all__ = ["AutoGenAdapter", "LeydenHandler"]
