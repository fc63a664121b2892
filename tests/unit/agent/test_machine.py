"""The agent of one host: what it says when, and what it never does."""

from __future__ import annotations

import pytest

from ckptd.agent.host_save import HostOutcome
from ckptd.agent.machine import MOST_READ, AgentMachine, Fill, Find, Send, Stop, Tell
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    Fenced,
    Go,
    HeardEnd,
    Hello,
    Owed,
    PartFailed,
    PartSealed,
    Receipt,
    Replaced,
    SaveEnded,
)
from ckptd.storage.base import Durability
from tests.fakes.many_hosts import declaration

LIFE = AgentLife("h3", "one", 1.0)
MINE = declaration("h3", 5, (6, 7), 8)
REQUEST = MINE.request_id
GO = Go(3, REQUEST, "s", 4, 2, "m-5.data-00002-of-00004", 16, b"digest")
RECEIPT = Receipt("s", LIFE, 2, GO.key, 16, "v", Durability.OBJECT_STORE, b"sums")
FOUND = Receipt("s", LIFE, 2, GO.key, 16, "w", Durability.OBJECT_STORE, b"sums")


def attached(term: int = 3) -> AgentMachine:
    machine = AgentMachine(LIFE, "root")
    assert machine.tick(0.0) == [Find(), Send(Hello(LIFE, "root", 0))]
    assert machine.hear(Attached(term, 15.0), 0.0) == []
    return machine


def filling() -> AgentMachine:
    machine = attached()
    assert machine.declare(MINE, 1.0) == [Send(DeclareHost(LIFE, 3, MINE))]
    assert machine.hear(GO, 1.0) == [Fill(GO, MINE)]
    return machine


def told_ends(machine: AgentMachine, now: float) -> tuple[HeardEnd, ...]:
    """Return the ends of saves that the next beat tells."""
    [beat] = [each.message for each in machine.tick(now) if isinstance(each, Send) and isinstance(each.message, Beat)]
    return beat.ends


def test_what_a_former_life_may_have_begun_is_known():
    machine = attached()
    machine.declare(MINE, 1.0, is_retry=True)
    assert machine.hear(GO, 1.0) == [Fill(GO, MINE, may_be_begun=True)]


def sealed() -> AgentMachine:
    machine = filling()
    assert machine.filled(RECEIPT, 2.0) == [Send(PartSealed(LIFE, 3, REQUEST, "s", (RECEIPT,)))]
    return machine


def test_a_save_goes_from_declared_to_ended():
    machine = sealed()
    ended = SaveEnded(3, REQUEST, "s", prefix="m-5")
    assert machine.hear(ended, 3.0) == [Tell(REQUEST, HostOutcome("m-5")), Stop("s")]
    machine.stopped("s")
    assert told_ends(machine, 3.0) == (HeardEnd("s", REQUEST),)
    assert machine.hear(Attached(3, 15.0, ("s",)), 3.1) == []
    # It may come twice, and the ranks may ask again.
    assert machine.hear(ended, 4.0) == [Stop("s")]
    assert machine.hear(GO, 4.0) == []
    assert machine.declare(MINE, 4.0) == [Tell(REQUEST, HostOutcome("m-5"))]


def test_an_end_is_told_until_the_coordinator_answers_whatever_happens_meanwhile():
    end = HeardEnd("s", REQUEST)
    machine = filling()
    machine.hear(SaveEnded(3, REQUEST, "s", reason="the agent on h3 is gone"), 3.0)
    machine.hear(Fenced(3, "for which this agent was lost"), 3.0)  # it hung for longer than its lease
    machine.stopped("s")
    assert machine.hear(Attached(3, 600.0), 4.0) == []
    assert told_ends(machine, 6.5) == (end,)
    assert machine.tick(9.0) == []
    assert told_ends(machine, 9.6) == (end,)  # it was lost, or refused
    machine.hear(Attached(3, 600.0, ("another",)), 9.7)
    assert told_ends(machine, 13.0) == (end,)
    machine.hear(Attached(3, 600.0, ("s",)), 13.1)
    assert machine.tick(20.0) == []  # the next beat is as far as the lease lets it be


