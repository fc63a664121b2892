"""The process is killed before each named step: what was written stays, and recovery brings it to an end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.disk import PowerCut
from tests.faults.history import STORIES, History, Trainer, disk_with_foreign_files

COMMIT_MD = Path(__file__).parents[2] / "docs" / "commit.md"


def steps_of(number: int | None = None) -> list[tuple[str, str]]:
    """Tell all stories; with a number, die before the step of that number, start again, and check."""
    steps: list[tuple[str, str]] = []
    for story in STORIES:
        disk, history = disk_with_foreign_files(), History()

        def on_step(step: str, story: str = story.__name__) -> None:
            steps.append((story, step))
            if len(steps) == number:
                raise PowerCut

        try:
            story(Trainer(disk, history, on_step=on_step))
        except PowerCut:
            after = disk.reboot()
            history.check(after.content())
            trainer = Trainer(after, history, on_step=lambda step: steps.append(("recovery", step)))
            history.check(after.content())
            history.check_nothing_left_over(after.content())
            trainer.save(99)
            assert not history.failures
            return steps
    return steps


def test_a_process_killed_before_any_step_is_recovered_from_and_every_step_is_documented() -> None:
    seen = set()
    for number in range(1, len(steps_of()) + 1):
        seen |= {step for _, step in steps_of(number)}
    documented = set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", COMMIT_MD.read_text(encoding="utf-8"), re.MULTILINE))
    # A mark is needed only for what cannot be deleted now, notes only with hours or new rules, a fence only in buckets
    # (test_bucket_crashes.py), an abort is noted only of what agents write, of which an index may come late, the rest
    # by other calls.
    elsewhere = {
        "publish.horizon",
        "settle.dropped",
        "settle.preserved",
        "unlist.state",
        "fence.state",
        "sweep.aborted",
        "sweep.index",
    }
    assert seen == documented - elsewhere
    assert elsewhere <= documented


@pytest.mark.parametrize("story", STORIES)
def test_the_steps_of_a_save_come_in_their_order(story: object) -> None:
    order = ["begin.record", "commit.index", "publish.state", "publish.read_back", "settle.published"]
    told = [step for name, step in steps_of() if name == story.__name__ and step in order]  # type: ignore[attr-defined]
    if story.__name__ != "an_abort":  # type: ignore[attr-defined]
        assert told[: 2 * len(order)] == order * 2
    assert told[: len(order)] == order
