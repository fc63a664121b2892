from __future__ import annotations

import asyncio

import pytest

from ckptd.errors import UnavailableError
from ckptd.service.calls import host_of
from ckptd.service.flow import Budget


async def held(budget, peer, amount, release, order):
    async with budget.hold(peer, amount, patience_s=20):
        order.append(peer)
        await release.wait()


def test_what_is_held_never_exceeds_the_total_and_the_first_who_fit_go_first():
    async def scene():
        budget, release, order = Budget("things", 10, 10), asyncio.Event(), []
        holders = [asyncio.ensure_future(held(budget, peer, 6, release, order)) for peer in "abc"]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (order, budget.held) == (["a"], 6)
        release.set()
        await asyncio.wait_for(asyncio.gather(*holders), 20)
        assert (order, budget.held) == (["a", "b", "c"], 0)

    asyncio.run(scene())


def test_a_peer_at_its_limit_holds_up_nobody_else():
    async def scene():
        budget, release, order = Budget("things", 10, 4), asyncio.Event(), []
        holders = [asyncio.ensure_future(held(budget, peer, 4, release, order)) for peer in ("a", "a", "b")]
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["a", "b"]
        release.set()
        await asyncio.wait_for(asyncio.gather(*holders), 20)
        assert budget.held == 0

    asyncio.run(scene())


def test_impatience_is_a_typed_error_and_leaves_nothing_behind():
    async def scene():
        budget, release = Budget("things", 1, 1), asyncio.Event()
        holder = asyncio.ensure_future(held(budget, "a", 1, release, []))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="no room for more things"):
            async with budget.hold("b", 1, patience_s=0.01):
                raise AssertionError("there was no room")
        cancelled = asyncio.ensure_future(held(budget, "c", 1, release, []))
        await asyncio.sleep(0)
        cancelled.cancel()
        release.set()
        await asyncio.wait({holder, cancelled})
        assert budget.held == 0
        async with budget.hold("d", 1, patience_s=1):
            assert budget.held == 1

    asyncio.run(scene())


def test_an_amount_above_the_limit_has_the_budget_for_itself():
    async def scene():
        budget = Budget("bytes", 10, 8)
        async with budget.hold("a", 1000, patience_s=1):
            assert budget.held == 8

    asyncio.run(scene())


def test_what_another_thread_gives_back_wakes_the_first_who_fits():
    async def scene():
        budget, release, order = Budget("bytes", 10, 10), asyncio.Event(), []
        await budget.acquire("a", 10, patience_s=1)
        release.set()
        waiting = asyncio.ensure_future(held(budget, "b", 10, release, order))
        await asyncio.sleep(0)
        await asyncio.to_thread(budget.release, "a", 10)
        await asyncio.wait_for(waiting, 20)
        assert (order, budget.held) == (["b"], 0)

    asyncio.run(scene())


def test_who_is_cancelled_just_when_it_is_granted_gives_it_back():
    async def scene():
        budget = Budget("bytes", 10, 10)
        await budget.acquire("a", 10, patience_s=1)
        waiting = asyncio.ensure_future(budget.acquire("b", 10, patience_s=20))
        await asyncio.sleep(0)
        budget.release("a", 10)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert budget.held == 0

    asyncio.run(scene())


def test_nothing_is_an_amount_too():
    async def scene():
        budget = Budget("bytes", 10, 10)
        for amount in (0, 5, 0):
            await budget.acquire("a", amount, patience_s=1)
        for amount in (5, 0, 0):
            budget.release("a", amount)
        assert budget.held == 0

    asyncio.run(scene())


class Idle:
    """A call that has waited for its peer for so long."""

    shares = ("x at a", "x")

    def __init__(self, idle_s):
        self.idle_s = idle_s
        self.ended = asyncio.get_running_loop().create_future()

    def end(self, error):
        self.ended.set_exception(error)


async def held_by(budget, keys, holder):
    async with budget.hold(keys, 1, patience_s=20, holder=holder):
        await holder.ended


def test_the_idlest_gives_its_part_up_to_those_who_wait_and_says_whose_it_was():
    async def scene():
        budget = Budget("things", 3, 3)
        busy, idle, idlest = Idle(0.1), Idle(5.0), Idle(7.0)
        holders = [asyncio.ensure_future(held_by(budget, "a", each)) for each in (busy, idle, idlest)]
        await asyncio.sleep(0)
        async with budget.hold("b", 1, patience_s=20):
            assert [each.ended.done() for each in (busy, idle, idlest)] == [False, False, True]
        with pytest.raises(UnavailableError, match="x at a moved nothing for 7.0 s while others waited"):
            await holders[2]
        busy.ended.set_result(None)
        idle.ended.set_result(None)
        await asyncio.gather(*holders[:2])
        assert budget.held == 0

    asyncio.run(scene())


def test_whose_own_share_is_full_takes_no_part_of_another():
    async def scene():
        budget = Budget("things", 4, 1, 2)
        mine, other = Idle(5.0), Idle(50.0)
        holders = [
            asyncio.ensure_future(held_by(budget, keys, each))
            for keys, each in ((("x at a", "x"), mine), (("y at a", "y"), other))
        ]
        await asyncio.sleep(0)
        async with budget.hold(("x at a", "x"), 1, patience_s=20):
            assert (mine.ended.done(), other.ended.done()) == (True, False)
        other.ended.set_result(None)
        await asyncio.gather(*holders, return_exceptions=True)

    asyncio.run(scene())


def test_an_identity_has_one_share_from_however_many_hosts():
    async def scene():
        budget = Budget("things", 4, 2, 3)
        for host in ("a", "a", "b"):
            await budget.acquire((f"x at {host}", "x"), 1, patience_s=1)
        with pytest.raises(UnavailableError, match="3 for x, which holds 3"):
            await budget.acquire(("x at c", "x"), 1, patience_s=0.01)
        await budget.acquire(("y at a", "y"), 1, patience_s=1)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5000", "ipv4:10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "ipv6:%5B::1%5D"),
        ("unix:", "unix"),
        ("unix:/run/x.sock", "unix"),
    ],
)
def test_limits_are_counted_by_host(peer, host):
    assert host_of(peer) == host
