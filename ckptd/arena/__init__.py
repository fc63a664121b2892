"""Shared memory that the daemon owns and workers fill."""