def test_what_a_later_coordinator_goes_on_with_is_told_to_be_over_no_longer():
    machine = attached()
    for step in (5, 6):
        machine.declare(declaration("h3", step, (6, 7), 8), 1.0)
    again = declaration("h3", 6, (6, 7), 8).request_id
    machine.hear(SaveEnded(3, REQUEST, "s", reason="rank 1 is gone"), 2.0)
    machine.stopped("s")
    machine.hear(Attached(4, 15.0), 3.0)
    machine.hear(Go(4, again, "s", 4, 2, GO.key, 16, b"digest"), 3.0)
    assert told_ends(machine, 6.0) == ()


def test_a_later_life_does_not_speak_for_the_writers_of_a_former_one():
    for machine in (attached(), attached()):
        if machine.declare(MINE, 1.0, is_retry=True):
            machine.hear(SaveEnded(3, REQUEST, "s", reason="gone"), 2.0)
        machine.stopped("s")
        assert told_ends(machine, 4.0) == ()


def test_what_happens_twice_changes_nothing():
    machine = filling()
    assert machine.declare(MINE, 2.0) == []
    assert machine.hear(GO, 2.0) == []
    machine.filled(RECEIPT, 2.0)
    assert machine.filled(RECEIPT, 3.0) == []
    assert machine.fill_failed("s", "late", 3.0) == []
    assert machine.give_up(REQUEST, "rank 6 is gone", 3.0) == []  # all was captured, and is durable


def test_a_new_term_is_told_again_and_what_is_sealed_is_not_written_again():
    machine = sealed()
    assert machine.hear(Fenced(4, "next"), 5.0) == [
        Find(),
        Send(Hello(LIFE, "root", 4, saves=(CarriedSave(MINE, "s", b"digest", (RECEIPT,)),))),
    ]
    told = [Send(PartSealed(LIFE, 4, REQUEST, "s", (RECEIPT,)))]
    assert machine.hear(Attached(4, 15.0), 6.0) == told
    again = Go(4, REQUEST, "s", 4, 2, GO.key, 16, b"digest")
    assert machine.hear(again, 6.0) == told


def test_a_lower_term_is_refused():
    machine = filling()
    machine.hear(Attached(4, 15.0), 2.0)
    assert machine.hear(SaveEnded(3, REQUEST, "s", reason="former"), 3.0) == []
    assert machine.hear(Fenced(3, "former"), 3.0) == []
    assert machine.is_attached
    assert machine.filled(RECEIPT, 4.0) == [Send(PartSealed(LIFE, 4, REQUEST, "s", (RECEIPT,)))]


def test_a_replaced_life_ends_its_writers_tells_its_ranks_and_has_no_effect_any_more():
    machine = filling()
    stop, told = machine.hear(Replaced(3, AgentLife("h3", "two", 2.0)), 2.0)
    assert stop == Stop("s")
    assert isinstance(told, Tell)
    assert (told.request_id, told.outcome.is_known) == (REQUEST, False)  # the coordinator may commit it
    assert "another agent of h3 has attended since" in told.outcome.reason
    assert machine.filled(RECEIPT, 3.0) == []
    assert machine.tick(100.0) == []
    assert machine.waits(100.0) == []
    assert machine.declare(MINE, 3.0) == [told]


@pytest.mark.parametrize("is_retry", [False, True])
def test_what_is_declared_to_a_replaced_life_is_refused_with_the_reason(is_retry):
    machine = filling()
    machine.hear(Replaced(3, AgentLife("h3", "two", 2.0)), 2.0)
    said = declaration("h3", 6, (6, 7), 8)
    [told] = machine.declare(said, 3.0, is_retry=is_retry)
    assert isinstance(told, Tell)
    assert told.request_id == said.request_id
    assert told.outcome.is_known is not is_retry  # a former life may have declared what is repeated
    assert "give each a --name of its own" in told.outcome.reason


