"""The session's machine: what may happen when, and that nothing else can."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.engine.saves import session as machine
from ckptd.engine.saves.session import Phase, Session, step
from ckptd.errors import ConflictError, SessionAbortedError

LANES = frozenset({(0, 0), (1, 1), (1, 0)})
STORY = [
    (machine.Declared(1), Phase.DECLARING, []),
    (machine.Declared(1), Phase.DECLARING, []),
    (machine.Declared(0), Phase.DECLARING, [machine.MakePlan()]),
    (machine.Planned(3, LANES), Phase.FILLING, [machine.Seal(2)]),
    (machine.ShardSealed(2), Phase.FILLING, []),
    (machine.LaneEnded(0, 0), Phase.FILLING, []),
    (machine.LaneEnded(1, 0), Phase.FILLING, [machine.Seal(0)]),
    (machine.LaneEnded(1, 0), Phase.FILLING, []),
    (machine.LaneEnded(1, 1), Phase.FILLING, [machine.Seal(1)]),
    (machine.ShardSealed(1), Phase.FILLING, []),
    (machine.ShardSealed(0), Phase.SEALED, [machine.AwaitTurn()]),
    (machine.TurnCame(), Phase.SEALED, [machine.Commit()]),
    (machine.TurnCame(), Phase.SEALED, []),
    (machine.Committed(), Phase.COMMITTED, []),
    (machine.Published(), Phase.PUBLISHED, [machine.Announce()]),
]
ERROR = SessionAbortedError("it is over")
EVENTS = [event for event, _, _ in STORY] + [machine.Failed(ERROR), machine.CommitFailed(ERROR)]


def test_a_save_goes_from_declared_to_published():
    session = Session(2)
    for event, phase, effects in STORY:
        session, carried_out = step(session, event)
        assert (session.phase, list(carried_out)) == (phase, effects)


@pytest.mark.parametrize("steps", range(len(STORY)))
def test_a_failure_drops_everything_before_the_commit_point_and_nothing_after(steps):
    session = Session(2)
    for event, _, _ in STORY[:steps]:
        session, _ = step(session, event)
    is_out_of_their_hands = session.committing
    session, effects = step(session, machine.Failed(ERROR))
    if not is_out_of_their_hands:
        assert (session.phase, effects) == (Phase.ABORTED, (machine.Drop(ERROR),))
    else:
        assert effects == ()
    assert step(session, machine.Failed(ERROR))[1] == ()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_no_order_of_events_commits_before_all_is_sealed_or_twice(events):
    session, seen = Session(2), []
    for event in events:
        try:
            session, effects = step(session, event)
        except ConflictError:
            continue
        for effect in effects:
            if isinstance(effect, machine.Commit):
                assert not session.unsealed
                assert not session.owed
                assert not session.missing
            seen.append(type(effect))
    for once in (machine.MakePlan, machine.Commit, machine.Announce, machine.Drop):
        assert seen.count(once) <= 1
    assert not (machine.Drop in seen and machine.Announce in seen)


def test_only_the_store_can_fail_a_commit():
    session = Session(2)
    for event, _, _ in STORY[:12]:
        session, _ = step(session, event)
    assert session.committing
    assert step(session, machine.Failed(ERROR)) == (session, ())
    after, effects = step(session, machine.CommitFailed(ERROR))
    assert (after.phase, effects) == (Phase.ABORTED, (machine.Drop(ERROR),))


def test_an_event_that_does_not_fit_is_refused():
    with pytest.raises(ConflictError):
        step(Session(2), machine.CommitFailed(ERROR))
    with pytest.raises(ConflictError, match="does not fit a save that is declaring"):
        step(Session(2), machine.LaneEnded(0, 0))
    with pytest.raises(ConflictError):
        step(Session(2), machine.Declared(2))


def test_a_save_of_thousands_of_ranks_does_each_effect_once():
    """Sets that were copied for each event took seconds here."""
    session, done, count = Session(5_000), [], 5_000
    planned = machine.Planned(count + 1, frozenset((rank, rank) for rank in range(count)))
    for event in (*map(machine.Declared, range(count)), planned):
        session, effects = step(session, event)
        done += effects
    assert done == [machine.MakePlan(), machine.Seal(count)]
    for rank in reversed(range(count)):
        for event in (machine.LaneEnded(rank, rank), machine.ShardSealed(rank)):
            session, effects = step(session, event)
            done += effects
    session, effects = step(session, machine.ShardSealed(count))
    assert done[2:] == [machine.Seal(rank) for rank in reversed(range(count))]
    assert (effects, session.phase) == ((machine.AwaitTurn(),), Phase.SEALED)
