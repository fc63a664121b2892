"""Reading, for peers that cannot reach the store themselves: what there is, and the bytes of its objects."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ckptd.access.roles import Right
from ckptd.engine.front import StoredCheckpoints
from ckptd.engine.journal import Actor
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.starts import Agreement
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError
from ckptd.service.calls import Call
from ckptd.service.flow import Budgets
from ckptd.service.opening import Openings
from ckptd.service.pools import Pools
from ckptd.service.recorder import Recorder
from ckptd.service.save import Host
from ckptd.storage.base import Objects, ObjectStat
from ckptd.storage.capabilities import PooledObjects, SlicePart, ViewedObjects
from ckptd.wire import chunks, convert, restored
from ckptd.wire.v1 import read_pb2

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_SETTLE_S = 30.0
_AGREEMENTS = {
    Agreement.WAITING: read_pb2.AGREEMENT_WAITING,
    Agreement.AGREED: read_pb2.AGREEMENT_AGREED,
    Agreement.GO_BACK: read_pb2.AGREEMENT_GO_BACK,
}
_MESSAGES_AT_ONCE = 2
_MESSAGES_OF_AGENTS = 4  # a block
_READS_OF_AGENTS = 16
_READS_OF_MEMORY = 8
_ALIVE_S = 0.5  # how often an agent that waits for the store says so
_MOST_PASSED_BY = 8  # checkpoints, in one answer
_MOST_REASON = 500  # characters
_MOST_SLICES = 4096
_MOST_RANGES = 64  # that a rank says it will read next
_MOST_AHEAD = 32  # messages that are read before their peer can take them, of all streams together, but one of each


MOST_CHECKS = 1024
"""Readings of damage that one identity may have begun; each goes on when its caller has gone."""

_Which = tuple[str, str, str, Suspicion]


@dataclass(slots=True)
class _Checker:
    """What one identity lets the daemon read again."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_checks: int = 0


def _passed_by(stored: StoredCheckpoints) -> tuple[str, ...]:
    return stored.passed_by


