"""A server that ends waits for ranks that are about to ask how their save has ended."""

from __future__ import annotations

import asyncio
import threading

import grpc
import numpy as np
import pytest

from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.service.last_words import LastWords
from ckptd.service.server import ServerOptions
from ckptd.storage.memory import MemoryStore
from ckptd.wire import addresses
from ckptd.wire.v1 import save_pb2
from tests.fakes.access import OPEN
from tests.fakes.worker import Worker
from tests.unit.service.conftest import Running

RANK = SaveRef("runs/a", 1, 5, save_id="s", rank=0)


def test_a_rank_that_asks_only_when_the_server_has_begun_to_stop_hears_the_end():
    coordinator = Coordinator(MemoryStore())
    coordinator.open()
    with Running(coordinator, ServerOptions((addresses.parse("grpc://127.0.0.1:0"),), access=OPEN)) as running:
        worker = Worker(running.channel(), 0, 1).join()
        worker.assigned(worker.declare(1, {"w": (np.ones(4), (4,), (0,))}))
        worker.send()
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError):  # it has begun to stop
            next(worker.membership)
        assert worker.outcome().phase == save_pb2.SAVE_PHASE_PUBLISHED
        stopping.join(60)
    coordinator.close()


@pytest.mark.parametrize("end", ["asked", "too long ago", "of nothing"])
def test_what_is_not_expected_holds_nothing_up(end):
    now = [0.0]
    last = LastWords(lambda: now[0])
    if end != "of nothing":
        last.sent(RANK)
    if end == "asked":
        last.asked(RANK)
    if end == "too long ago":
        now[0] = 2.1
    asyncio.run(asyncio.wait_for(last.settle(), 60))
