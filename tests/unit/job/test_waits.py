"""What the user is told of a wait at the start of a job."""

from __future__ import annotations

from ckptd.job.waits import Wait


def test_a_wait_is_told_soon_and_then_now_and_again_until_it_is_over(caplog):
    now = [100.0]
    wait = Wait(60.0, lambda: now[0])
    while not wait.is_over:
        wait.goes_on(lambda: "the first node")
        now[0] += 1.0
    assert now[0] == 160.0
    assert [each.getMessage() for each in caplog.records] == [
        f"waiting for the first node; for {left} s more at most" for left in (55, 25)
    ]
