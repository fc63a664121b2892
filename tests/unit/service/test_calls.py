"""A peer that vanishes while it is answered: nothing in the log blames the daemon."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import grpc
import pytest

from ckptd.engine.journal import NO_JOURNAL
from ckptd.errors import NotFoundError
from ckptd.service.boundary import Boundary
from ckptd.service.door import Door
from ckptd.service.gate import Access, Gate
from ckptd.service.recorder import Recorder
from ckptd.service.subjects import Subjects
from ckptd.service.under_way import CallsUnderWay
from ckptd.wire import methods
from ckptd.wire.v1 import read_pb2

READ = methods.READ["Read"]


async def vanishes(*_):
    """Fail as gRPC does when the connection breaks under a write, before the call counts as cancelled."""
    raise grpc.aio.InternalError('Failed "execute_batch"')


def answered(behaviour):
    """Answer one call of a peer that has vanished."""

    async def scene():
        gate = Gate(Access())
        boundary = Boundary(
            Door(gate), Recorder(NO_JOURNAL), Subjects(None, None), CallsUnderWay(gate, lambda: None), limit_s=10.0
        )
        context = SimpleNamespace(
            peer=lambda: "ipv4:10.0.0.1:5",
            invocation_metadata=lambda: (),
            auth_context=dict,
            cancelled=lambda: False,
            done=lambda: False,
            write=vanishes,
            abort=vanishes,
        )
        await boundary.around(READ, behaviour)(read_pb2.ReadRequest(key="r/a").SerializeToString(), context)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scene())


def test_a_peer_that_vanishes_under_a_reply_is_no_bug_of_the_daemon(caplog):
    async def read(request, call):
        await call.write(read_pb2.ReadReply())

    answered(read)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_nor_is_one_that_vanishes_before_it_is_told_an_error(caplog):
    async def read(request, call):
        raise NotFoundError("no such checkpoint")

    answered(read)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
