"""The disk answers one operation with an error, or is full for a while: the caller gets a typed error, what was saved
before stays whole, the next save works, and power may fail afterwards as well.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable

import pytest

from ckptd.errors import CkptdError, StorageFullError, UnavailableError
from tests.fakes.disk import SimulatedDisk
from tests.faults.history import STORIES, History, Trainer, disk_with_foreign_files

Story = Callable[[Trainer], None]
ERRORS: list[tuple[int, type[CkptdError]]] = [
    (errno.EIO, UnavailableError),
    (errno.ENOSPC, StorageFullError),
]


def tell(story: Story, disk: SimulatedDisk, history: History) -> Trainer | None:
    """Run a story; None if the disk failed while the run was opened, as then there is no trainer."""
    try:
        trainer = Trainer(disk, history)
    except CkptdError as error:
        history.failures.append(error)
        return None
    story(trainer)
    return trainer


def check_all_is_well(disk: SimulatedDisk, history: History, trainer: Trainer | None, seed: int) -> None:
    """The same process goes on, and so does one that starts after any crash."""
    failures = len(history.failures)
    history.check(disk.content())
    trainer = trainer or Trainer(disk, history)
    trainer.save(50)
    trainer.save(51)
    assert len(history.failures) == failures, f"the next save failed: {history.failures[-1]}"
    history.check(disk.content())
    for crash in itertools.islice(disk.crashes(seed=seed), 2):
        after = disk.reboot(crash)
        history.check(after.content())
        Trainer(after, history)
        history.check(after.content())
        history.check_nothing_left_over(after.content())


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize(("code", "kind"), ERRORS)
def test_any_operation_may_fail_once(story: Story, code: int, kind: type[CkptdError]) -> None:
    num_failed = 0
    for number in itertools.count(1):
        disk = disk_with_foreign_files(fails_at=number, error=code)
        history = History()
        trainer = tell(story, disk, history)
        if len(disk.operations) < number:
            break
        num_failed += bool(history.failures)
        assert {type(error) for error in history.failures} <= {kind}, history.failures
        check_all_is_well(disk, history, trainer, number)
    assert num_failed > 20


@pytest.mark.parametrize("story", STORIES)
def test_the_disk_may_be_full_from_any_operation_on(story: Story) -> None:
    num_failed = 0
    for number in itertools.count(1):
        disk = disk_with_foreign_files(full_from=number)
        history = History()
        trainer = tell(story, disk, history)
        if len(disk.operations) < number:
            break
        num_failed += any(isinstance(error, StorageFullError) for error in history.failures)
        history.check(disk.content())
        disk.full_from = None
        check_all_is_well(disk, history, trainer, number)
    assert num_failed > 20
