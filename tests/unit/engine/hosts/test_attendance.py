"""Which agents attend, and what counts of what they say."""

from __future__ import annotations

import pytest

from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import AgentLife, Attached, Fenced, Hello, Replaced
from ckptd.errors import InvalidRequestError

H1 = AgentLife("h1", "one", born=1.0)
H1_AGAIN = AgentLife("h1", "two", born=2.0)
H9 = AgentLife("h9", "nine", born=1.0)


def attended(*lives: AgentLife, term: int = 3) -> Attendance:
    attendance = Attendance(term, "root")
    for life in lives:
        ranks = (0, 1) if life.host == "h1" else tuple(range(64, 72))
        assert attendance.attend(Hello(life, "root", 0, members=ranks), 0.0) == Attached(3, 15.0)
    return attendance


def test_a_lost_agent_is_known_by_its_ranks_and_has_to_attend_again():
    attendance = attended(H1, H9)
    attendance.hear(H1, 3, 14.0)
    assert attendance.lost(15.0) == {}
    assert attendance.lost(16.0) == {"h9": 16.0}
    assert attendance.whereabouts(range(60, 66), 16.0) == "ranks 64-65: agent on h9 is gone 16 s"


def test_those_that_were_heard_last_are_lost_last_whether_they_beat_or_attended_anew():
    names = [f"h{number}" for number in range(5)]
    lives = [AgentLife(name, "one", born=1.0) for name in names]
    attendance = Attendance(3, "root")
    for life in lives:
        attendance.attend(Hello(life, "root", 0), 0.0)
    attendance.hear(lives[1], 3, 10.0)
    attendance.attend(Hello(lives[0], "root", 0), 11.0)
    attendance.attend(Hello(AgentLife("h3", "two", born=2.0), "root", 0), 12.0)
    assert [list(attendance.lost(at)) for at in (15.0, 16.0, 25.5, 26.5, 27.5)] == [
        [],
        ["h2", "h4"],
        ["h1", "h2", "h4"],
        ["h0", "h1", "h2", "h4"],
        names,
    ]


def test_an_agent_whose_lease_has_run_out_has_to_attend_again():
    attendance = attended(H1, H9)
    assert attendance.hear(H9, 3, 16.0) == Fenced(3, "the coordinator")
    assert attendance.attend(Hello(H9, "root", 3), 17.0) == Attached(3, 15.0)
    assert attendance.hear(H9, 3, 18.0) is None


def test_a_later_life_takes_the_place_and_the_former_is_refused_for_good():
    attendance = attended(H1, H9)
    assert attendance.attend(Hello(H1_AGAIN, "root", 3), 1.0) == Attached(3, 15.0)
    assert attendance.hear(H1, 3, 2.0) == Replaced(3, H1_AGAIN)
    assert attendance.attend(Hello(H1, "root", 3), 100.0) == Replaced(3, H1_AGAIN)
    assert (attendance.is_present(H1), attendance.is_present(H1_AGAIN)) == (False, True)


def test_a_late_hello_of_a_former_life_does_not_put_out_the_present_one():
    attendance = attended(H1_AGAIN)
    assert attendance.attend(Hello(H1, "root", 3), 1.0) == Replaced(3, H1_AGAIN)
    assert attendance.hear(H1_AGAIN, 3, 2.0) is None
    assert attendance.attend(Hello(H1, "root", 3), 99.0) == Replaced(3, H1_AGAIN)  # one that hung and wakes up


def test_a_host_that_started_anew_takes_its_place_when_the_lease_is_over():
    attendance = attended(H1_AGAIN)
    anew = AgentLife("h1", "three", 0.5, boot="another")
    assert isinstance(attendance.attend(Hello(anew, "root", 3), 15.0), Fenced)  # it tries again
    assert attendance.attend(Hello(anew, "root", 3), 16.0) == Attached(3, 15.0)
    assert attendance.hear(H1_AGAIN, 3, 17.0) == Replaced(3, anew)


def of_run(node: str, incarnation: str, born: float = 1.0) -> AgentLife:
    return AgentLife("h1", incarnation, born, "boot", f"`ckptd run` on {node}")


def test_of_two_nodes_with_one_name_the_first_stays_and_the_second_is_told_why():
    first, second = of_run("x", "one"), of_run("y", "two", 2.0)
    attendance = attended(first)
    for now in range(1, 18):
        assert attendance.hear(first, 3, float(now)) is None
        answer = attendance.attend(Hello(second, "root", 3), now + 0.5)
        assert isinstance(answer, Fenced)
        assert "another agent of the name h1 was started before, by `ckptd run` on x," in answer.holder
    assert attendance.hear(first, 3, 18.0) is None
    assert attendance.attend(Hello(second, "root", 3), 18.5) == Replaced(3, first)
    assert attendance.hear(first, 3, 19.0) is None


def test_one_that_is_not_heard_any_more_gives_way_at_the_end_of_its_lease():
    first, second = of_run("x", "one"), of_run("y", "two", 2.0)
    attendance = attended(first)
    assert attendance.hear(first, 3, 1.0) is None
    assert isinstance(attendance.attend(Hello(second, "root", 3), 2.0), Fenced)
    assert attendance.hear(first, 3, 3.0) is None
    assert isinstance(attendance.attend(Hello(second, "root", 3), 18.0), Fenced)
    assert attendance.attend(Hello(second, "root", 3), 18.5) == Attached(3, 15.0)
    assert attendance.hear(first, 3, 19.0) == Replaced(3, second)


def test_what_one_thing_has_started_again_takes_the_place_at_once():
    attendance = attended(of_run("x", "one"))
    assert attendance.attend(Hello(of_run("x", "two", 2.0), "root", 3), 1.0) == Attached(3, 15.0)


def test_for_one_that_has_ended_in_good_order_no_other_waits():
    first, second = of_run("x", "one"), of_run("y", "two", 2.0)
    attendance = attended(first)
    attendance.ended(second)
    assert isinstance(attendance.attend(Hello(second, "root", 3), 1.0), Fenced)
    attendance.ended(first)
    assert attendance.attend(Hello(second, "root", 3), 2.0) == Attached(3, 15.0)
    assert attendance.attend(Hello(of_run("x", "three", 3.0), "root", 3), 3.0) != Attached(3, 15.0)


def test_what_a_coordinator_missed_while_it_stood_still_is_no_silence_of_agents():
    attendance = attended(H1, H9)
    attendance.hear(H1, 3, 10.0)
    attendance.stood_still(20.0, 35.0)
    assert attendance.silent_s("h1", 35.0) == 5.0
    assert attendance.lost(35.0) == {}
    assert attendance.lost(36.0) == {"h9": 16.0}
    attendance.stood_still(60.0, 36.0)
    assert attendance.silent_s("h9", 36.0) == 0.0


def test_terms_fence_both_ways():
    attendance = attended(H1)
    assert attendance.hear(H1, 2, 1.0) == Fenced(3, "the coordinator")  # it has to attend first
    assert attendance.hear(H9, 3, 1.0) == Fenced(3, "the coordinator")
    assert not attendance.is_fenced
    assert attendance.attend(Hello(H9, "root", 4), 1.0) == Fenced(4, "a coordinator of term 4")
    assert attendance.is_fenced
    assert attendance.hear(H1, 3, 1.0) == Fenced(4, "a coordinator of term 4")  # that is final


def test_an_agent_of_another_root_is_refused():
    with pytest.raises(InvalidRequestError, match="agent on h1 has opened another root"):
        attended().attend(Hello(H1, "elsewhere", 0), 0.0)
