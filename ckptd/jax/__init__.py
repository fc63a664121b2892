"""Save and load JAX's state: pytrees, sharded arrays and random keys, and a manager shaped like Orbax's.

One changed line: ``manager = ckptd.jax.CheckpointManager(directory, options=options)``.
"""

from __future__ import annotations

from ckptd.jax.loading import describe, load
from ckptd.jax.manager import CheckpointManager
from ckptd.jax.options import CheckpointManagerOptions
from ckptd.jax.saving import to_arrays

__all__ = ["CheckpointManager", "CheckpointManagerOptions", "describe", "load", "to_arrays"]
