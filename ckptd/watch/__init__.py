"""Hearing of a newer checkpoint."""
