"""A storm of SIGHUPs is answered a few times, and the last of it is not lost."""

from __future__ import annotations

import asyncio
import itertools
import time

from ckptd.daemon.hangups import AT_ONCE, Hangups


def test_of_a_storm_few_are_answered_and_the_last_one_is():
    async def scene():
        numbers, looks, reopened = itertools.count(), [], []
        hangups = Hangups(lambda: reopened.append(next(numbers)), lambda: looks.append(next(numbers)))
        began = time.monotonic()
        answering = asyncio.ensure_future(hangups.run())
        for _ in range(500):
            hangups.came()
            await asyncio.sleep(0.0005)
        last = next(numbers)
        hangups.came()
        while not (looks[-1] > last and reopened[-1] > last):
            await asyncio.sleep(0.01)
        assert AT_ONCE <= len(looks) <= AT_ONCE + 3 + time.monotonic() - began  # and one a second
        assert len(reopened) == len(looks)
        answering.cancel()

    asyncio.run(asyncio.wait_for(scene(), 60))
