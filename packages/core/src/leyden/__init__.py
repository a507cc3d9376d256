"""Leyden: reinforcement learning for the agents that people already have."""
