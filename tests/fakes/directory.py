"""A directory of checkpoints as somebody else writes it: files put in place by renames, the state file last."""

from __future__ import annotations

import os

from tests.fakes.small_checkpoint import index_bytes, shard_bytes


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def put_shards(directory, step, num_shards=1):
    for shard in range(num_shards):
        put(directory / f"m-{step}.data-{shard:05d}-of-{num_shards:05d}", shard_bytes(step, shard))


def put_index(directory, step, num_shards=1, saved_at=None):
    path = directory / f"m-{step}.index"
    put(path, index_bytes(step, num_shards))
    if saved_at is not None:
        os.utime(path, (saved_at, saved_at))


def name_latest(directory, step):
    put(
        directory / "checkpoint",
        f'model_checkpoint_path: "m-{step}"\nall_model_checkpoint_paths: "m-{step}"\n'.encode(),
    )


def publish(directory, step, num_shards=1, saved_at=None):
    put_shards(directory, step, num_shards)
    put_index(directory, step, num_shards, saved_at)
    name_latest(directory, step)
