"""Leyden's adapter for LangChain and LangGraph."""
