from __future__ import annotations

import pytest

from ckptd.engine.retention import Action, Candidate, RetentionPolicy, decide
from ckptd.errors import InvalidRequestError

NEVER = 1e300
KEEP, DROP, PRESERVE = Action.KEEP, Action.DROP, Action.PRESERVE


def actions(policy: RetentionPolicy, candidates: list[Candidate], next_keep_at: float = NEVER) -> list[Action]:
    return [verdict.action for verdict in decide(policy, candidates, next_keep_at).verdicts]


def listed(*saved_at: float) -> list[Candidate]:
    return [Candidate(f"m-{number}", at) for number, at in enumerate(saved_at)]


CASES = [
    (5, 1, [KEEP]),
    (5, 5, [KEEP] * 5),
    (5, 6, [DROP] + [KEEP] * 5),
    (2, 5, [DROP, DROP, DROP, KEEP, KEEP]),  # max_to_keep was lowered: the list shrinks to it at once
    (1, 3, [DROP, DROP, KEEP]),
    (0, 3, [PRESERVE, PRESERVE, KEEP]),
    (None, 3, [PRESERVE, PRESERVE, KEEP]),
    (3, 0, []),
]


@pytest.mark.parametrize(("max_to_keep", "count", "expected"), CASES)
def test_the_newest_stay(max_to_keep: int | None, count: int, expected: list[Action]) -> None:
    assert actions(RetentionPolicy(max_to_keep), listed(*range(count))) == expected


def test_the_timeline_that_a_saver_has_with_two_listed_and_one_kept_each_hour() -> None:
    """A save every 1200 s, a long pause before step 1300: while the clock lags behind, all that leave are kept."""
    policy, next_keep_at = RetentionPolicy(2, 1.0), 3600.0
    saved_at = {step: 12.0 * step + 0.25 for step in range(100, 1201, 100)}
    saved_at |= {step: 12.0 * step + 10800.25 for step in range(1300, 1701, 100)}
    current: list[Candidate] = []
    left: dict[int, tuple[Action, float]] = {}
    for step, at in saved_at.items():
        decision = decide(policy, [*current, Candidate(str(step), at)], next_keep_at)
        next_keep_at = decision.next_keep_at
        for verdict in decision.verdicts:
            if verdict.action is not KEEP:
                left[int(verdict.prefix)] = (verdict.action, next_keep_at)
        current = [Candidate(prefix, saved_at[int(prefix)]) for prefix in decision.prefixes(KEEP)]
    assert [each.prefix for each in current] == ["1600", "1700"]
    assert left == {
        100: (DROP, 3600),
        200: (DROP, 3600),
        300: (PRESERVE, 7200),
        400: (DROP, 7200),
        500: (DROP, 7200),
        600: (PRESERVE, 10800),
        700: (DROP, 10800),
        800: (DROP, 10800),
        900: (PRESERVE, 14400),
        1000: (DROP, 14400),
        1100: (DROP, 14400),
        1200: (PRESERVE, 18000),
        1300: (PRESERVE, 21600),
        1400: (PRESERVE, 25200),
        1500: (PRESERVE, 28800),
    }


def test_saved_at_the_very_moment_is_not_after_it() -> None:
    policy = RetentionPolicy(1, 1.0)
    assert actions(policy, listed(100.0, 200.0), next_keep_at=100.0) == [DROP, KEEP]
    assert actions(policy, listed(100.5, 200.0), next_keep_at=100.0) == [PRESERVE, KEEP]


def test_each_that_is_kept_for_good_advances_the_clock_by_one_interval() -> None:
    decision = decide(RetentionPolicy(1, 1.0), listed(1e6, 1e6, 1e6, 2e6), next_keep_at=1e6 - 5000)
    assert [verdict.action for verdict in decision.verdicts] == [PRESERVE, PRESERVE, DROP, KEEP]
    assert decision.next_keep_at == 1e6 - 5000 + 7200


def test_pinned_ones_stay_and_do_not_count() -> None:
    candidates = [Candidate("p", 0, pinned=True), *listed(1, 2, 3)]
    assert actions(RetentionPolicy(2), candidates) == [KEEP, DROP, KEEP, KEEP]


def test_one_being_read_stays_and_does_not_save_another() -> None:
    candidates = [Candidate("r", 0, in_use=True), *listed(1, 2, 3)]
    assert actions(RetentionPolicy(2), candidates) == [KEEP, DROP, KEEP, KEEP]


def test_a_clock_that_jumped_does_not_cost_the_latest() -> None:
    assert actions(RetentionPolicy(1), listed(1e9, 5.0)) == [DROP, KEEP]
    assert actions(RetentionPolicy(1), listed(5.0, 1e9)) == [DROP, KEEP]


def test_every_verdict_has_a_reason() -> None:
    policy = RetentionPolicy(1, 1.0)
    decision = decide(policy, [Candidate("p", 9e9, pinned=True), *listed(1e9, 1.0, 2.0)], next_keep_at=1e8)
    reasons = {verdict.prefix: verdict.reason for verdict in decision.verdicts}
    assert reasons == {
        "p": "it is pinned",
        "m-0": "one is kept for good every 1 hours, and it was due",
        "m-1": "older than the newest 1",
        "m-2": "it is the latest",
    }


@pytest.mark.parametrize(("max_to_keep", "hours"), [(-1, 1.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_a_policy_without_sense_is_refused(max_to_keep: int, hours: float) -> None:
    with pytest.raises(InvalidRequestError):
        RetentionPolicy(max_to_keep, hours)
