"""What an agent writes, and what it says has ended: nothing of it comes to a save's keys afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from ckptd.agent.effects import Effect, Fill, Stop, Tell
from ckptd.agent.host_call import HostCall
from ckptd.agent.host_save import HostOutcome
from ckptd.agent.machine import AgentMachine
from ckptd.agent.whereabouts import Whereabouts
from ckptd.agent.writing import Writing
from ckptd.engine.hosts.messages import AgentLife, Attached, Go, HostDeclaration
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.lanes.host_share import part_of
from ckptd.engine.lanes.plan import plan
from ckptd.engine.saves.answers import settled_by_engine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, SessionAbortedError, StorageFullError
from ckptd.storage.base import Buffer
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.many_hosts import declaration
from tests.fakes.ranks import Ranks
from tests.fakes.waiting import eventually, never

LIFE = AgentLife("a", "one")
KEY = "r/m-5.data-00000-of-00001"


class Told(AgentMachine):
    """Notes which saves' writers have ended."""

    def stopped(self, save_id: str) -> list[Effect]:
        STOPPED.append(save_id)
        return super().stopped(save_id)


class FinishesAnyTime(Told):
    """One that hung for as long as may be, and goes on."""

    def may_finish(self, save_id: str, now: float) -> bool:
        return True


STOPPED: list[str] = []


class SlowToCreate(MemoryStore):
    """Waits before a writer is made, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_creating, self.may_create = threading.Event(), threading.Event()
        self.is_aborted = False

    def create(self, key, size_bytes):
        self.is_creating.set()
        assert self.may_create.wait(60)
        writer = super().create(key, size_bytes)
        abort = writer.abort

        def aborted() -> None:
            assert not STOPPED, "it has said before that nothing is left"
            self.is_aborted = True
            abort()

        writer.abort = aborted
        return writer


class FailsLate(MemoryStore):
    """Waits in each write until it is told to go on, and fails then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing, self.may_fail = threading.Event(), threading.Event()

    def create(self, key, size_bytes):
        writer = super().create(key, size_bytes)

        def write(offset: int, data: Buffer) -> None:
            self.is_writing.set()
            assert self.may_fail.wait(120)  # longer than the test waits for anything
            raise StorageFullError("the store is full", key=key)

        writer.write = write
        return writer


def nothing_to_send() -> Ranks:
    """Return a rank that owes nothing, so that a shard is sealed at once."""
    ranks = Ranks(1)
    ranks.hold("w", np.zeros((0,), np.float32), {0: None})
    return ranks


def something_to_send() -> Ranks:
    """Return a rank that owes a tensor."""
    ranks = Ranks(1)
    ranks.hold("w", np.arange(16, dtype=np.float32), {0: None})
    return ranks


def order_for(ranks: Ranks) -> tuple[Go, HostDeclaration]:
    """Return an order for the one shard of a rank."""
    layout = plan(ranks.manifests, 1, hosts=["a"])
    share = part_of(layout, "a")
    said = declaration("a", 5, (0,), 1)
    size = layout.shard_sizes[share.shard]
    return Go(3, said.request_id, "s", 1, share.shard, KEY, size, share.whole_digest, share.layout), said


def call_of(ranks: Ranks, fill: Fill) -> HostCall:
    """Return the call of a rank that streams its bytes."""
    [manifest] = ranks.manifests
    said = Declaration(SaveRef("r", 0, 5, rank=0, incarnation="i"), "q", 1, manifest.digest)
    call = HostCall("r", said, 0.0, request_id=fill.go.request_id)
    call.declarations[0], call.claims[0] = said, Claim.of(said, manifest, None, settled_by_engine())
    return call


@contextmanager
def writing(
    store: MemoryStore, clock: HandClock, machine: type[AgentMachine], ranks: Ranks | None = None
) -> Iterator[tuple[Writing, Fill]]:
    STOPPED.clear()
    threads = EngineThreads(Settings())
    threads.open()
    made = machine(LIFE, "root")
    order = order_for(ranks or nothing_to_send())
    written = Writing(
        store,
        Whereabouts(store, ["unix:///nowhere"]),
        made,
        clock=clock,
        threads=threads,
        find_manifest=NotImplemented,
        on_attached=int,
    )
    with written.lock:
        made.tick(clock.boot_s())
        made.hear(Attached(3, 15.0), clock.boot_s())
        made.declare(order[1], clock.boot_s())
        [fill] = made.hear(order[0], clock.boot_s())
    assert isinstance(fill, Fill)
    try:
        yield written, fill
    finally:
        threads.close()


def test_an_agent_says_that_its_writers_have_ended_when_the_one_that_was_being_created_is_aborted():
    store = SlowToCreate()
    with writing(store, HandClock(), Told) as (written, fill):
        with written.lock:
            written.do([fill])
        assert store.is_creating.wait(60)
        with written.lock:
            written.do([Stop("s")])
        never(lambda: STOPPED, "the end of its writers")
        store.may_create.set()
        eventually(lambda: STOPPED == ["s"], "the end of its writers")
        assert store.is_aborted
    assert KEY not in [each.key for each in store.list("r")]


@pytest.mark.parametrize(("machine", "is_written"), [(Told, False), (FinishesAnyTime, True)])
def test_an_agent_that_hung_for_longer_than_a_save_takes_makes_nothing_durable_any_more(machine, is_written):
    store, clock = SlowToCreate(), HandClock()
    with writing(store, clock, machine) as (written, fill):
        with written.lock:
            written.do([fill])
        assert store.is_creating.wait(60)
        clock.advance(written.machine.timeout_s + 1)
        store.may_create.set()
        if is_written:
            eventually(lambda: [each.key for each in store.list("r")] == [KEY], "the shard")
        with written.lock:
            written.do([Stop("s")])
        eventually(lambda: STOPPED == ["s"], "the end of its writers")
    assert ([each.key for each in store.list("r")] == [KEY]) is is_written


def test_a_save_that_ends_does_not_wait_for_a_write_that_is_about_to_fail_and_to_tell_so():
    """The end comes with the agent's lock held, and the write, which wants that lock, holds its lane."""
    store, ranks = FailsLate(), something_to_send()
    with writing(store, HandClock(), Told, ranks) as (written, fill):
        call = call_of(ranks, fill)
        with written.lock:
            written.calls.begin(call)
            written.do([fill])
        eventually(lambda: call.shard, "its shard")
        lane, sent, told = call.shard.lanes[0], [], []

        def send() -> None:
            try:
                ranks.fill(fill.go.share, [lane])
            except CkptdError as error:
                sent.append(error)

        def tell() -> None:
            with written.lock:
                written.do([Tell(call.request_id, HostOutcome(reason="a rank is gone"))])
            told.append(call.error)

        threading.Thread(target=send, daemon=True).start()
        assert store.is_writing.wait(60)
        threading.Thread(target=tell, daemon=True).start()
        eventually(lambda: told, "the end, while the write goes on")
        with pytest.raises(SessionAbortedError, match="a rank is gone"):
            lane.check_open()
        with written.lock:
            written.do([Stop("s")])
        never(lambda: STOPPED, "the end of its writers, of which one writes")
        store.may_fail.set()
        eventually(lambda: sent and STOPPED == ["s"], "the end of the write, and of its writers")
        assert isinstance(sent[0], StorageFullError)
    assert KEY not in [each.key for each in store.list("r")]
