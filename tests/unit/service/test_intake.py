from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from ckptd.engine.priority import Priority
from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format.crc32c import crc32c
from ckptd.service.flow import Budgets, Limits
from ckptd.service.intake import MAX_WAITING, Intake
from ckptd.service.pools import Pools
from ckptd.wire.chunks import Chunk
from tests.fakes.coordinator import FakeLane

BOUND_S = 60.0
SIZE = 1000


def chunk(number):
    data = bytes([number % 256]) * SIZE
    return Chunk(number * SIZE, crc32c(data), data)


def played(scene, num_chunks=40):
    """Run a scene with an intake of a lane, on a loop of its own."""

    async def run():
        pools, flow = Pools(control_threads=1, data_threads=2, priority=Priority()), Budgets(Limits())
        ended = asyncio.get_running_loop().create_future()
        lane = FakeLane(num_chunks * SIZE)
        intake = Intake(lane, "r", pools, flow, SimpleNamespace(shares=("a", "a"), end=ended.set_result))
        try:
            await asyncio.wait_for(scene(intake, lane, flow, ended), BOUND_S)
        finally:
            lane.let_write.set()
            pools.close()

    asyncio.run(run())


def test_chunks_are_written_in_order_and_their_room_is_given_back():
    async def scene(intake, lane, flow, ended):
        async with intake:
            for number in range(40):
                await intake.put(chunk(number))
            await intake.drained()
            assert bytes(lane.data) == b"".join(chunk(number).data for number in range(40))
            assert flow.chunk_bytes.held == 0
        assert not ended.done()

    played(scene)


def test_the_sender_waits_while_the_disk_does():
    async def scene(intake, lane, flow, ended):
        lane.let_write.clear()
        async with intake:
            for number in range(MAX_WAITING - 1):
                await intake.put(chunk(number))
            last = asyncio.ensure_future(intake.put(chunk(MAX_WAITING - 1)))
            assert await asyncio.to_thread(lane.writing.acquire, timeout=BOUND_S)
            assert not last.done()
            assert flow.chunk_bytes.held == MAX_WAITING * SIZE
            lane.let_write.set()
            await last
            await intake.drained()
        assert lane.received == MAX_WAITING * SIZE

    played(scene)


def test_a_chunk_that_cannot_be_written_ends_the_call_and_frees_those_behind_it():
    async def scene(intake, lane, flow, ended):
        lane.let_write.clear()
        async with intake:
            await intake.put(Chunk(0, 1, bytes(SIZE)))
            await intake.put(chunk(1))
            lane.let_write.set()
            error = await ended
            assert isinstance(error, CorruptionError)
            assert (lane.received, flow.chunk_bytes.held) == (0, 0)
            with pytest.raises(CorruptionError):
                await intake.put(chunk(1))
            with pytest.raises(CorruptionError):
                await intake.drained()
            assert flow.chunk_bytes.held == 0

    played(scene)


def test_what_a_sender_leaves_behind_is_dropped_but_for_the_chunk_that_is_being_written():
    async def scene(intake, lane, flow, ended):
        lane.let_write.clear()
        async with intake:
            for number in range(MAX_WAITING - 1):
                await intake.put(chunk(number))
            assert await asyncio.to_thread(lane.writing.acquire, timeout=BOUND_S)
        assert flow.chunk_bytes.held == SIZE
        lane.let_write.set()
        await intake.drained()
        assert (lane.received, flow.chunk_bytes.held) == (SIZE, 0)

    played(scene)


def test_a_chunk_beyond_the_end_is_refused_before_it_takes_any_room():
    async def scene(intake, lane, flow, ended):
        async with intake:
            with pytest.raises(InvalidRequestError, match="beyond the end"):
                await intake.put(chunk(40))
            assert flow.chunk_bytes.held == 0

    played(scene)
