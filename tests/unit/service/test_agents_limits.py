"""Limits of a coordinator's policy: what agents save for their ranks counts as their identities' own."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.access import policy
from ckptd.errors import UnavailableError
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.access import OPEN
from tests.fakes.served_hosts import WAIT_S, served_hosts
from tests.fakes.waiting import eventually

GRANT = {"to": f"uid:{os.geteuid()}", "runs": "**", "role": "admin"}
W = np.arange(50_000.0)  # 400 kB


@contextmanager
def limited(**limit):
    access = replace(OPEN, policy=policy.parse({"grant": [GRANT], "limit": [{"to": "*", **limit}]}))
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), "ab", access=access) as hosts:
        yield hosts


def rank(hosts, run, number=0, world_size=1, on="", **more):
    address = hosts.agents[on or "ab"[number]].address
    return ckptd.Checkpointer(address, run, rank=number, world_size=world_size, **{"timeout_s": WAIT_S, **more})


def used(hosts):
    status = hosts.coordinator.stub(methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    return {each.what: each.used for each in status.limits}


def part(number):
    return {"w": ckptd.Slice(W, (2 * len(W),), (number * len(W),))}


def test_a_save_beyond_the_limit_waits_for_one_of_its_agents_and_says_for_what():
    with limited(saves=1) as hosts:
        first = [rank(hosts, "one", number, 2) for number in range(2)]
        other = rank(hosts, "two", on="b")
        early = first[0].save(1, part(0))
        eventually(lambda: used(hosts).get("saves") == 1, lambda: used(hosts))
        late = other.save(1, {"w": W})

        def waits():
            status = hosts.agents["b"].stub(methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
            return [each for run in status.runs for save in run.saves for each in save.waiting_for]

        eventually(
            lambda: any("1 save under way, and the daemon's policy allows it 1" in each for each in waits()), waits
        )
        assert not late.done()
        first[1].save(1, part(1)).result(WAIT_S)  # of the save that is under way: it is let in
        early.result(WAIT_S)
        late.result(WAIT_S)
        for each in (*first, other):
            each.close()


def test_a_run_beyond_the_limit_is_refused_until_one_is_left():
    with limited(runs=1) as hosts:
        first = rank(hosts, "one")
        first.save(1, {"w": W}).result(WAIT_S)
        assert used(hosts) == {"runs": 1}
        with (
            rank(hosts, "two", timeout_s=0.6) as refused,
            pytest.raises(UnavailableError, match=re.escape("has joined 1 run, and the daemon's policy allows it 1")),
        ):
            refused.save(1, {"w": W}).result(WAIT_S)
        first.close()
        with rank(hosts, "two") as second:
            second.save(1, {"w": W}).result(WAIT_S)


def test_more_bytes_than_may_be_claimed_are_refused_before_any_is_written():
    with limited(claimed_bytes=500_000) as hosts:
        ranks = [rank(hosts, "one", number, 2) for number in range(2)]
        for pending in [each.save(1, part(number)) for number, each in enumerate(ranks)]:
            with pytest.raises(UnavailableError, match=r"has 800.0 kB; .* allows it 500.0 kB"):
                pending.result(WAIT_S)
        assert list(Path(hosts.base / "root").rglob("*.data-*")) == []
        for pending in [each.save(2, {f"of {number}": W[:1000]}) for number, each in enumerate(ranks)]:
            pending.result(WAIT_S)
        for each in ranks:
            each.close()
