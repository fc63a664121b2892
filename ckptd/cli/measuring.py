"""The measurements of `ckptd bench`: each one is what a user would do, with a clock beside it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.remote_objects import RemoteObjects
from ckptd.demo.processes import Daemon
from ckptd.storage.disk import SystemDisk
from ckptd.wire import versions
from ckptd.wire.addresses import parse
from ckptd.wire.channels import open_channel
from ckptd.wire.methods import READ, Stub

_NUM_SYNCS = 20
_NUM_TENSORS = 8
_TIMEOUT_S = 600.0
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured.
        seconds: how long it took, or for a latency the median.
        bytes_per_s: the rate, None where only the time matters.
        about: what to know when reading it.
    """

    name: str
    seconds: float
    bytes_per_s: float | None
    about: str


def measure(where: Path, size_bytes: int, told: Callable[[str], None]) -> list[Figure]:
    """Make all measurements in the empty directory `where`, with `size_bytes` of random numbers."""
    count = max(1, size_bytes // 4 // _NUM_TENSORS)
    source = np.random.default_rng(0)
    arrays = {f"w{n}": source.standard_normal(count, np.float32) for n in range(_NUM_TENSORS)}
    told("the disk")
    figures = _disk(where, arrays)
    told("a save and a restore without a daemon")
    figures += _save_and_restore(str(where / "direct"), arrays, "direct")
    told("a save and a restore through a daemon")
    (where / "root").mkdir()
    daemon = Daemon(where / "root", where / "daemon.log", where / "daemon.json")
    try:
        daemon.wait_until_ready()
        host, port = daemon.port()
        address = f"grpc://{host}:{port}"
        figures += _save_and_restore(address, arrays, "daemon")
        told("gRPC on the loopback interface")
        figures.append(_loopback(address, where / "root"))
    finally:
        daemon.stop()
    return figures


def _disk(where: Path, arrays: dict[str, np.ndarray]) -> list[Figure]:
    disk = SystemDisk()
    directory = disk.open_root(str(where))
    try:
        syncs = []
        for n in range(_NUM_SYNCS):
            file = disk.create(directory, f"small-{n}")
            disk.write(file, 0, b"\x5a" * 4096, bulk=False)
            began = time.perf_counter()
            disk.sync(file)
            syncs.append(time.perf_counter() - began)
            disk.close(file)
            disk.unlink(directory, f"small-{n}")
        size = sum(array.nbytes for array in arrays.values())
        file = disk.create(directory, "large")
        try:
            began = time.perf_counter()
            disk.reserve(file, size)
            at = 0
            for array in arrays.values():
                disk.write(file, at, array.data.cast("B"), bulk=True)
                at += array.nbytes
            disk.sync(file)
            write_s = time.perf_counter() - began
            block = memoryview(bytearray(_BLOCK_BYTES))
            began, at = time.perf_counter(), 0
            while count := disk.read_into(file, at, block):
                at += count
            read_s = time.perf_counter() - began
        finally:
            disk.close(file)
            disk.unlink(directory, "large")
    finally:
        disk.close(directory)
    return [
        Figure("disk: fsync of a small file", statistics.median(syncs), None, f"median of {_NUM_SYNCS}"),
        Figure("disk: write", write_s, size / write_s, "with fsync, one file"),
        Figure("disk: read", read_s, size / read_s, "just written: from the page cache if it was kept there"),
    ]


def _save_and_restore(address: str, arrays: dict[str, np.ndarray], road: str) -> list[Figure]:
    size = sum(array.nbytes for array in arrays.values())
    with Checkpointer(address, run="bench", rank=0, world_size=1, timeout_s=_TIMEOUT_S) as checkpointer:
        # The first save of a process makes its buffers and connections; the second is what training sees.
        checkpointer.save(1, arrays).result(_TIMEOUT_S)
        began = time.perf_counter()
        pending = checkpointer.save(2, arrays)
        stall_s = time.perf_counter() - began
        pending.result(_TIMEOUT_S)
        durable_s = time.perf_counter() - began
        began = time.perf_counter()
        restored = checkpointer.restore(2)
        restore_s = time.perf_counter() - began
        assert sum(array.nbytes for array in restored.values()) == size
    return [
        Figure(f"{road}: save, stall", stall_s, size / stall_s, "until the arrays may be changed"),
        Figure(f"{road}: save, durable", durable_s, size / durable_s, "until it survives a power cut"),
        Figure(f"{road}: restore", restore_s, size / restore_s, "with every checksum verified"),
    ]


def _loopback(address: str, root: Path) -> Figure:
    """Read a shard through the daemon's own service, as a client on another host would."""
    key = next(path.name for path in sorted((root / "bench").glob("model.ckpt-2.data-*")))
    size = os.path.getsize(root / "bench" / key)  # noqa: PTH202
    with open_channel(parse(address)) as channel:
        peer = versions.this_peer(versions.new_incarnation())
        objects = RemoteObjects(Stub(channel, READ), address, peer, "", _TIMEOUT_S)
        into = memoryview(bytearray(size))
        began = time.perf_counter()
        objects.read_into(f"bench/{key}", 0, into)
        took_s = time.perf_counter() - began
    return Figure("loopback gRPC: read", took_s, size / took_s, "through the daemon, one stream")
