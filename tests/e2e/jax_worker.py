"""One process of a `jax.distributed` job with two devices each: saves a tree, and restores it onto other shardings."""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ckptd.jax import CheckpointManager

FULL = np.arange(64, dtype=np.float32).reshape(8, 8)


def check(array: jax.Array, sharding: NamedSharding, full: np.ndarray = FULL) -> None:
    assert array.sharding == sharding
    assert len(array.addressable_shards) == 2
    for shard in array.addressable_shards:
        assert np.asarray(shard.data).tobytes() == full[shard.index].tobytes()


def main(address: str, meeting: str, rank: int, world_size: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(meeting, num_processes=world_size, process_id=rank)
    grid = Mesh(np.array(jax.devices()).reshape(world_size, 2), ("process", "device"))
    specs = {
        "grid": P("process", "device"),
        "rows": P(("process", "device")),
        "columns across": P(None, "process"),
        "on every process": P("device"),
        "everywhere": P(),
    }
    shardings = {name: NamedSharding(grid, spec) for name, spec in specs.items()}
    keys = jax.random.split(jax.random.key(7), 8)
    spread = {
        name: jax.make_array_from_callback(FULL.shape, one, lambda index: FULL[index])
        for name, one in shardings.items()
    }
    of_keys = jax.make_array_from_callback(keys.shape, shardings["rows"], lambda index: keys[index])
    tree = {"spread": spread, "keys": of_keys, "step": 5, "local": jax.numpy.arange(3)}
    with CheckpointManager(address, run="jax") as manager:
        assert (manager.checkpointer.rank, manager.checkpointer.world_size) == (rank, world_size)
        assert manager.save(5, tree)
        manager.wait_until_finished()
        for wanted in shardings.values():
            like = jax.ShapeDtypeStruct(FULL.shape, FULL.dtype, sharding=wanted)
            got = manager.restore(5, tree | {"spread": dict.fromkeys(spread, like)})
            for array in got["spread"].values():
                check(array, wanted)
        assert got["keys"].sharding.is_equivalent_to(shardings["rows"], 1)
        for shard in got["keys"].addressable_shards:
            assert (jax.random.key_data(shard.data) == jax.random.key_data(keys[shard.index[:1]])).all()
        assert got["step"] == 5
        assert got["local"].tolist() == [0, 1, 2]
        for step in (6, 7):
            assert manager.save(step, tree)
        assert set(manager.roll_back(5)) <= {6, 7}  # what is left of them when this process looks
        assert manager.latest_step() == 5
        assert not manager.should_save(5)
        assert manager.save(6, tree)  # together, or it would never end
        assert manager.latest_step() == 6
    jax.distributed.shutdown()
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
