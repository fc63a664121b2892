"""The measurements of `ckptd bench`: each one does what a user would do, and times it."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ckptd.cli.bounds import Bound, Bounds, bound_of, processor_s
from ckptd.client.checkpointer import Checkpointer
from ckptd.demo.processes import Daemon
from ckptd.storage.local import device

_NUM_TENSORS = 8
_TIMEOUT_S = 600.0
_ROUNDS = 3
_COPIERS = 2
_PREPARED_S = 1.0  # between joining and the first save, as in a program that trains before it saves
_TRANSPORT = "CKPTD_TRANSPORT"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured.
        seconds: how long it took; the median where it was done several times.
        bytes_per_s: the rate, None where only the time matters.
        bound: what keeps it from being faster; None for a limit, and where nothing that was measured explains it.
        about: what to know when reading it.
    """

    name: str
    seconds: float
    bytes_per_s: float | None
    bound: Bound | None
    about: str


@dataclass
class _Spent:
    """What a piece of work took: elapsed time, and processor time in this process and in the daemon."""

    seconds: list[float] = field(default_factory=list)
    worker_s: list[float] = field(default_factory=list)
    daemon_s: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self, daemon: Daemon | None) -> Iterator[None]:
        """Add what the block takes."""
        worker, beside = time.process_time(), _processor_s(daemon)
        began = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - began)
        self.worker_s.append(time.process_time() - worker)
        self.daemon_s.append(_processor_s(daemon) - beside)

    @property
    def took_s(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def processor_s(self) -> float:
        """How long the processors were needed at least."""
        return processor_s(statistics.median(self.worker_s), statistics.median(self.daemon_s), _num_cores())


def measure(where: Path, size_bytes: int, told: Callable[[str], None]) -> list[Figure]:
    """Make all measurements in the empty directory `where`, with `size_bytes` of random numbers."""
    count = max(1, size_bytes // 4 // _NUM_TENSORS)
    source = np.random.default_rng(0)
    arrays = {f"w{n}": source.standard_normal(count, np.float32) for n in range(_NUM_TENSORS)}
    size_bytes = sum(array.nbytes for array in arrays.values())
    told("the disk and the memory")
    disk = device.measure(where, size_bytes, _ROUNDS)
    copy_s, new_memory_s = _memory(arrays)
    scale = size_bytes / disk.size_bytes
    limits = Bounds(disk.write_s * scale, disk.read_s * scale, copy_s, new_memory_s, disk.sync_s)
    past = "past the page cache" if disk.is_direct else "through the page cache: the file system refuses O_DIRECT"
    figures = [
        Figure("disk: sync", limits.sync_s, None, None, "of a small new file"),
        Figure("disk: write", limits.write_s, size_bytes / limits.write_s, None, f"one file, {past}, and sync"),
        Figure("disk: read", limits.read_s, size_bytes / limits.read_s, None, f"the same, {past}"),
        Figure("memory: copy", copy_s, size_bytes / copy_s, None, f"{_COPIERS} threads, into memory that exists"),
        Figure("memory: new", new_memory_s, size_bytes / new_memory_s, None, "one thread, into memory just allocated"),
    ]
    told("saves and restores without a daemon")
    figures += _Transport("direct", where / "direct", arrays, limits).figures()
    told("saves and restores through a daemon, by shared memory")
    figures += _Transport("shared memory", where / "shared", arrays, limits).figures()
    told("saves and restores through a daemon, by gRPC")
    figures += _Transport("stream", where / "stream", arrays, limits).figures()
    return figures


class _Transport:
    """One way from the arrays to the disk and back: "direct", or through a daemon by "shared memory" or "stream"."""

    def __init__(self, name: str, place: Path, arrays: Arrays, limits: Bounds) -> None:
        self._name = name
        self._place = place
        self._arrays = arrays
        self._size = sum(array.nbytes for array in arrays.values())
        self._limits = limits
        self._into = {name: np.zeros_like(array) for name, array in arrays.items()}
        self._num_daemons = 0

    def figures(self) -> list[Figure]:
        """Save, restore, and say how long each took."""
        first, stall, durable, warm, cold = (_Spent() for _ in range(5))
        with self._environment():
            with self._daemon() as daemon, self._joined(daemon) as checkpointer:
                self._prepare(checkpointer)
                with first.timed(daemon):
                    checkpointer.save(1, self._arrays).result(_TIMEOUT_S)
                for step in range(2, 2 + _ROUNDS):
                    with durable.timed(daemon):
                        with stall.timed(daemon):
                            pending = checkpointer.save(step, self._arrays)
                        pending.result(_TIMEOUT_S)
                for _ in range(_ROUNDS):
                    with warm.timed(daemon):
                        checkpointer.restore(into=self._into)
            # Another daemon, which remembers nothing, and files of which nothing is cached.
            with self._daemon() as daemon, self._joined(daemon) as checkpointer:
                checkpointer.latest()
                for _ in range(_ROUNDS):
                    for path in self._place.rglob("*.data-*"):
                        device.forget_cached(path)
                    with cold.timed(daemon):
                        checkpointer.restore(into=self._into)
        limits = self._limits
        moving = {"the disk": limits.write_s, "memory": limits.copy_s}
        return [
            # A stall is a copy: its processor seconds are those of the copy.
            Figure(
                f"{self._name}: save, stall",
                stall.took_s,
                self._size / stall.took_s,
                bound_of(stall.took_s, {"memory": limits.copy_s}),
                "until the arrays may be changed",
            ),
            self._figure("save, durable", durable, moving, "until it survives a power cut"),
            self._figure(
                "first save", first, {**moving, "new memory": first.took_s - durable.took_s}, "durable, of this process"
            ),
            self._figure("restore, warm", warm, {"memory": limits.copy_s}, "at once after the save, into arrays"),
            self._figure(
                "restore, cold",
                cold,
                {"the disk": limits.read_s, "memory": limits.copy_s},
                "nothing cached or remembered, into arrays",
            ),
        ]

    def _figure(self, what: str, spent: _Spent, parts: dict[str, float], about: str) -> Figure:
        # A restore reads the files itself where it can, as here, over any transport.
        processor = "gRPC: processor" if self._name == "stream" and "save" in what else "processor"
        bound = bound_of(spent.took_s, {**parts, processor: spent.processor_s})
        return Figure(f"{self._name}: {what}", spent.took_s, self._size / spent.took_s, bound, about)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Select the transport: the environment chooses it."""
        before = os.environ.get(_TRANSPORT)
        os.environ[_TRANSPORT] = "stream" if self._name == "stream" else "auto"
        try:
            yield
        finally:
            del os.environ[_TRANSPORT]
            if before is not None:
                os.environ[_TRANSPORT] = before

    @contextmanager
    def _daemon(self) -> Iterator[Daemon | None]:
        if self._name == "direct":
            yield None
            return
        self._num_daemons += 1
        self._place.mkdir(exist_ok=True)
        beside = f"{self._place}-{self._num_daemons}"
        token_file = Path(f"{beside}.token")
        daemon = Daemon(self._place, Path(f"{beside}.log"), Path(f"{beside}.json"), token_file=token_file)
        try:
            daemon.wait_until_ready()
            yield daemon
        finally:
            daemon.stop()
            token_file.unlink(missing_ok=True)

    @contextmanager
    def _joined(self, daemon: Daemon | None) -> Iterator[Checkpointer]:
        address, token = (str(self._place), None) if daemon is None else (daemon.address, daemon.token)
        with Checkpointer(
            address, run="bench", rank=0, world_size=1, max_to_keep=1, timeout_s=_TIMEOUT_S, token=token
        ) as checkpointer:
            yield checkpointer

    def _prepare(self, checkpointer: Checkpointer) -> None:
        checkpointer.prepare(self._arrays)
        time.sleep(_PREPARED_S)


def _memory(arrays: Arrays) -> tuple[float, float]:
    """Return how long it takes to copy the arrays into memory that exists, and into new memory."""
    into = {name: np.zeros_like(array) for name, array in arrays.items()}
    names = list(arrays)

    def copy(mine: list[str]) -> None:
        for name in mine:
            np.copyto(into[name], arrays[name])

    copies, news = [], []
    for _ in range(_ROUNDS):
        threads = [threading.Thread(target=copy, args=(names[number::_COPIERS],)) for number in range(_COPIERS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        copies.append(time.perf_counter() - began)
        began = time.perf_counter()
        fresh = [array.copy() for array in arrays.values()]
        news.append(time.perf_counter() - began)
        del fresh
    return statistics.median(copies), statistics.median(news)


def _processor_s(daemon: Daemon | None) -> float:
    """Return the processor seconds of a daemon so far."""
    if daemon is None:
        return 0.0
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
