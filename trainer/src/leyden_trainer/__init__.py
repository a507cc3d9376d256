"""Leyden's trainer."""
