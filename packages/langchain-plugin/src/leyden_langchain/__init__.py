"""Leyden's adapter for LangChain and LangGraph. Installed, it is found by its entry point; nothing is imported by hand.

By hand, it is an ordinary callback handler: `config={"callbacks": [LeydenCallbackHandler()]}`.
"""

from leyden_langchain.adapter import LangChainAdapter
from leyden_langchain.handler import LeydenCallbackHandler

__all__ = ["LangChainAdapter", "LeydenCallbackHandler"]
