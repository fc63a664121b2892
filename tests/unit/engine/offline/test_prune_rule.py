from __future__ import annotations

import pytest

from ckptd.engine.catalog.flaws import Flaw
from ckptd.engine.catalog.survey import Found
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.offline.prune_rule import PruneAction, PruneRule, judge
from ckptd.errors import InvalidRequestError

HOUR_S = 3600.0


def found(step, at=None, *, name="model.ckpt", ours=True, latest=False, pinned=False, problem=None):
    prefix = f"/run/{name}" if step is None else f"/run/{name}-{step}"
    checkpoint = Checkpoint(
        prefix, step, 10, 1, float(step or 0) if at is None else at, pinned=pinned, save_id="id" if ours else ""
    )
    return Found(checkpoint, True, latest, problem)


def actions(verdicts):
    return {verdict.name.removeprefix("model.ckpt-"): verdict.action.value for verdict in verdicts}


def going(verdicts):
    return [verdict.found.checkpoint.step for verdict in verdicts if verdict.action is PruneAction.DELETE]


def run(*steps, **more):
    return [*(found(step, **more) for step in steps[:-1]), found(steps[-1], latest=True, **more)]


def test_all_but_the_newest_go_and_everyone_hears_why():
    verdicts = judge(run(1, 2, 3, 4), PruneRule(2))
    assert actions(verdicts) == {"1": "delete", "2": "delete", "3": "keep", "4": "keep"}
    assert [verdict.reason for verdict in verdicts] == [
        "older than the newest 2, by step and by time",
        "older than the newest 2, by step and by time",
        "one of the newest 2 by step",
        "it is the latest",
    ]


def test_after_a_roll_back_neither_the_high_steps_nor_the_new_ones_are_superseded():
    steps = [found(1, 1), found(7, 7), found(8, 8), found(2, 11), found(3, 12, latest=True)]
    assert going(judge(steps, PruneRule(2))) == [1]


def test_pinned_incomplete_unnumbered_and_foreign_ones_stay():
    some = [
        found(1, pinned=True),
        found(2, problem=Flaw("a shard is missing")),
        found(None),
        found(3, ours=False),
        found(4),
        found(9, latest=True),
    ]
    assert going(judge(some, PruneRule(1))) == [4]
    assert going(judge(some, PruneRule(1, foreign=True))) == [3, 4]


def test_what_any_state_file_names_as_its_latest_stays():
    assert going(judge(run(1, 2, 3), PruneRule(1), named={"/run/model.ckpt-1"})) == [2]


def test_names_supersede_only_their_own():
    some = [found(1, name="best"), *run(2, 3)]
    assert going(judge(some, PruneRule(1))) == [2]


def test_some_are_kept_for_their_steps_and_hours():
    steps = [found(step, step * HOUR_S) for step in range(1, 10)]
    assert going(judge(steps, PruneRule(1, every_steps=4))) == [1, 2, 3, 5, 6, 7]
    assert going(judge(steps, PruneRule(1, every_hours=3))) == [2, 3, 5, 6, 8]


def test_the_newest_that_verifies_is_spared_and_looked_for_from_the_latest_on():
    asked = []

    def verifies(each):
        asked.append(each.checkpoint.step)
        return each.checkpoint.step == 2

    verdicts = judge(run(1, 2, 3, 4), PruneRule(1), verifies=verifies)
    assert asked == [4, 3, 2]
    assert going(verdicts) == [1, 3]
    assert verdicts[1].reason == "the newest that verifies"


def test_where_nothing_verifies_nothing_goes_and_where_nothing_goes_nothing_is_read():
    verdicts = judge(run(1, 2), PruneRule(1), verifies=lambda each: False)
    assert actions(verdicts) == {"1": "leave", "2": "keep"}
    judge(run(1, 2), PruneRule(5), verifies=lambda each: pytest.fail("read for nothing"))


@pytest.mark.parametrize("arguments", [{"keep": 0}, {"keep": 1, "every_hours": 0}, {"keep": 1, "every_steps": 0}])
def test_a_rule_that_keeps_nothing_is_refused(arguments):
    with pytest.raises(InvalidRequestError):
        PruneRule(**arguments)
