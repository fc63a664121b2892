"""Restoring: what is asked for against what is stored, and what happens when it is damaged."""
