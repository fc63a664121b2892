"""Saves and watches in coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError
from tests.starts import prepared

W = {"w": np.arange(4.0)}
BOUND_S = 60.0


@pytest.fixture(params=["daemon", "direct"])
def address(request, tmp_path):
    return request.getfixturevalue("daemon").address if request.param == "daemon" else str(tmp_path / "root")


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, BOUND_S))


def test_a_save_is_awaited_and_raises_what_ended_it(address):
    async def job():
        with ckptd.Checkpointer(address, run="r") as ckpt:
            first, second = await asyncio.gather(*(await_it(ckpt.save(step, W)) for step in (1, 2)))
            assert (first.step, second.step) == (1, 2)
            with pytest.raises(ConflictError, match="already saved"):
                await ckpt.save(2, W)
            ckpt.wait()  # the error was seen
            done = ckpt.save(3, W)
            done.result()
            assert (await done).step == 3

    async def await_it(pending):
        return await pending

    run(job())


def test_a_watch_is_iterated_beside_other_tasks_and_loses_nothing_when_one_is_cancelled(address):
    async def job():
        with ckptd.Checkpointer(address, run="r") as ckpt, contextlib.closing(ckpt.watch()) as news:
            waiting = asyncio.create_task(anext_(news))
            await ckpt.save(1, W)
            assert (await waiting).step == 1
            given_up = asyncio.create_task(anext_(news))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            await ckpt.save(2, W)
            assert (await anext_(news)).step == 2

    async def anext_(news):
        return await news.__anext__()

    run(job())


def test_async_for_ends_when_nothing_comes_and_when_it_is_closed(address):
    async def job():
        with ckptd.Checkpointer(address, run="r") as ckpt:
            await ckpt.save(1, W)
            assert [checkpoint.step async for checkpoint in ckpt.watch(timeout_s=2.0)] == [1]
            async with contextlib.aclosing(ckpt.watch()) as news:
                async for checkpoint in news:
                    assert checkpoint.step == 1
                    break
            assert [checkpoint async for checkpoint in news] == []
            news = ckpt.watch()
            async for checkpoint in news:
                assert checkpoint.step == 1
                asyncio.get_running_loop().call_later(0.2, news.close)

    run(job())


def test_a_program_ends_although_a_watch_has_not(tmp_path):
    program = """if True:
        import asyncio, ckptd
        async def watch():
            async for _ in ckptd.follow("."): pass
        async def job():
            with __import__("contextlib").suppress(asyncio.TimeoutError):
                await asyncio.wait_for(watch(), 0.3)
        asyncio.run(job())
        print("ended")
    """
    ended = prepared.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    assert (ended.stdout, ended.stderr) == ("ended\n", "")
