"""Watch for newer checkpoints."""
