from __future__ import annotations

import pytest

from ckptd.client.deadline import Backoff, Deadline
from ckptd.errors import UnavailableError


def test_a_deadline_counts_down_and_passes():
    now = [100.0]
    deadline = Deadline(5.0, lambda: now[0])
    assert deadline.remaining_s == 5.0
    deadline.check("nobody came")
    now[0] = 104.0
    assert deadline.remaining_s == 1.0
    assert not deadline.has_passed
    now[0] = 200.0
    assert deadline.remaining_s == 0.0
    assert deadline.has_passed
    with pytest.raises(UnavailableError, match="nobody came within 5 s"):
        deadline.check("nobody came")


def test_pauses_grow_up_to_a_limit_and_never_beyond_the_deadline():
    now = [0.0]
    deadline = Deadline(100.0, lambda: now[0])
    backoff = Backoff(longest_s=1.0)
    pauses = [backoff.next_s(deadline) for _ in range(12)]
    assert 0.025 <= pauses[0] <= 0.05
    assert all(0.5 <= pause <= 1.0 for pause in pauses[6:])
    now[0] = 99.9
    assert backoff.next_s(deadline) <= 0.1 + 1e-9
