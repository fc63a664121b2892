"""Write the root of `fixtures/root_41e186f`, with that commit's own code:

    PYTHONPATH=CHECKOUT python tests/conformance/make_root_41e186f.py DIR

A daemon's life with two runs, and three runs that their owner left in the middle of a save: without an index; committed
and not published; published and not noted.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import ckptd
from ckptd.demo.processes import Daemon
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.clock import SystemClock
from ckptd.storage.local.local_store import LocalStore


class Dies(BaseException):
    """The owner is killed."""


def of_step(rank: int, step: int) -> dict[str, object]:
    rows = np.full((2, 3), step, np.float32) + rank
    return {
        "step": np.array(step),
        "wide": ckptd.Slice(rows, full_shape=(4, 3), start=(2 * rank, 0)),
        "name": np.array([b"bytes of any length", str(step).encode()], object),
    }


def two_ranks(address: str) -> None:
    crew = [
        ckptd.Checkpointer(address, run="runs/two", rank=rank, world_size=2, max_to_keep=3, timeout_s=60)
        for rank in range(2)
    ]

    def save(step: int, **options: object) -> None:
        pending = [one.save(step, of_step(rank, step), **options) for rank, one in enumerate(crew)]  # type: ignore[arg-type]
        for one in pending:
            one.result(timeout=120)

    for step in (1, 2, 3):
        save(step, meta_graph=b"a graph")
    crew[0].pin(1)
    save(4)
    save(4, overwrite=True)
    save(5)
    save(6, write_state=False, name="apart")
    save(7)
    crew[0].delete(5)  # can be undone for ten minutes
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.close(), crew))


def manager(address: str) -> None:
    options = {"retention": "manager", "max_to_keep": 2, "pad_step_number": True, "save_relative_paths": True}
    with ckptd.Checkpointer(address, run="manager", rank=0, world_size=1, name="ckpt", **options) as one:  # type: ignore[arg-type]
        for step in (10, 20, 30):
            one.save(step, {"w": np.arange(5.0) * step}).result(timeout=120)


def interrupted(root: Path, run: str, dies_before: str) -> None:
    """Save step 1, and be killed in the save of step 2."""
    with ckptd.Checkpointer(str(root), run=run, rank=0, world_size=1, max_to_keep=2) as one:
        saved = one.save(1, {"w": np.ones(4)}).result()
    index, shard = (Path(f"{saved.prefix}{end}").read_bytes() for end in (".index", ".data-00000-of-00001"))

    def on_step(name: str) -> None:
        if name == dies_before and armed:
            raise Dies

    armed = False
    store = LocalStore(str(root))
    policy = RetentionPolicy(max_to_keep=2)
    catalog = Catalog(store, run, clock=SystemClock(), policy=policy, on_step=on_step)
    catalog.recover()
    record = catalog.draft("model.ckpt", 2, save_id="interrupted", shard_sizes=[len(shard)])
    catalog.begin(record)
    writer = store.create(record.shard_keys[0], len(shard))
    writer.write(0, shard)
    writer.finish()
    armed = True
    try:
        catalog.commit(record, index)
        catalog.retire()
    except Dies:
        return
    raise AssertionError("it came to its end")


def main(root: Path) -> None:
    root.mkdir(parents=True)
    process = Daemon(root, root.with_suffix(".log"), root.with_suffix(".json"))
    process.wait_until_ready()
    host, port = process.port()
    two_ranks(f"grpc://{host}:{port}")
    manager(f"grpc://{host}:{port}")
    assert process.stop() == 0
    interrupted(root, "interrupted/unindexed", "commit.index")
    interrupted(root, "interrupted/unpublished", "publish.state")
    interrupted(root, "interrupted/unnoted", "settle.published")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