class ReadService:
    """Behaviours of `ReadService`."""

    def __init__(self, coordinator: Engine, host: Host, pools: Pools, flow: Budgets, recorder: Recorder) -> None:
        self._coordinator, self._recorder = coordinator, recorder
        self._host = host
        self._pools = pools
        self._flow = flow
        self._openings = Openings(coordinator, pools)
        self._checkers: dict[str, _Checker] = {}
        self._checks: dict[_Which, asyncio.Future[DamageVerdict]] = {}
        self._for_agents = asyncio.Semaphore(_READS_OF_AGENTS)
        self._agents_threads = ThreadPoolExecutor(_READS_OF_AGENTS, thread_name_prefix="ckptd-for-agents")
        self._held = asyncio.Semaphore(_READS_OF_MEMORY)
        self._held_threads = ThreadPoolExecutor(_READS_OF_MEMORY, thread_name_prefix="ckptd-held")

    async def latest(self, request: read_pb2.LatestRequest, call: Call) -> read_pb2.LatestReply:
        """Return the newest complete checkpoint of a run and a name, if there is one."""
        run, name = convert.run_from_wire(request.run), convert.series_from_wire(request.name)
        await self._settle(run)
        restoring = convert.restoring_from_wire(request.restoring) if request.HasField("restoring") else None
        if restoring is None:
            latest = await self._openings.control(run, self._coordinator.latest, run, name)
        else:
            latest = await self._openings.control(
                run, self._coordinator.restores.latest, run, name, restoring, _reader_of(call, run)
            )
        passed_by = await self._openings.control(run, self._coordinator.look, run, _passed_by, ())
        return read_pb2.LatestReply(
            checkpoint=None if latest is None else convert.checkpoint_to_wire(latest, run),
            root=self._host.root,
            root_id=self._host.root_id,
            arena=self._host.arena_for(call.caller),
            passed_by=[each[:_MOST_REASON] for each in passed_by[-_MOST_PASSED_BY:]],
        )

    async def list(self, request: read_pb2.ListRequest, call: Call) -> read_pb2.ListReply:
        """Return all checkpoints of a run, oldest first."""
        run = convert.run_from_wire(request.run)
        await self._settle(run)
        checkpoints = await self._openings.control(run, self._coordinator.checkpoints, run)
        return read_pb2.ListReply(
            checkpoints=[convert.checkpoint_to_wire(checkpoint, run) for checkpoint in checkpoints],
            root=self._host.root,
            root_id=self._host.root_id,
            arena=self._host.arena_for(call.caller),
        )

    async def check_damage(self, request: read_pb2.CheckDamageRequest, call: Call) -> read_pb2.CheckDamageReply:
        """Read bytes again that looked wrong to a reader.

        That may take longer than a call may: a repeated one waits for the same reading, and so do other readers.
        """
        run, key = convert.run_from_wire(request.run), convert.key_from_wire(request.key)
        restoring = convert.restoring_from_wire(request.restoring) if request.HasField("restoring") else None
        offset = request.offset if request.HasField("offset") else None
        save_id = convert.text_from_wire(request.save_id)
        which = run, key, save_id, Suspicion(request.object_key, offset)
        check = self._checks.get(which)
        if check is None:
            check = self._checks[which] = self._begin_check(which, call)
        verdict = await asyncio.shield(check)
        others = ""
        if restoring is not None and verdict.is_confirmed:
            others = await self._openings.control(
                run, self._coordinator.restores.go_back, run, restoring, _reader_of(call, run)
            )
        return read_pb2.CheckDamageReply(
            confirmed=verdict.is_confirmed,
            reason=verdict.reason,
            listed_no_more=verdict.is_listed_no_more,
            others=others,
        )

    def _begin_check(self, which: _Which, call: Call) -> asyncio.Future[DamageVerdict]:
        """Begin a reading that goes on without its caller; `NotNowError` if the caller has begun too many."""
        whose = str(call.caller)
        checker = self._checkers.setdefault(whose, _Checker())
        if checker.num_checks >= MOST_CHECKS:
            raise NotNowError(f"{whose} has {checker.num_checks} readings of damage under way, and may have no more")
        checker.num_checks += 1
        check = asyncio.ensure_future(self._check(*which, call.actor, checker.turn))

        def over(_: object) -> None:
            self._checks.pop(which, None)
            checker.num_checks -= 1
            if not checker.num_checks:
                del self._checkers[whose]

        check.add_done_callback(over)
        return check

    async def _check(
        self, run: str, key: str, save_id: str, suspicion: Suspicion, actor: Actor, turn: asyncio.Lock
    ) -> DamageVerdict:
        by = f"{self._host.peer.host}, pid {self._host.peer.pid}"
        async with turn:  # one after the other of an identity: many readers see the same damage
            return await self._pools.data(
                self._coordinator.in_catalog,
                run,
                lambda stored: stored.check_damage(key, save_id, suspicion, by, (actor,)),
            )

    async def agree(self, request: read_pb2.AgreeRequest, call: Call) -> read_pb2.AgreeReply:
        """Take what a rank found in the checkpoint that all ranks restore together."""
        run, name = convert.run_from_wire(request.run), convert.series_from_wire(request.name)
        restoring = convert.restoring_from_wire(request.restoring)
        agreement, missing = await self._openings.control(
            run,
            self._coordinator.restores.agree,
            run,
            name,
            restoring,
            request.prefix,
            request.whole,
            _reader_of(call, run),
        )
        return read_pb2.AgreeReply(agreement=_AGREEMENTS[agreement], missing=missing)

    async def restored(self, request: read_pb2.RestoredRequest, call: Call) -> read_pb2.RestoredReply:
        """Note what a process has restored."""
        run, measured = convert.run_from_wire(request.run), restored.from_wire(request)
        self._recorder.measured("restore", run, measured)
        return read_pb2.RestoredReply()

    async def _settle(self, run: str) -> None:
        """Wait a moment for saves whose processes have died, but whose bytes are all here."""
        saves = self._coordinator.saves_of(run)
        unattended = [] if saves is None else await self._pools.look(saves.unattended)
        if unattended:
            await asyncio.wait({asyncio.wrap_future(each) for each in unattended}, timeout=_SETTLE_S)

    async def read(self, request: read_pb2.ReadRequest, call: Call) -> None:
        """Send a byte range of one object, after a description of it."""
        key = convert.key_from_wire(request.key)
        stall_s = self._flow.limits.stall_s
        if request.for_agent:
            await self._read_for_agent(request, key, call)
            return
        async with (
            self._flow.reads_of_runs.hold(_run_of(key), 1, patience_s=stall_s, holder=call),
            self._flow.read_streams.hold(call.shares, 1, patience_s=stall_s, holder=call),
        ):
            self._coordinator.note_read(key)
            objects = self._coordinator.objects
            if request.originals and isinstance(objects, PooledObjects):
                objects.forget(key)
                objects = objects.beneath
            elif request.slices and isinstance(objects, PooledObjects):
                objects = objects.checked(_slices(request), max(1, request.num_ranks))
            stat = await self._pools.control(_run_of(key), objects.stat, key)
            if request.then and isinstance(pooled := self._coordinator.objects, PooledObjects):
                self._pools.dispatch(_run_of(key), partial(_expect, pooled, request))
            blocks = _Blocks(self._coordinator, objects, key, *_range(request, stat))
            described = read_pb2.ReadReply(
                object_size=stat.size_bytes, modified_at=stat.modified_at, version=stat.version
            )
            ahead: deque[asyncio.Future[list[bytes]]] = deque()
            try:
                await call.write(described.SerializeToString(), stall_s=stall_s)
                while not blocks.is_over or ahead:
                    # The store is at work while the peer takes what it has brought.
                    messages, reads = self._ahead()
                    while not blocks.is_over and len(ahead) <= reads:
                        ahead.append(self._pools.begin(_run_of(key), blocks.read, blocks.next(messages)))
                    for message in await ahead.popleft():
                        await call.write(message, stall_s=stall_s)
                        self._flow.meter.sent(len(message))
            finally:
                for reading in ahead:
                    reading.cancel()

    async def _read_for_agent(self, request: read_pb2.ReadRequest, key: str, call: Call) -> None:
        """Send what another host's agent wants, with threads of its own: agents that ask each other must not wait.

        While the store is at work, messages without bytes say that this agent is alive.
        """
        objects, loop, stall_s = self._coordinator.objects, asyncio.get_running_loop(), self._flow.limits.stall_s
        turn, threads = self._for_agents, self._agents_threads
        if isinstance(objects, PooledObjects):
            # Whoever reads a block for others may ask us for what is in memory: that waits for none of these.
            turn, threads = (self._held, self._held_threads) if request.held_save else (turn, threads)
            objects = objects.held(convert.text_from_wire(request.held_save)) if request.held_save else objects.own
        async with turn:
            self._coordinator.note_read(key)
            stat = await loop.run_in_executor(threads, objects.stat, key)
            described = read_pb2.ReadReply(
                object_size=stat.size_bytes, modified_at=stat.modified_at, version=stat.version
            )
            await call.write(described.SerializeToString(), stall_s=stall_s)
            blocks = _Blocks(self._coordinator, objects, key, *_range(request, stat))
            while not blocks.is_over:
                reading = loop.run_in_executor(threads, blocks.read, blocks.next(_MESSAGES_OF_AGENTS))
                while not (await asyncio.wait({reading}, timeout=_ALIVE_S))[0]:
                    await call.write(described.SerializeToString(), stall_s=stall_s)
                for message in await reading:
                    await call.write(message, stall_s=stall_s)
                    self._flow.meter.sent(len(message))

    def _ahead(self) -> tuple[int, int]:
        """Return how many messages of a stream are read at once, and how many such reads go ahead of the peer."""
        share = _MOST_AHEAD // self._flow.read_streams.held
        messages = max(1, min(_MESSAGES_AT_ONCE, share))
        readers = max(1, self._coordinator.objects.access.num_readers // 2)
        return messages, min(readers, share // messages)  # none goes ahead where many share


class _Blocks:
    """Reads a byte range of one object, a few messages at a time."""

    def __init__(self, coordinator: Engine, objects: Objects, key: str, start: int, end: int) -> None:
        self._coordinator, self._objects = coordinator, objects
        self._key = key
        self._at = start
        self._end = end
        self._viewed = objects if isinstance(objects, ViewedObjects) else None

    @property
    def is_over(self) -> bool:
        """Whether all of it has been requested."""
        return self._at == self._end

    def next(self, messages: int) -> range:
        """Return which bytes come next, at most so many messages of them."""
        # Cut where blocks that are kept as messages are: those are sent as they are.
        begin, cut = self._at, (self._at // chunks.CHUNK_BYTES + messages) * chunks.CHUNK_BYTES
        self._at = min(cut, self._end)
        return range(begin, self._at)

    def read(self, span: range) -> list[bytes]:
        """Return the messages with these bytes. Several threads may call at once."""
        self._coordinator.note_read(self._key)
        if self._viewed is not None:
            return [chunks.message_of(view) for view in self._viewed.views(self._key, span.start, len(span))]
        return chunks.encode_blocks(len(span), lambda places: self._objects.read_into(self._key, span.start, *places))


def _reader_of(call: Call, run: str) -> str:
    """Return on whose behalf a caller restores: with a right to read alone it has no say in what trainers restore."""
    return "" if call.may(Right.SAVE, run) else str(call.caller)


def _run_of(key: str) -> str:
    """Return whose share a read is of."""
    return key.rpartition("/")[0]


def _expect(objects: PooledObjects, request: read_pb2.ReadRequest) -> None:
    """Say what a rank will read, from what it reads now on."""
    with suppress(CkptdError):  # the reads themselves meet it
        objects.expect(request.key, request.offset, max(0, request.size))
        for each in request.then[:_MOST_RANGES]:
            if (
                _run_of(key := convert.key_from_wire(each.key)) == _run_of(request.key)
                and min(each.offset, each.size) >= 0
            ):
                objects.expect(key, each.offset, each.size)


def _slices(request: read_pb2.ReadRequest) -> list[SlicePart]:
    if len(request.slices) > _MOST_SLICES or any(
        min(each.offset, each.size, each.wanted_bytes) < 0 for each in request.slices
    ):
        raise InvalidRequestError("slices of a read", expected=f"at most {_MOST_SLICES}, none negative")
    return [SlicePart(each.offset, each.size, each.crc32c, each.wanted_bytes) for each in request.slices]


def _range(request: read_pb2.ReadRequest, stat: ObjectStat) -> tuple[int, int]:
    if request.offset < 0 or request.size < -1:
        raise InvalidRequestError("a byte range is not negative", actual=(request.offset, request.size))
    end = stat.size_bytes if request.size == -1 else request.offset + request.size
    if request.size and (end > stat.size_bytes or request.offset > end):
        raise CorruptionError(
            "the object ends before the range that is wanted",
            key=stat.key,
            offset=request.offset,
            expected=f"{max(request.size, 0)} bytes",
            actual=f"{max(stat.size_bytes - request.offset, 0)} bytes",
        )
    return request.offset, end
