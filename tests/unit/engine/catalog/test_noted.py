"""In a store without locks: a change of a record replaces just what its owner knows, however late it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.noted import Noted
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import ConflictError, NotFoundError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore

RECORD = "run/.ckptd/m-1."


def bucket(clock: HandClock | None = None) -> MemoryStore:
    return MemoryStore(has_locks=False, verifies_writes=True, wall_s=(clock or HandClock()).wall_s)


def lost_answer() -> UnavailableError:
    return UnavailableError("the connection broke before the answer")


def noted(store: MemoryStore) -> list[Record]:
    return [each for each in records.load(store, "run").found if each.step == 1]


@pytest.mark.parametrize("writers", [(), ("h1", "h2")], ids=["written here", "written by other hosts"])
def test_an_owner_that_hung_in_a_note_brings_nothing_back_that_its_successor_has_deleted(writers):
    clock = HandClock()
    store = bucket(clock)

    def succeed(number: int, what: str) -> None:
        if what.startswith(f"replace {RECORD}"):
            Run(store, clock).save(2, 3, 4)

    former = Run(HookedStore(store, before=succeed), clock)  # type: ignore[arg-type]
    former.commit(former.begin(1, writers=writers))
    former.catalog.retire()  # it notes that the save is published
    assert former.catalog.upkeep.is_fenced
    assert [each.published for each in noted(store)] == [False for _ in writers[:1]]
    next_one = Run(store, clock)
    assert next_one.steps() == [3, 4]
    assert Fate.LEAVE not in [each.fate for each in next_one.recovery.outcomes]


def test_a_successor_goes_on_when_a_note_of_a_former_owner_comes_in_between():
    clock = HandClock()
    store = bucket(clock)
    former = Run(store, clock)
    former.commit(former.begin(1))
    [record] = noted(store)
    late = replace(record, published=True, saved_at=1.0)

    def arrive(number: int, what: str) -> None:
        if what.startswith(f"replace {RECORD}") and noted(store) == [record]:
            store.replace(record.key, late.encode())

    successor = Run(HookedStore(store, before=arrive), clock)  # type: ignore[arg-type]
    assert successor.steps() == [1]
    [found] = noted(store)
    assert found.published
    assert found.saved_at > 1.0


def a_record(store: MemoryStore) -> Record:
    record = Record("s", 1, "run", "m", 1, "m-1", (1,), 1.0)
    store.put(record.key, record.encode())
    return record


@pytest.mark.parametrize("is_known", [False, True], ids=["read", "with its version"])
def test_what_another_has_changed_or_deleted_is_not_written_over(is_known):
    store = bucket()
    record = a_record(store)
    versions = {record.key: store.stat(record.key).version} if is_known else None
    own = Noted(store)
    own.found([record], versions)
    theirs = records.change(store, record, pinned=True)
    with pytest.raises(ConflictError):
        own.change(replace(record, dropped=True))
    assert records.read(store, record.key) == theirs
    store.delete([record.key])
    with pytest.raises(NotFoundError):
        own.change(replace(record, dropped=True))
    own.forget("s")
    with pytest.raises(NotFoundError):
        own.override(record)


def test_a_change_costs_one_request_once_the_version_is_known():
    store = HookedStore(bucket())
    record = a_record(store)  # type: ignore[arg-type]
    own = Noted(store)  # type: ignore[arg-type]
    own.wrote(record, store.stat(record.key).version)
    dropped = own.change(replace(record, dropped=True))
    assert own.change(dropped) == dropped
    assert own.change(replace(record, pinned=True)).pinned
    assert store.operations == [f"put {record.key}", f"replace {record.key}", f"replace {record.key}"]


@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("is_same", [False, True], ids=["another change", "the same again"])
def test_a_lost_answer_is_no_conflict(took_effect, is_same):
    lost = []

    def lose(number: int, what: str) -> None:
        if what.startswith("replace") and not lost:
            lost.append(what)
            raise lost_answer()

    inner = bucket()
    store = HookedStore(inner, **{"after" if took_effect else "before": lose})
    record = a_record(inner)
    own = Noted(store)  # type: ignore[arg-type]
    own.found([record])
    first = replace(record, dropped=True)
    with pytest.raises(UnavailableError):
        own.change(first)
    second = first if is_same else replace(record, pinned=True)
    assert own.change(second) == second == records.read(inner, record.key)


def test_a_request_whose_answer_was_lost_and_that_comes_late_is_no_conflict():
    """It arrives when the next one has looked at what is there."""
    inner, late = bucket(), []

    def hold(number: int, what: str) -> None:
        if what.startswith("replace") and not late:
            late.append(number)
            raise lost_answer()
        if what.startswith("replace") and len(late) == 1:
            late.append(number)
            inner.replace(record.key, first.encode(), if_version=version)

    record = a_record(inner)
    version = inner.stat(record.key).version
    own = Noted(HookedStore(inner, before=hold))  # type: ignore[arg-type]
    own.found([record])
    first, second = replace(record, dropped=True), replace(record, pinned=True)
    with pytest.raises(UnavailableError):
        own.change(first)
    assert own.change(second) == second == records.read(inner, record.key)


@pytest.mark.parametrize("is_refused", [False, True], ids=["deleted at once", "found by the next attempt"])
def test_a_save_that_was_noted_without_an_answer_shares_no_key_with_the_next_attempt(is_refused):
    clock = HandClock()
    store, refused = bucket(clock), []

    def refuse(number: int, what: str) -> None:
        if what.startswith(f"delete {RECORD}") and is_refused and not refused:
            refused.append(what)
            raise UnavailableError("503, slow down")

    def lose(number: int, what: str) -> None:
        if what.startswith(f"put {RECORD}1-0-"):
            raise lost_answer()

    run = Run(HookedStore(store, before=refuse, after=lose), clock)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        run.begin(1, writers=("h1", "h2"))
    assert len(noted(store)) == len(refused)
    second = run.begin(1, seed=7, writers=("h1", "h2"))
    keys = [key for each in noted(store) for key in each.shard_keys]
    assert len(set(keys)) == len(keys)
    run.commit(second, 7)
    assert Run(store, clock).steps() == [1]
