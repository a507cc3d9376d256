"""Leyden's adapter for the OpenAI Agents SDK. Installed, it is found by its entry point; nothing is imported by hand.

By hand, it is an ordinary trace processor: `agents.add_trace_processor(LeydenTraceProcessor())`.
"""

from leyden_openai_agents.adapter import OpenAIAgentsAdapter
from leyden_openai_agents.processor import LeydenTraceProcessor

__all__ = ["LeydenTraceProcessor", "OpenAIAgentsAdapter"]
