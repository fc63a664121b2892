from __future__ import annotations

import pytest

from ckptd.engine.catalog.floor import Floor
from ckptd.engine.catalog.retention import Action, Candidate, RetentionPolicy, Rule, decide
from ckptd.errors import InvalidRequestError

NEVER = 1e300
KEEP, DROP, PRESERVE = Action.KEEP, Action.DROP, Action.PRESERVE


def actions(policy: RetentionPolicy, candidates: list[Candidate], mark: float = NEVER) -> list[Action]:
    return [verdict.action for verdict in decide(policy, candidates, mark).verdicts]


def listed(*saved_at: float) -> list[Candidate]:
    return [Candidate(f"m-{number}", at) for number, at in enumerate(saved_at)]


CASES = [
    (5, 1, [KEEP]),
    (5, 5, [KEEP] * 5),
    (5, 6, [DROP] + [KEEP] * 5),
    (2, 5, [DROP] + [KEEP] * 4),  # max_to_keep was lowered: one goes for one that comes, and no more
    (1, 3, [DROP, KEEP, KEEP]),
    (0, 3, [KEEP] * 3),  # what was recovered stays listed
    (None, 3, [KEEP] * 3),
    (3, 0, []),
]


@pytest.mark.parametrize(("max_to_keep", "count", "expected"), CASES)
def test_the_newest_stay(max_to_keep: int | None, count: int, expected: list[Action]) -> None:
    assert actions(RetentionPolicy(max_to_keep), listed(*range(count))) == expected


def test_saved_at_the_very_moment_is_not_after_it() -> None:
    policy = RetentionPolicy(1, 1.0)
    assert actions(policy, listed(100.0, 200.0), mark=100.0) == [DROP, KEEP]
    assert actions(policy, listed(100.5, 200.0), mark=100.0) == [PRESERVE, KEEP]


def test_one_that_is_kept_for_good_advances_the_mark_by_one_interval() -> None:
    decision = decide(RetentionPolicy(1, 1.0), listed(1e6, 2e6), mark=1e6 - 5000)
    assert [verdict.action for verdict in decision.verdicts] == [PRESERVE, KEEP]
    assert decision.mark == 1e6 - 5000 + 3600


def test_a_manager_lets_all_go_and_keeps_by_distance_from_the_one_kept_last() -> None:
    policy = RetentionPolicy(1, 1.0, Rule.MANAGER)
    decision = decide(policy, listed(3599.0, 3600.0, 7199.0, 7200.0, 9000.0), mark=0.0)
    assert [verdict.action for verdict in decision.verdicts] == [DROP, PRESERVE, DROP, PRESERVE, KEEP]
    assert decision.mark == 7200.0
    without = decide(RetentionPolicy(1, None, Rule.MANAGER), listed(1.0, 1e9, 2e9), mark=0.0)
    assert ([verdict.action for verdict in without.verdicts], without.mark) == ([DROP, DROP, KEEP], 0.0)


def test_what_the_rule_does_not_manage_leaves_the_list_and_stays_on_disk() -> None:
    candidates = [Candidate("old", 1, is_managed=False), *listed(2, 3)]
    for policy in (RetentionPolicy(2), RetentionPolicy(0), RetentionPolicy(2, None, Rule.MANAGER)):
        assert actions(policy, candidates) == [PRESERVE, KEEP, KEEP]


def test_one_that_was_unpinned_goes_besides_the_one_that_is_too_many() -> None:
    candidates = [Candidate("p", 0, is_released=True), *listed(1, 2, 3)]
    assert actions(RetentionPolicy(2), candidates) == [DROP, DROP, KEEP, KEEP]


def test_pinned_ones_stay_and_do_not_count() -> None:
    candidates = [Candidate("p", 0, pinned=True), *listed(1, 2, 3)]
    assert actions(RetentionPolicy(2), candidates) == [KEEP, DROP, KEEP, KEEP]


def test_a_clock_that_jumped_does_not_cost_the_latest() -> None:
    assert actions(RetentionPolicy(1), listed(1e9, 5.0)) == [DROP, KEEP]
    assert actions(RetentionPolicy(1), listed(5.0, 1e9)) == [DROP, KEEP]


