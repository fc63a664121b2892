"""The version of this package; imports nothing of ours."""

VERSION = "0.1.0"
"""The same as in ``pyproject.toml``."""
