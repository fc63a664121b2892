"""What a run tells the journal, and that a removal waits when the journal refuses it."""

from __future__ import annotations

import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ckptd.engine.catalog.recovery import Fate, RecoveryOutcome
from ckptd.engine.catalog.root import LOCK_KEY
from ckptd.engine.identity import RunOptions
from ckptd.engine.journal import BEGUN, DAEMON, DONE
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.held_root import HeldRoot
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.engine.settings import Settings
from ckptd.errors import StorageFullError, UnavailableError
from ckptd.storage.bucket.fsspec_bucket import FsspecBucket
from ckptd.storage.bucket.object_store import ObjectStore
from ckptd.storage.memory import MemoryStore
from tests.fakes.job import Rank, save_all

RUN = "runs/r"


class Kept:
    """A journal that keeps its entries, and refuses to begin some events."""

    def __init__(self):
        self.entries = []
        self.refused = set()

    def begins(self, entry):
        if entry.event in self.refused:
            raise StorageFullError(f"the {entry.event} is refused")
        self.entries.append(entry)

    def ended(self, entry):
        self.entries.append(entry)

    def of(self, event):
        return [(each.step, each.outcome) for each in self.entries if each.event == event]


@pytest.fixture
def journal():
    return Kept()


@pytest.fixture
def coordinator(journal):
    made = Coordinator(MemoryStore("m"), settings=Settings(undo_s=0.0), journal=journal)
    made.open()
    yield made
    made.close()


@pytest.fixture
def rank(coordinator):
    return Rank(coordinator, 0, 1, options=RunOptions(max_to_keep=1)).join()


def save(rank, step):
    outcome = save_all([rank], step)
    assert rank.coordinator.settle(20)
    return outcome


def test_a_save_and_what_retention_deletes_because_of_it_are_told_in_order(rank, journal):
    save(rank, 1)
    save(rank, 2)
    assert [(each.event, each.step, each.outcome) for each in journal.entries] == [
        ("save", 1, BEGUN),
        ("save", 1, "committed"),
        ("save", 2, BEGUN),
        ("save", 2, "committed"),
        ("remove", 1, BEGUN),
        ("remove", 1, DONE),
    ]
    assert all(each.actors == (DAEMON,) and each.run == RUN for each in journal.entries)


def test_what_retention_would_delete_waits_until_it_can_be_told(rank, journal, coordinator):
    journal.refused = {"remove"}
    save(rank, 1)
    save(rank, 2)
    assert any("m-1" in stat.key or "ckpt-1." in stat.key for stat in coordinator.store.list(RUN))
    assert not journal.of("remove")
    journal.refused = set()
    save(rank, 3)
    assert sorted(journal.of("remove")) == [(1, BEGUN), (1, DONE), (2, BEGUN), (2, DONE)]
    assert not any("ckpt-1." in stat.key for stat in coordinator.store.list(RUN))


def test_a_save_that_must_not_be_is_refused_and_leaves_nothing(rank, journal, coordinator):
    journal.refused = {"save"}
    with pytest.raises(StorageFullError, match="the save is refused"):
        save(rank, 1)
    assert coordinator.settle(20)
    assert journal.of("save") == [(1, "aborted")]
    assert not any("ckpt-1" in stat.key for stat in coordinator.store.list(RUN))
    journal.refused = set()
    save(rank, 1)


def test_a_removal_that_fails_half_way_is_told_so(rank, journal, coordinator, monkeypatch):
    save(rank, 1)
    delete = coordinator.store.delete

    def fails(keys):
        if any("ckpt-1." in key for key in keys):
            raise UnavailableError("the store hangs")
        delete(keys)

    monkeypatch.setattr(coordinator.store, "delete", fails)
    save(rank, 2)
    assert journal.of("remove") == [(1, BEGUN), (1, "failed")]
    begun, failed = [each for each in journal.entries if each.event == "remove"]
    assert begun.act == failed.act
    assert failed.details["error"] == "UnavailableError"


def test_what_recovery_and_other_owners_do_is_told_with_its_step_and_the_owner(journal):
    told = RunJournal(journal, RUN)
    told.recovered(RecoveryOutcome(f"/root/{RUN}/model.ckpt-00000007", Fate.SWEEP, "it was never committed"))
    told.recovered(RecoveryOutcome(f"/root/{RUN}/model.ckpt-8", Fate.NOTHING, "it is published"))
    told.taken_over("ckptd serve on b")
    told.taken_back("ckptd serve on b")
    recovered, lost, back = journal.entries
    assert (recovered.step, recovered.details["fate"]) == (7, "swept")
    assert [each.details["owner"] for each in (lost, back)] == ["ckptd serve on b"] * 2


def test_a_root_that_is_taken_from_an_owner_that_did_not_release_it_is_told_so(journal, monkeypatch):
    files = MemoryFileSystem(skip_instance_cache=True)
    store = ObjectStore(FsspecBucket(files, "fsspec-memory", f"/{uuid.uuid4().hex}"), "root")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
        store.lock(LOCK_KEY, holder="ckptd serve on b")
    root = HeldRoot(store, owns_all=True, takes_over=True, holder="ckptd serve on a")
    root.take(allow_unfenced=True, journal=journal)
    root.release()
    [taken] = journal.entries
    assert (taken.event, taken.outcome) == ("take-over", "taken from another owner")
    assert taken.details == {"owner": "ckptd serve on b"}
