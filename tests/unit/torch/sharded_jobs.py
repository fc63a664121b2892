"""What the processes of `gloo.Ranks` are asked to do with sharded state. Full tensors go back as numpy arrays."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import ckptd
from ckptd.torch import close_all, load, save
from ckptd.torch.sharding import local_parts
from ckptd.trees.flatten import flatten
from tests import seams
from tests.unit.torch import versions

FULL = torch.arange(7 * 10, dtype=torch.float32).reshape(7, 10)

LAYOUTS = {
    "rows": ((4,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "replicated": ((4,), [Replicate()]),
    "both": ((2, 2), [Shard(0), Shard(1)]),
    "rows twice": ((2, 2), [Shard(0), Shard(0)]),
    "hybrid": ((2, 2), [Replicate(), Shard(1)]),
    "rows, right to left": ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
    "strided alone": ((4,), [_StridedShard(0, split_factor=3)]),
}
"""The shape of a mesh of four ranks, and placements on it; seven rows and ten columns never divide evenly."""
if not versions.has(2, 7):  # there torch itself strides only over what divides evenly
    LAYOUTS = {
        name: layout for name, layout in LAYOUTS.items() if "right to left" not in name and "strided" not in name
    }


def distributed(full, layout):
    shape, placements = LAYOUTS[layout]
    return versions.distributed(full, init_device_mesh("cpu", shape), placements)


def make_training(seed):
    """Return an FSDP2 model whose parameters don't divide evenly, and its optimizer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer):
    torch.manual_seed(5)
    model(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def whole(state):
    """Return name → numpy array of everything in nested state; all ranks take part."""

    def full(value):
        return value.full_tensor() if isinstance(value, DTensor) else value

    leaves = flatten(state, lambda value: isinstance(value, torch.Tensor))
    return {
        name: full(leaf).detach().numpy().copy() if isinstance(leaf, torch.Tensor) else np.array(leaf)
        for name, leaf in leaves.items()
    }


def save_fsdp(rank, world_size, address):
    model, optimizer = make_training(seed=0)
    train(model, optimizer)
    with ckptd.Checkpointer(address, "runs/fsdp", rank=rank, world_size=world_size) as checkpointer:
        pending = save({"model": model, "optimizer": optimizer, "epoch": 3}, checkpointer, 1)
        done = pending.result(60)
    return done.size_bytes, whole({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})


def load_fsdp(rank, world_size, address):
    model, optimizer = make_training(seed=1)
    state = {"model": model, "optimizer": optimizer, "epoch": 0}
    boxes = []
    fill = seams.FILL_ARRAYS.value
    with pytest.MonkeyPatch.context() as patch:
        seams.FILL_ARRAYS.put(patch, lambda reader, wanted: fill(reader, boxes.extend(wanted) or boxes))
        with ckptd.Checkpointer(address, "runs/fsdp", rank=rank, world_size=world_size) as checkpointer:
            load(checkpointer, into=state)
    loaded = whole({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": state["epoch"]})
    moments = optimizer.state_dict()["state"][0]["exp_avg"]
    train(model, optimizer)  # the optimizer has taken it over in earnest
    return loaded, moments.placements == (Shard(0),), sum(array.nbytes for _, _, array in boxes)


def load_options(rank, world_size, address):
    """Load into a sharded model on the meta device, and in another dtype under other names; return both whole."""
    with torch.device("meta"):
        empty, _ = make_training(seed=1)
    wide, _ = make_training(seed=1)
    wide.to(torch.float64).append(torch.nn.Linear(3, 2))
    with ckptd.Checkpointer(address, "runs/fsdp", rank=rank, world_size=world_size) as checkpointer:
        load(checkpointer, into={"model": empty})
        rename = {"model/": "net/"}
        loaded = load(checkpointer, into={"net": wide}, strict=False, cast="widen", rename=rename)
    sharded = all(isinstance(one, DTensor) and not one.is_meta for one in empty.parameters())
    return whole({"model": empty.state_dict()}), whole({"model": wide.state_dict()}), loaded.missing_keys, sharded


def check_parts(rank, world_size):
    """Compare the parts of every layout with the elements that torch gave this rank; return what they cover."""
    covered = {}
    for layout in LAYOUTS:
        tensor = distributed(FULL, layout)
        parts = local_parts("x", tensor)
        for part in parts:
            box = tuple(slice(start, start + length) for start, length in zip(part.start, part.shape, strict=True))
            assert torch.equal(FULL[box], part.local), layout
        assert sum(part.local.numel() for part in parts) == tensor.to_local().numel(), layout
        covered[layout] = [(part.start, part.shape) for part in parts]
    return covered


def save_layouts(rank, world_size, address):
    state = {layout: distributed(FULL + number, layout) for number, layout in enumerate(LAYOUTS)}
    state["empty"] = distributed(FULL[:0], "rows")
    state["few"] = _on_two_ranks()
    with ckptd.Checkpointer(address, "runs/layouts", rank=rank, world_size=world_size) as checkpointer:
        return save(state, checkpointer, 1).result(60).size_bytes


def _on_two_ranks():
    return versions.distributed(FULL, DeviceMesh("cpu", [1, 3]), [Shard(0)])


def load_layouts(rank, world_size, address, shift):
    """Load what one layout saved into the layout `shift` further on; return the names that are not as they were."""
    names = list(LAYOUTS)
    into = {name: distributed(FULL * 0, names[(at + shift) % len(names)]) for at, name in enumerate(names)}
    with ckptd.Checkpointer(address, "runs/layouts", rank=rank, world_size=world_size) as checkpointer:
        load(checkpointer, into=into)
    return [name for at, name in enumerate(names) if not torch.equal(into[name].full_tensor(), FULL + at)]


def refusals(rank, world_size, address):
    """Return what is said of state that can't be saved, and of sharded tensors that don't fit."""
    partial = DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (world_size,)), [Partial()])
    smaller = distributed(FULL[:4], "rows")
    wider = distributed(FULL.double(), "columns")
    said = []
    with ckptd.Checkpointer(address, "runs/layouts", rank=rank, world_size=world_size) as checkpointer:
        for call in (
            lambda: save({"p": partial}, checkpointer, 2),
            lambda: load(checkpointer, into={"rows": smaller}),
            lambda: load(checkpointer, into={"columns": wider}),
        ):
            try:
                call()
            except ckptd.InvalidRequestError as error:
                said.append(str(error))
    return said


def save_where_the_environment_says(rank, world_size, address):
    """Save to a path, as the rank that torch says."""
    os.environ["CKPTD_ADDRESS"] = address
    try:
        state = {"w": distribute_tensor(FULL, init_device_mesh("cpu", (world_size,)), [Shard(0)])}
        save(state, "runs/path", 1).result(60)
    finally:
        del os.environ["CKPTD_ADDRESS"]
        close_all()


def dcp_by_agents(rank, world_size, addresses, stock, step):
    """Save with DCP by this rank's agent, and with stock; return what each loads into another layout, and the state."""
    import torch.distributed.checkpoint as dcp

    from ckptd.torch import CkptdStorageReader, CkptdStorageWriter

    mesh, address = init_device_mesh("cpu", (world_size,)), addresses[rank]

    def state(full, placement):
        wide = distribute_tensor(full.clone(), mesh, [placement])
        return {"wide": wide, "half": distribute_tensor(full.half(), mesh, [placement]), "plain": full[0].clone()}

    held = state(FULL + step, Shard(0))
    writer = CkptdStorageWriter(address, run="dcp")
    dcp.save(held, checkpoint_id=step, storage_writer=writer)
    writer.close()
    dcp.save(held, checkpoint_id=stock)
    ours, theirs = state(torch.zeros_like(FULL), Shard(1)), state(torch.zeros_like(FULL), Shard(1))
    reader = CkptdStorageReader(address, run="dcp")
    dcp.load(ours, checkpoint_id=step, storage_reader=reader)
    dcp.load(theirs, checkpoint_id=stock)
    return whole(ours), whole(theirs), whole(held)