def test_a_taken_key_is_never_deleted_it_holds_the_same_bytes_or_the_save_ends():
    machine = filling()
    [done] = machine.found_taken(RECEIPT, FOUND, 2.0)
    assert done == Send(PartSealed(LIFE, 3, REQUEST, "s", (FOUND,)))
    other = Receipt("s", LIFE, 2, GO.key, 16, "w", Durability.OBJECT_STORE, b"other")
    for found, why in ((None, "what is there cannot be read"), (other, "other bytes than ours are there")):
        [done] = filling().found_taken(RECEIPT, found, 2.0)
        assert done == Send(PartFailed(LIFE, 3, REQUEST, "s", f"the key {GO.key} is taken, and {why}"))


def test_a_host_that_has_nothing_to_write_seals_without_a_receipt():
    machine = attached()
    machine.declare(MINE, 1.0)
    empty = Go(3, REQUEST, "s", 4, None, "", 0, b"digest")
    assert machine.hear(empty, 1.0) == [Send(PartSealed(LIFE, 3, REQUEST, "s", ()))]


def test_whatever_is_not_answered_is_sent_again():
    machine = attached()
    machine.declare(MINE, 0.0)
    assert machine.tick(1.0) == []
    assert machine.tick(2.0) == [Send(DeclareHost(LIFE, 3, MINE))]
    assert machine.tick(3.0) == [Send(Beat(LIFE, 3))]
    machine.hear(GO, 3.0)
    machine.progress(REQUEST, 5, ((6, 5),))
    assert machine.tick(6.0) == [Send(Beat(LIFE, 3, (Owed("s", 5, ((6, 5),)),)))]
    failed = Send(PartFailed(LIFE, 3, REQUEST, "s", "disk on fire"))
    assert machine.fill_failed("s", "disk on fire", 6.0) == [failed]
    assert machine.tick(8.0) == [failed]


def test_what_stays_unanswered_is_repeated_less_and_less_often_but_within_a_lease():
    machine, told = attached(), []
    machine.declare(MINE, 0.0)
    for now in range(40):
        machine.hear(Attached(3, 15.0), float(now))
        told += [now for effect in machine.tick(float(now)) if isinstance(effect.message, DeclareHost)]
    assert told == [2, 6, 11, 16, 21, 26, 31, 36]


def test_what_is_read_through_it_is_told_at_once_and_in_each_beat():
    machine = attached()
    machine.tick(0.5)
    machine.reading = frozenset({"r/m-1"})
    assert machine.tick(0.6) == [Send(Beat(LIFE, 3, (), ("r/m-1",)))]
    assert machine.tick(0.7) == []
    machine.reading = frozenset({"r/m-1", "r/m-2"})
    assert machine.tick(0.8) == [Send(Beat(LIFE, 3, (), ("r/m-1", "r/m-2")))]
    machine.reading = frozenset({"r/m-2"})
    assert machine.tick(0.9) == []
    assert machine.tick(4.0) == [Send(Beat(LIFE, 3, (), ("r/m-2",)))]


def test_one_message_tells_of_no_more_readers_than_it_holds():
    machine = attached()
    machine.reading = frozenset(f"r/m-{step}" for step in range(MOST_READ + 1))
    (beat,) = machine.tick(0.5)
    assert len(beat.message.reading) == MOST_READ


def test_a_silent_coordinator_is_looked_up_again_and_again():
    machine = attached()
    machine.tick(14.0)
    assert machine.tick(16.0) == [Find(), Send(Hello(LIFE, "root", 3))]
    assert machine.tick(17.0) == []
    assert machine.tick(18.0) == [Find(), Send(Hello(LIFE, "root", 3))]


