"""A coordinator whose root another has taken: it wakes up, and neither publishes nor removes anything.

Each case is tried without the look at the term as well, and then it has an effect: so the look is what holds it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ckptd.engine.catalog.term import Term
from ckptd.errors import CkptdError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock


class Watched(MemoryStore):
    """Counts what changes something, sweeps of uploads included."""

    def __init__(self, has_locks: bool) -> None:
        super().__init__(has_locks=has_locks)
        self.changes: list[str] = []

    def put(self, key, data):
        self.changes.append(f"put {key}")
        return super().put(key, data)

    def replace(self, key, data, *, if_version=None):
        stat = super().replace(key, data, if_version=if_version)
        self.changes.append(f"replace {key}")
        return stat

    def delete(self, keys, *, if_version=None):
        self.changes += [f"delete {key}" for key in keys]
        super().delete(keys, if_version=if_version)

    def sweep_unfinished(self, directory, *, given_up=(), spare=(), only=None):
        self.changes.append(f"sweep {directory}")
        return []


class Zombie:
    """A coordinator that has begun a save, and is then paused past the start of the next."""

    def __init__(self, store: Watched, looks: bool) -> None:
        self.store, self.clock = store, HandClock()
        self.term = Term(store, self.clock, holder="former")
        self.term.take()
        self.confirm = self.term.confirm if looks else (lambda max_age_s: None)
        self.run = Run(store, self.clock, max_to_keep=1, confirm_root=self.confirm)
        self.run.save(1)
        self.record = self.run.begin(2, writers=("h1",))
        self.undropped = self.run.begin(3)
        self.run.commit(self.undropped)  # and step 1 is still to be deleted
        Term(store, self.clock, holder="later").take()
        store.changes.clear()


def publish(zombie: Zombie) -> None:
    zombie.run.commit(zombie.record)


def sweep(zombie: Zombie) -> None:
    zombie.run.catalog.abandon(zombie.record)


def retire(zombie: Zombie) -> None:
    zombie.run.catalog.retire()


def delete(zombie: Zombie) -> None:
    zombie.run.catalog.edits.delete(3, for_good=True, even_latest=True)


def recover(zombie: Zombie) -> None:
    zombie.run.catalog.upkeep.recover()


def open_anew(zombie: Zombie) -> None:
    Run(zombie.store, zombie.clock, confirm_root=zombie.confirm)


ACTS = [publish, sweep, retire, delete, recover, open_anew]


@pytest.mark.parametrize("has_locks", [False, True], ids=["a bucket", "a directory whose locks are host-local"])
@pytest.mark.parametrize("act", ACTS)
def test_it_has_no_effect_and_would_have_one_without_the_look_at_the_term(
    has_locks: bool, act: Callable[[Zombie], None]
) -> None:
    zombie = Zombie(Watched(has_locks), looks=True)
    before = zombie.run.files()
    try:
        act(zombie)
    except CkptdError:
        pass
    else:
        assert act is retire  # it only logs
    assert zombie.store.changes == []
    assert zombie.run.files() == before
    assert zombie.term.is_fenced

    mutant = Zombie(Watched(has_locks), looks=False)
    act(mutant)
    assert mutant.store.changes != []


def test_a_record_is_not_begun_long_after_the_root_was_taken() -> None:
    zombie = Zombie(Watched(True), looks=True)
    zombie.clock.advance(6.0)
    with pytest.raises(CkptdError, match="later"):
        zombie.run.begin(4)
    assert zombie.store.changes == []
