"""Where a manager saves: the address of a daemon or store and a run, from the one path that users pass."""

from __future__ import annotations

import os

import jax

from ckptd.client.paths.environment import given_address, or_local
from ckptd.client.paths.latest import as_text
from ckptd.client.paths.run_place import RunPlace
from ckptd.errors import InvalidRequestError
from ckptd.wire import addresses


def place(directory: str | os.PathLike[str], address: str | None, run: str | None) -> tuple[str, str]:
    """Return what a `Checkpointer` takes as address and run.

    With a daemon, which is `address`, or else the environment's CKPTD_ADDRESS, or `directory` itself, the run is `run`
    or the path of the directory, below the daemon's root. Without one, checkpoints are in the directory, or in `run`
    below it.

    Raises:
        InvalidRequestError: there is nothing that names a run.
    """
    text = or_local(as_text(directory))
    if addresses.is_daemon(text):
        if run is None:
            raise InvalidRequestError("a daemon's address needs a run: CheckpointManager(address, run='runs/mnist')")
        return text, run
    if run is not None:
        return given_address(address) or text, run
    found = RunPlace.of(text, address)
    return found.address, found.run


def member(rank: int | None, world_size: int | None) -> tuple[int | None, int | None]:
    """Return rank and number of processes: as given, else `jax.distributed`'s; None leaves them to the environment."""
    if jax.distributed.is_initialized():
        rank = jax.process_index() if rank is None else rank
        world_size = jax.process_count() if world_size is None else world_size
    return rank, world_size
