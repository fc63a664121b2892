from __future__ import annotations

import jax
import pytest

from ckptd.jax import CheckpointManager

# Before anything makes JAX look for devices: eight of this host's, whatever else it has.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def manager(tmp_path):
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager
