"""Tensors that say themselves which part of a larger one they are, beside what DCP's own storage makes of them."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402

from ckptd.torch import CkptdStorageReader, CkptdStorageWriter  # noqa: E402
from tests.unit.torch.shards import OwnItems, declared  # noqa: E402
from tests.unit.torch.versions import has  # noqa: E402

FULL = torch.arange(24.0, dtype=torch.float16).reshape(8, 3)

KINDS = ["own", "declared"] if has(2, 14) else ["own"]
WAYS = ["save", "thread", "process"]


def part(kind, full=FULL):
    """Return this rank's shards of `full`: every so many rows, each rank another first one."""
    count, rank = dist.get_world_size(), dist.get_rank()
    rows = range(rank, len(full), count)
    local = full[rows].clone()
    if kind == "own":
        return OwnItems(full.shape, [((row, 0), local[at : at + 1]) for at, row in enumerate(rows)])
    return declared(local, full.shape, *(((row, 0), (at, 0), (1, 3)) for at, row in enumerate(rows)))


def rows_of(tensor):
    return torch.cat([local for _, local in tensor.boxes]) if isinstance(tensor, OwnItems) else tensor


def save_parts(kind, how, address, run, directory):
    """Save with ours as `how` says, and with DCP's own writer, which stages no tensors that forbid operations."""
    dcp.save({"w": part(kind), "step": 3}, storage_writer=dcp.FileSystemWriter(directory))
    writer = CkptdStorageWriter(address, run=run, step=1)
    if how == "save":
        dcp.save({"w": part(kind), "step": 3}, storage_writer=writer)
        return
    options = {}
    if how == "process":
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        options["async_checkpointer_type"] = AsyncCheckpointerType.PROCESS
    for step in (1, 2):  # the first one is staged before anybody knows this rank
        state = {"w": part(kind), "step": 3}
        saving = dcp.async_save(state, checkpoint_id=step, storage_writer=writer, **options)
        rows_of(state["w"]).zero_()
        if kind == "own":
            for _, local in state["w"].boxes:
                local.zero_()
        saving.result()
    if how == "process":
        from torch.distributed.checkpoint import _async_process_executor as executor

        executor._CHECKPOINT_PROCESS.__del__()  # at the interpreter's end it would come too late
        executor._CHECKPOINT_PROCESS = None


def load_parts(kind, address, run, directory):
    """Load what both have stored, into this rank's shards; return what they are."""
    found = []
    for reader in (dcp.FileSystemReader(directory), CkptdStorageReader(address, run=run)):
        state = {"w": part(kind, torch.full_like(FULL, -1)), "step": 0}
        dcp.load(state, storage_reader=reader)
        assert state["step"] == 3
        assert torch.equal(rows_of(state["w"]), rows_of(part(kind)))
        found.append(rows_of(state["w"]).numpy().copy())
    return found


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_stored_and_filled_as_dcp_itself_does(daemon, pool, run, tmp_path, kind, how):
    pool.run(save_parts, 2, kind, how, daemon.address, run, str(tmp_path))
    for step in [1] if how == "save" else [1, 2]:
        stored = ckptd.load_checkpoint(f"{daemon.root}/{run}/model.ckpt-{step}")
        assert np.array_equal(stored["w"], FULL.numpy())
    for world_size in (3, 1):
        for theirs, ours in pool.run(load_parts, world_size, kind, daemon.address, run, str(tmp_path)):
            assert np.array_equal(theirs, ours)
