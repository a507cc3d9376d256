"""Runs the user's agent on claimed rollouts: a parent that holds the operator's key, and workers that do not.

Nothing is imported here: a worker starts without the store, which only its parent needs.
"""
