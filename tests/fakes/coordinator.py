"""A coordinator without an engine: answers the service's calls from a few dicts, one rank at a time.

It keeps the real one's manners (shared futures, typed errors, callbacks from other threads), and lets tests hold
things back: `declared` futures stay open until `plan`, outcomes until `publish` or `fail`.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.layout import Assignment, Lane, LaneTransport
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format.crc32c import crc32c
from ckptd.storage.memory import MemoryStore

STREAM = frozenset({LaneTransport.STREAM})


class FakeLane:
    def __init__(self, size_bytes):
        self.size_bytes = size_bytes
        self.data = bytearray()
        self.crcs = b""
        self.ended = False
        self.excused = 0
        self.let_write = threading.Event()
        self.let_write.set()
        self.writing = threading.Semaphore(0)

    @property
    def received(self):
        return len(self.data)

    def write(self, position, data, crc):
        self.writing.release()
        assert self.let_write.wait(60)
        if crc32c(data) != crc:
            raise CorruptionError("bytes were damaged on the way", offset=position)
        fresh = data[len(self.data) - position :]
        self.data += fresh
        return self.received

    def excuse(self):
        self.excused += 1

    def end(self, first_segment, crcs, last):
        self.crcs += crcs
        self.ended = last
        return last


class FakeCatalog:
    """Of a run of a `FakeCoordinator`."""

    passed_by = ()

    def __init__(self, coordinator, run):
        self._coordinator, self._run = coordinator, run

    def pin(self, step, pinned):
        self._coordinator.pinned.append((self._run, step, pinned))
        return replace(self._coordinator.newest[self._run], pinned=pinned)

    def delete(self, step, for_good=False, even_latest=False, *, append_only=False):
        raise NotFoundError(f"{self._run} has no step {step}")

    def quarantine_of(self, save_id):
        return ""

    def undelete(self, step):
        raise NotFoundError(f"{self._run} has no step {step} that was deleted lately")


class FakeSaves:
    """Of any run of a `FakeCoordinator`."""

    def __init__(self, coordinator):
        self._coordinator = coordinator

    def differences(self, save, request_id):
        return self._coordinator.differing

    def waiting_for_plan(self, save, request_id):
        return ["rank 1 of 2 to declare"]

    def waiting_for(self, save_id):
        return ["the store"]

    def progress(self, save_id):
        return None

    def unattended(self):
        return []


class FakeManifests(dict):
    def knows(self, digest):
        return digest in self

    def add(self, manifest):
        self[manifest.digest] = manifest


class FakeCoordinator:
    def __init__(self):
        self.store = self.objects = MemoryStore("fake")
        self.root = SimpleNamespace(id="the-root", warnings=())
        self.settings = Settings()
        self.read_keys = []
        self.lock = threading.Lock()
        self.members = {}
        self.told = []  # what was told about members, in order
        self.changed = threading.Condition()
        self.manifests = FakeManifests()
        self.declared = {}
        self.outcomes = {}
        self.phases = {}
        self.lanes = {}
        self.aborted = []
        self.withdrawn = []
        self.listeners = {}
        self.newest = {}
        self.pinned = []
        self.grace_s = None
        self.differing = ()

    def is_founded(self, run):
        return run in self.members

    def _tell(self, what, member):
        with self.changed:
            self.told.append((what, member.rank))
            self.changed.notify_all()

    def wait_until_told(self, what, times=1, timeout_s=60):
        with self.changed:
            assert self.changed.wait_for(lambda: len([t for t in self.told if t[0] == what]) >= times, timeout_s)

    def join(self, run, member, options):
        with self.lock:
            holder = self.members.get((run, member.rank))
            if holder is not None and holder.incarnation != member.incarnation:
                raise ConflictError("the run is in use", expected=str(holder), actual=str(member))
            self.members[run, member.rank] = member
        self._tell("join", member)
        return 7

    def disconnect(self, run, member, epoch):
        assert epoch == 7
        self._tell("disconnect", member)

    def leave(self, run, member, epoch):
        self.members.pop((run, member.rank), None)
        self._tell("leave", member)

    def declare(self, declaration):
        future = self.declared.setdefault(declaration.save.rank, Future())
        with self.changed:
            self.last_declaration = declaration
            self.told.append(("declare", declaration.save.rank))
            self.changed.notify_all()
        return future

    def plan_of(self, save, request_id):
        return self.declared[save.rank]

    def plan(self, save, lane_sizes=(10,)):
        save = replace(save, save_id="s1", attempt=1, plan_id="p1")
        lanes = []
        for shard, size in enumerate(lane_sizes):
            self.lanes[shard] = FakeLane(size)
            lanes.append(Lane(shard, f"k{shard}", (), size, np.array([0]), np.array([0]), np.array([size])))
        self.outcomes[save.save_id] = Future()
        self.phases[save.save_id] = Phase.FILLING
        assignment = Assignment(save, f"{save.run}/m-1", len(lanes), tuple(lanes))
        self.declared.setdefault(save.rank, Future()).set_result(assignment)
        return save

    def lane(self, save, shard):
        if shard not in self.lanes:
            raise ConflictError(f"rank {save.rank} owes shard {shard} nothing")
        return self.lanes[shard]

    def outcome(self, save):
        if save.save_id not in self.outcomes:
            raise NotFoundError("no trace of it")
        return self.outcomes[save.save_id]

    def phase(self, save):
        return self.phases.get(save.save_id)

    def saves_of(self, run):
        return FakeSaves(self)

    def abort(self, save, reason):
        self.aborted.append((save, reason))

    def withdraw(self, save, request_id, reason, name):
        self.withdrawn.append((save, request_id, reason, name))

    def publish(self, run, checkpoint):
        self.newest[run] = checkpoint
        for heard in list(self.listeners.get(run, ())):
            heard(checkpoint)

    def when_open(self, run, create=False):
        opened = Future()
        opened.set_result(None)
        return opened

    def latest(self, run, name="*"):
        return self.newest.get(run)

    latest_for_watchers = latest

    def checkpoints(self, run):
        return [self.newest[run]] if run in self.newest else []

    def in_catalog(self, run, work):
        return work(FakeCatalog(self, run))

    def look(self, run, work, otherwise):
        return work(FakeCatalog(self, run)) if run in self.newest else otherwise

    def subscribe(self, run, heard):
        self.listeners.setdefault(run, []).append(heard)
        return lambda: self.listeners[run].remove(heard) if heard in self.listeners[run] else None

    def attending(self):
        return None

    def note_read(self, key):
        self.read_keys.append(key)

    def runs(self):
        return [
            RunView(
                run=run,
                epoch=7,
                world_size=member.world_size,
                connected_ranks=(member.rank,),
                saves=tuple(
                    SaveView(
                        replace(d.result().save),
                        Phase.FILLING,
                        100,
                        40,
                        1.5,
                        ("rank 1 of 2: 60 B of 100 B",),
                        (1,),
                        frozenset({LaneTransport.STREAM}),
                        crossing_bytes=88,
                    )
                    for d in self.declared.values()
                    if d.done()
                ),
                latest=self.newest.get(run),
                num_checkpoints=1,
                last_error="",
            )
            for (run, _), member in self.members.items()
        ]


def checkpoint(step, run="runs/a", save_id=None):
    return Checkpoint(f"memory://fake/{run}/m-{step}", step, 10, 1, float(step), 0.5, save_id=save_id or f"s{step}")
