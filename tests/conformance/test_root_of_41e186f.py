"""A root that ckptd of commit 41e186f left: it opens and goes on, and that version can still read what was added."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import ckptd
from tests.conformance.bundle_files import FIXTURES

RUNS = {  # run → checkpoints, oldest first; the last listed one is the latest
    "runs/two": ["apart-6", "model.ckpt-1", "model.ckpt-4", "model.ckpt-7"],
    "manager": ["ckpt-00000020", "ckpt-00000030"],
    "interrupted/unindexed": ["model.ckpt-1"],
    "interrupted/unpublished": ["model.ckpt-1", "model.ckpt-2"],
    "interrupted/unnoted": ["model.ckpt-1", "model.ckpt-2"],
}
OPTIONS = {
    "runs/two": {"max_to_keep": 3},
    "manager": {"max_to_keep": 2, "retention": "manager", "pad_step_number": True, "name": "ckpt"},
}

RECORD = {  # what that version's decoder demands of each field that it knows; others it passes by
    "attempt": int,
    "began_at": float | int,
    "deleted_at": float | int | None,
    "dropped": bool,
    "duration_s": float | int,
    "epoch": int,
    "format": int,
    "index_crc32c": int | None,
    "index_version": str | None,
    "keep_hours": float | int | None,
    "latest_filename": str,
    "max_to_keep": int | None,
    "meta_graph": bool,
    "meta_suffix": str,
    "name": str,
    "next_keep_at": float | int,
    "pinned": bool,
    "prefix": str,
    "preserved": bool,
    "published": bool,
    "relative_paths": bool,
    "released": bool,
    "retention": str,
    "save_id": str,
    "saved_at": float | int,
    "sequence": int,
    "shard_sizes": list,
    "step": int | None,
    "write_state": bool,
}
REQUIRED = {"save_id", "sequence", "name", "step", "prefix", "shard_sizes", "began_at", "format"}


@pytest.fixture
def root(tmp_path):
    shutil.copytree(FIXTURES / "root_41e186f", tmp_path / "root")
    return tmp_path / "root"


def opened(root, run):
    return ckptd.Checkpointer(str(root), run=run, rank=0, world_size=1, timeout_s=60, **OPTIONS.get(run, {}))


def names_of(checkpoints):
    return [found.prefix.rpartition("/")[2] for found in checkpoints]


def values(reader):
    return {name: np.asarray(reader.get_tensor(name)).tolist() for name in sorted(reader.get_variable_to_shape_map())}


def that_version_reads(root):
    """Assert what its decoders demand: records, epochs, state files, and no index that TensorFlow does not read."""
    for path in root.rglob(".ckptd/*.json"):
        fields = json.loads(path.read_text())
        assert fields.keys() >= REQUIRED, path
        assert fields["format"] == 1
        for name in RECORD.keys() & fields.keys():
            assert isinstance(fields[name], RECORD[name]), (path, name)
        assert path.name == f"{fields['prefix']}.{fields['save_id']}.json"
    for path in root.rglob(".ckptd/epoch"):
        assert path.read_text().isdigit()
    for path in root.rglob("checkpoint"):
        state = tf.train.get_checkpoint_state(str(path.parent))
        assert state is not None, path
        for prefix in state.all_model_checkpoint_paths:
            assert values(tf.train.load_checkpoint(prefix)) == values(ckptd.load_checkpoint(prefix))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_it_opens_goes_on_and_can_still_be_read_by_that_version(root, run):
    with opened(root, run) as checkpointer:
        expected = RUNS[run]
        assert checkpointer.latest().prefix == str(root / run / expected[-1])
        assert sorted(names_of(checkpointer.checkpoints(name="*"))) == expected
        for found in checkpointer.checkpoints(name="*"):
            assert values(checkpointer.reader(found)) == values(tf.train.load_checkpoint(found.prefix))
        assert [found.prefix for found in checkpointer.checkpoints(name="*") if found.pinned] == (
            [str(root / run / "model.ckpt-1")] if run == "runs/two" else []
        )
        before = checkpointer.restore()
        for step in (101, 102):
            checkpointer.save(step, before).result()
        checkpointer.pin(101)
        checkpointer.save(103, before).result()
        checkpointer.delete(102)
        restored = checkpointer.restore()
    assert {name: array.tolist() for name, array in restored.items()} == {
        name: array.tolist() for name, array in before.items()
    }
    assert ckptd.verify(str(root / run)).ok
    that_version_reads(root)


def test_a_daemon_takes_it_over_and_finishes_what_was_interrupted(root, tmp_path):
    from tests.starts.daemons import Daemon

    process = Daemon(root, tmp_path / "daemon.log", tmp_path / "daemon.json")
    try:
        process.wait_until_ready()
        host, port = process.port()
        for run, expected in RUNS.items():
            options = OPTIONS.get(run, {})
            with ckptd.Checkpointer(
                f"grpc://{host}:{port}", run=run, rank=0, world_size=1, timeout_s=60, **options
            ) as one:
                assert one.latest().prefix == str(root / run / expected[-1])
                assert sorted(names_of(one.checkpoints(name="*"))) == expected
                with pytest.raises(ckptd.ConflictError):
                    one.save(one.latest().step, {"w": np.zeros(2)}).result()
                one.save(200, {"w": np.zeros(2)}).result()
    finally:
        process.stop()
    swept = root / "interrupted/unindexed/model.ckpt-2.data-00000-of-00001"
    assert not swept.exists()
    that_version_reads(root)
