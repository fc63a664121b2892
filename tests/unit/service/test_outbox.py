"""What threads put is delivered to queues of the event loop: all of it, in order, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading

from ckptd.service.outbox import Outbox

_EACH = 500


def test_what_threads_put_arrives_whole_and_in_the_order_of_each():
    async def delivered() -> dict[int, list[int]]:
        loop, outbox = asyncio.get_running_loop(), Outbox[int]()
        queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(4)]

        def put(queue: asyncio.Queue[int]) -> None:
            for number in range(0, _EACH, 2):
                outbox.put(loop, queue, [number, number + 1])

        threads = [threading.Thread(target=put, args=[queue]) for queue in queues]
        for thread in threads:
            thread.start()
        found = {at: [await queue.get() for _ in range(_EACH)] for at, queue in enumerate(queues)}
        for thread in threads:
            thread.join()
        return found

    assert asyncio.run(asyncio.wait_for(delivered(), 60)) == {key: list(range(_EACH)) for key in range(4)}


def test_many_messages_wake_the_loop_once():
    async def woken() -> int:
        loop, outbox, queue = asyncio.get_running_loop(), Outbox[int](), asyncio.Queue[int]()
        calls = []
        waking = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: calls.append(args) or waking(*args)  # type: ignore[method-assign]
        for number in range(100):
            outbox.put(loop, queue, [number])
        assert [await queue.get() for _ in range(100)] == list(range(100))
        return len(calls)

    assert asyncio.run(asyncio.wait_for(woken(), 60)) == 1