def test_every_verdict_has_a_reason() -> None:
    candidates = [Candidate("p", 9e9, pinned=True), Candidate("u", 1.0, is_managed=False), *listed(1e9, 1.0, 2.0)]
    decision = decide(RetentionPolicy(1, 1.0), candidates, mark=1e8)
    reasons = {verdict.prefix: verdict.reason for verdict in decision.verdicts}
    assert reasons == {
        "p": "it is pinned",
        "u": "CheckpointManager forgets those that are not newer than the one it kept last",
        "m-0": "one is kept for good every 1 hours, and it was due",
        "m-1": "one at most leaves per save, as with Saver",
        "m-2": "it is the latest",
    }
    [kept, dropped] = [decide(RetentionPolicy(1), listed(1.0, 2.0), NEVER), decide(RetentionPolicy(0), listed(1), 0.0)]
    assert kept.verdicts[0].reason == "older than the newest 1"
    assert dropped.verdicts[0].reason == "it is the latest"


def test_a_rule_has_a_name() -> None:
    assert Rule.named("manager") is Rule.MANAGER
    with pytest.raises(InvalidRequestError, match="saver or manager"):
        Rule.named("best")


@pytest.mark.parametrize(("max_to_keep", "hours"), [(-1, 1.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_a_policy_without_sense_is_refused(max_to_keep: int, hours: float) -> None:
    with pytest.raises(InvalidRequestError):
        RetentionPolicy(max_to_keep, hours)


KEEPS_3 = Floor(keep_at_least=3)
KEEPS_AN_HOUR = Floor(keep_younger_than_s=3600.0)

FLOORS = [
    (RetentionPolicy(1), KEEPS_3, [0.0, 1.0, 2.0], [KEEP, KEEP, KEEP]),
    (RetentionPolicy(1), KEEPS_3, [0.0, 1.0, 2.0, 3.0], [DROP, KEEP, KEEP, KEEP]),
    (RetentionPolicy(1, None, Rule.MANAGER), KEEPS_3, [*map(float, range(5))], [DROP, DROP, KEEP, KEEP, KEEP]),
    (RetentionPolicy(1, None, Rule.MANAGER), KEEPS_AN_HOUR, [0.0, 400.0, 401.0, 4000.0], [DROP, DROP, KEEP, KEEP]),
    (RetentionPolicy(1), KEEPS_AN_HOUR, [400.0, 4000.0], [DROP, KEEP]),
    (RetentionPolicy(1), KEEPS_AN_HOUR, [400.1, 4000.0], [KEEP, KEEP]),
    (RetentionPolicy(9), KEEPS_3, [0.0, 1.0, 2.0, 3.0], [KEEP] * 4),
]


@pytest.mark.parametrize(("policy", "floor", "saved_at", "expected"), FLOORS)
def test_no_rule_undercuts_the_operators_floor(policy, floor, saved_at, expected) -> None:
    decision = decide(policy, listed(*saved_at), NEVER, floor)
    assert [verdict.action for verdict in decision.verdicts] == expected


def test_what_the_floor_keeps_says_so() -> None:
    verdicts = decide(RetentionPolicy(1), listed(0.0, 1.0), NEVER, KEEPS_3).verdicts
    assert verdicts[0].reason == "the daemon's policy keeps the newest 3"
    verdicts = decide(RetentionPolicy(1), listed(0.0, 1.0), NEVER, KEEPS_AN_HOUR).verdicts
    assert verdicts[0].reason == "the daemon's policy keeps what is younger than 1 hours"


def test_pinned_ones_count_for_the_floor_as_they_are_kept_too() -> None:
    candidates = [*listed(0.0, 1.0), Candidate("p", 2.0, pinned=True), Candidate("n", 3.0)]
    decision = decide(RetentionPolicy(1), candidates, NEVER, KEEPS_3)
    assert [verdict.action for verdict in decision.verdicts] == [DROP, KEEP, KEEP, KEEP]
