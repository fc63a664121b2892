"""Connections end when they are idle or old; honest clients connect again, and no save, watch or membership is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd import follow
from ckptd.access import policy
from ckptd.client.checkpointer import Checkpointer
from ckptd.service.server import Server, ServerOptions
from ckptd.wire.channels import ConnectionLife
from tests import seams
from tests.fakes.access import OPEN
from tests.fakes.raw_http2 import RawConnection
from tests.fakes.waiting import eventually
from tests.unit.client.served import BOUND_S, Daemon

SLOW = replace(policy.parse({"limit": [{"to": "*", "bytes_per_s": 4 << 20}]}), grants=None)


class Shortlived(Daemon):
    """A daemon whose connections live so long."""

    def __init__(self, root, life):
        self.life = life
        super().__init__(root)

    def make_server(self, coordinator):
        access = replace(OPEN, policy=SLOW)
        options = ServerOptions(listen=(self._listen,), access=access, connection_life=self.life)
        return Server(coordinator, options)


@pytest.fixture
def shortlived(tmp_path):
    started = []

    def start(**life):
        started.append(Shortlived(tmp_path / "root", ConnectionLife(**life)))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()


def test_a_save_a_watch_and_a_membership_outlive_their_connections(shortlived, monkeypatch):
    joins, join = [], seams.JOIN_RUN.value

    def joined(*told):
        joins.append(told)
        return join(*told)

    seams.JOIN_RUN.put(monkeypatch, joined)
    daemon = shortlived(age_s=0.3, grace_s=0.1)
    with (
        Checkpointer(daemon.address, "r", rank=0, world_size=2) as zero,
        Checkpointer(daemon.address, "r", rank=1, world_size=2) as one,
        follow(daemon.address, "r") as news,
    ):
        arrays = {"w": np.arange(700_000.0), "b": np.ones(3)}  # 5.6 MB, at 4 MB a second beyond the first
        waiting = zero.save(1, arrays)
        eventually(lambda: len(joins) >= 4)  # both have joined again
        saved = one.save(1, arrays).result(BOUND_S)
        assert waiting.result(BOUND_S) == saved
        assert next(news).step == 1
        zero.save(2, arrays)
        one.save(2, arrays).result(BOUND_S)
        assert next(news).step == 2


def test_a_connection_without_a_call_is_closed_and_the_next_call_makes_another(shortlived):
    daemon = shortlived(idle_s=0.2, age_s=0)
    with RawConnection(daemon.address) as silent:
        silent.read_to_end()
    with Checkpointer(daemon.address, "r") as one:
        one.save(1, {"w": np.ones(3)}).result(BOUND_S)
