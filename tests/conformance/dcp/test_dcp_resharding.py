"""What DCP's own tests of resharding ask, on our storage: any placement on any mesh loads into any other."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import Replicate, Shard, zeros  # noqa: E402

from ckptd.torch import CkptdStorageReader, CkptdStorageWriter  # noqa: E402
from tests.unit.torch.versions import distributed as sharded  # noqa: E402

ON_A_LINE = [[Shard(0)], [Shard(1)], [Replicate()]]
ON_A_GRID = [[first, second] for first in (Replicate(), Shard(0), Shard(1)) for second in (Replicate(), Shard(0))]
SHAPES = {"even": (8, 4), "uneven": (7, 5), "fewer rows than ranks": (2, 3), "empty": (0, 4), "row": (9,)}
DTYPES = {"even": torch.bfloat16, "row": torch.int64}


def whole(name):
    """The tensor of this shape as it is when nobody shards it."""
    shape = SHAPES[name]
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    return numbers.to(DTYPES.get(name, torch.float32))


def fits(name, placements):
    return len(SHAPES[name]) > 1 or Shard(1) not in placements


def layouts(world_size):
    """Yield every mesh and placements that there are for so many ranks."""
    line = init_device_mesh("cpu", (world_size,))
    for placements in ON_A_LINE:
        yield line, placements
    if world_size % 2 == 0:
        grid = init_device_mesh("cpu", (2, world_size // 2))
        for placements in ON_A_GRID:
            yield grid, placements


def save_every_layout(address, run):
    state = {}
    for number, (mesh, placements) in enumerate(layouts(dist.get_world_size())):
        for name in SHAPES:
            if fits(name, placements):
                state[f"{number}.{name}"] = sharded(whole(name), mesh, placements)
    dcp.save(state, storage_writer=CkptdStorageWriter(address, run=run, step=1))


def load_every_layout(address, run, names):
    """Load every stored tensor into every layout of these ranks."""
    for mesh, placements in layouts(dist.get_world_size()):
        state, expected = {}, {}
        for name in names:
            shape = name.partition(".")[2]
            if fits(shape, placements):
                state[name] = zeros(SHAPES[shape], dtype=whole(shape).dtype, device_mesh=mesh, placements=placements)
                expected[name] = sharded(whole(shape), mesh, placements)
        dcp.load(state, storage_reader=CkptdStorageReader(address, run=run, step=1))
        for name, tensor in expected.items():
            assert torch.equal(state[name].to_local(), tensor.to_local()), (name, mesh, placements)


def test_every_placement_on_every_mesh_loads_into_every_other_on_4_3_2_and_1_ranks(daemon, pool, run):
    pool.run(save_every_layout, 4, daemon.address, run)
    prefix = f"{daemon.root}/{run}/model.ckpt-1"
    reader = ckptd.load_checkpoint(prefix)
    names = [name for name in reader if not name.startswith("_CKPTD")]
    assert len(names) == 3 * 5 - 1 + 6 * 5 - 2
    for name in names:
        expected = whole(name.partition(".")[2])
        assert np.array_equal(np.asarray(reader[name], np.float64), expected.double().numpy()), name
    assert ckptd.verify(prefix).ok
    for world_size in (4, 3, 2, 1):
        pool.run(load_every_layout, world_size, daemon.address, run, names)


def save_2(address, run):
    mesh = init_device_mesh("cpu", (2,))
    dcp.save(
        {"w": sharded(whole("uneven"), mesh, [Shard(0)])},
        checkpoint_id=f"{run}/two-7",
        storage_writer=CkptdStorageWriter(address),
    )


def load_4(address, run):
    mesh = init_device_mesh("cpu", (4,))
    state = {"w": zeros(SHAPES["uneven"], device_mesh=mesh, placements=[Shard(1)])}
    dcp.load(state, checkpoint_id=f"{run}/two-7", storage_reader=CkptdStorageReader(address))
    assert torch.equal(state["w"].full_tensor(), whole("uneven"))


def test_more_ranks_load_what_fewer_have_saved(daemon, pool, run):
    pool.run(save_2, 2, daemon.address, run)
    pool.run(load_4, 4, daemon.address, run)


def shards_of(tensor, rows_by_rank):
    """A ShardedTensor of which every rank holds several blocks of rows."""
    from torch.distributed._shard.sharded_tensor import Shard as Block
    from torch.distributed._shard.sharded_tensor import ShardedTensor

    mine = rows_by_rank[dist.get_rank()]
    blocks = [
        Block.from_tensor_and_offsets(tensor[first:last].clone(), [first, 0], dist.get_rank()) for first, last in mine
    ]
    return ShardedTensor._init_from_local_shards(blocks, *tensor.shape)


def reshard_blocks(address, run):
    tensor = torch.arange(40.0).reshape(10, 4)
    saved = shards_of(tensor, [[(0, 2), (5, 6)], [(2, 5), (6, 10)]])
    dcp.save({"blocks": saved}, storage_writer=CkptdStorageWriter(address, run=run, step=3))
    for rows in ([[(0, 2), (5, 6)], [(2, 5), (6, 10)]], [[(7, 10)], [(0, 1), (1, 7)]]):
        loaded = {"blocks": shards_of(torch.zeros(10, 4), rows)}
        dcp.load(loaded, storage_reader=CkptdStorageReader(address, run=run))
        for block in loaded["blocks"].local_shards():
            first = block.metadata.shard_offsets[0]
            assert torch.equal(block.tensor, tensor[first : first + block.metadata.shard_sizes[0]])
    plain = {"blocks": torch.zeros(10, 4)}
    dcp.load(plain, storage_reader=CkptdStorageReader(address, run=run))
    assert torch.equal(plain["blocks"], tensor)


def test_sharded_tensors_of_several_blocks_per_rank_load_into_other_blocks_and_plain_tensors(daemon, pool, run):
    pool.run(reshard_blocks, 2, daemon.address, run)