def test_a_save_waits_no_longer_than_its_time_and_names_host_ranks_and_step():
    machine = AgentMachine(LIFE, "root", timeout_s=60.0)
    machine.declare(MINE, 0.0)
    ours = "h3, ranks 6-7, step 5: the coordinator, which has not said what to write"
    assert machine.waits(20.0) == [f"{ours} (nothing was heard from it yet)"]
    machine.hear(Attached(3, 15.0), 30.0)
    assert machine.waits(50.0) == [f"{ours} (nothing was heard from it for 20 s)"]
    [tell] = [each for each in machine.tick(61.0) if isinstance(each, Tell)]
    assert not tell.outcome.is_known  # a former life may have sealed it: only the coordinator can tell that it failed
    assert "not done within 60 s: h3, ranks 6-7, step 5" in tell.outcome.reason
    assert machine.waits(61.0) == []


@pytest.mark.parametrize("begin", [filling, sealed])
def test_the_coordinators_word_ends_a_save_in_any_phase(begin):
    machine = begin()
    outcome = HostOutcome(reason="rank 1 is gone")
    assert machine.hear(SaveEnded(3, REQUEST, "s", reason="rank 1 is gone"), 3.0) == [Tell(REQUEST, outcome), Stop("s")]


@pytest.mark.parametrize("save", ["", "anew"])
def test_a_later_coordinator_may_begin_anew_or_end_what_a_former_one_began(save):
    machine = sealed()
    machine.hear(Attached(4, 15.0), 3.0)
    ended = machine.hear(SaveEnded(4, REQUEST, save, reason="rank 1 is gone"), 4.0)
    assert ended[:2] == [Tell(REQUEST, HostOutcome(reason="rank 1 is gone")), Stop("s")]
    machine = sealed()
    machine.hear(Attached(4, 15.0), 3.0)
    anew = Go(4, REQUEST, "anew", 5, 2, "m-5.data-00002-of-00005", 16, b"digest")
    assert machine.hear(anew, 4.0) == [Stop("s"), Fill(anew, MINE)]
    assert machine.hear(GO, 5.0) == []
    back = Go(5, REQUEST, "s", 4, 2, GO.key, 16, b"digest")  # the one after goes on with the former attempt
    assert machine.hear(back, 6.0) == [Stop("anew"), Send(PartSealed(LIFE, 5, REQUEST, "s", (RECEIPT,)))]


def test_the_end_of_another_attempt_is_acknowledged_and_told_to_no_rank():
    machine = filling()
    assert machine.hear(SaveEnded(3, REQUEST, "other", reason="gone"), 3.0) == [Stop("other")]
    machine.stopped("other")
    assert machine.filled(RECEIPT, 4.0) == [Send(PartSealed(LIFE, 3, REQUEST, "s", (RECEIPT,)))]


def test_its_last_word_is_that_it_ends_and_without_a_coordinator_it_has_none():
    machine = AgentMachine(LIFE, "root")
    assert machine.end() == []
    machine.hear(Attached(3, 15.0), 0.0)
    assert machine.end() == [Send(Beat(LIFE, 3, is_last=True))]


def test_why_it_does_not_attend_is_known_until_it_does():
    machine = AgentMachine(LIFE, "root")
    machine.hear(Fenced(3, "c: another agent of the name h3 was started before"), 0.0)
    assert machine.attending("c:1", 0.0).why_not == "c: another agent of the name h3 was started before"
    machine.hear(Attached(3, 15.0), 1.0)
    assert machine.attending("c:1", 1.0).why_not == ""
    machine.hear(Replaced(3, AgentLife("h3", "two", 2.0, "", "`ckptd run` on n2")), 2.0)
    assert machine.attending("c:1", 2.0).why_not.startswith(
        "another agent of the name h3, started by `ckptd run` on n2"
    )


def test_the_writers_of_a_save_that_took_too_long_are_ended_whatever_it_waited_for():
    """No coordinator may ever say that it is over: then what is kept of it would stay."""
    for happens in (lambda machine: None, lambda machine: machine.fill_failed("s", "disk on fire", 4.0)):
        machine = attached()
        machine.declare(MINE, 0.0)
        machine.hear(GO, 3.0)
        happens(machine)
        effects = machine.tick(machine.timeout_s + 5.0)
        assert effects.count(Stop("s")) == 1
        assert [each.request_id for each in effects if isinstance(each, Tell)] == [REQUEST]
