from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ckptd.engine.catalog.shared_trial import KEY, SEEN_WITHIN_S, SharedTrial, note_of, tried
from ckptd.engine.hosts.messages import AgentLife, Hello
from ckptd.engine.refusals import NotNowError
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.storage.base import Store
from ckptd.storage.locations import open_store
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock

AGENT = AgentLife("h1", "one")
HELLO = Hello(AGENT, "root", 0)


class _Shared:
    """A directory, its coordinator's trial, and a second directory for an agent that sees another one."""

    def __init__(self, base: Path) -> None:
        self.base, self.clock = base, HandClock()
        self.store = open_store(str(base / "shared"), shared=True)
        self.trial = SharedTrial(self.store, self.clock, "the coordinator")
        self.trial.begin()

    def seen(self, name: str = "shared") -> Store:
        """Return what an agent has opened: as a directory of one host, as it writes only data there."""
        return open_store(str(self.base / name))


@pytest.fixture
def shared(tmp_path: Path):
    made = _Shared(tmp_path)
    yield made
    made.trial.end()


def test_an_agent_that_shares_the_directory_passes_and_leaves_nothing(shared: _Shared) -> None:
    shared.trial.check(tried(shared.seen(), HELLO))
    assert sorted(os.listdir(shared.base / "shared/.ckptd")) == [".shared-trial.ckptd-lock", "shared-trial"]


def test_in_a_bucket_and_where_nobody_tries_nothing_is_tried(tmp_path: Path) -> None:
    assert tried(MemoryStore(), HELLO) == HELLO
    assert tried(open_store(str(tmp_path)), HELLO) == HELLO
    assert os.listdir(tmp_path) == []


def test_locks_of_one_host_are_refused_by_host_and_directory(shared: _Shared) -> None:
    hello = tried(shared.seen(), HELLO)
    assert hello.trial is not None
    with pytest.raises(InvalidRequestError) as caught:
        shared.trial.check(replace(hello, trial=replace(hello.trial, got_lock=True)))
    assert f"the agent on h1 cannot share {shared.base}/shared with its coordinator" in str(caught.value)
    assert "without local_lock" in str(caught.value)


def test_a_lock_that_nobody_holds_is_got(shared: _Shared) -> None:
    shared.trial.end()
    hello = tried(shared.seen(), HELLO)
    assert hello.trial is not None
    assert hello.trial.got_lock


@pytest.mark.parametrize("sees", ["nothing", "an old word", "a copy"])
def test_what_is_not_seen_is_waited_for_and_then_refused(shared: _Shared, sees: str) -> None:
    other = open_store(str(shared.base / "other"), shared=True)
    if sees != "nothing":
        other.put(KEY, b"0" * 32 if sees == "an old word" else shared.store.get(KEY))
    hello = tried(shared.seen("other"), HELLO)
    for _ in range(2):
        with pytest.raises(NotNowError, match="try whether they share"):
            shared.trial.check(hello)
    shared.clock.advance(SEEN_WITHIN_S)
    with pytest.raises(InvalidRequestError, match="does not share") as caught:
        shared.trial.check(hello)
    assert {"nothing": "not tried", "an old word": "does not see", "a copy": "is not seen here"}[sees] in str(
        caught.value
    )
    shared.trial.check(tried(shared.seen(), HELLO))  # mounted meanwhile


def test_each_life_of_a_coordinator_tries_anew(shared: _Shared) -> None:
    before = tried(shared.seen(), HELLO)
    assert shared.store.get(note_of(AGENT))
    with pytest.raises(ConflictError):
        shared.store.lock(KEY, holder="another coordinator")
    shared.trial.end()
    following = SharedTrial(shared.store, shared.clock, "the next one")
    following.begin()
    with pytest.raises(NotNowError):
        following.check(before)
    following.check(tried(shared.seen(), HELLO))
    following.end()


def test_what_an_agent_cannot_do_is_told(shared: _Shared) -> None:
    hello = tried(shared.seen(), HELLO)
    assert hello.trial is not None
    with pytest.raises(InvalidRequestError, match="mounted with nocto"):
        shared.trial.check(replace(hello, trial=replace(hello.trial, problem="/d is mounted with nocto: …")))
