"""Four hosts restore the same checkpoint through their agents, and the bucket gives each byte once. Real processes."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ckptd
from tests.e2e.saving_worker import value_of
from tests.e2e.test_agents_bucket import RANKS, RUN, WAIT_S, BucketHosts, running
from tests.services.exchanges import header_of
from tests.services.front import Front
from tests.services.s3 import S3Service

COUNT = 1_200_000  # numbers a rank: shards of two blocks each


def restored(hosts: BucketHosts, host: str) -> np.ndarray:
    with ckptd.Checkpointer(hosts.address(host), RUN, rank=0, world_size=1, timeout_s=WAIT_S) as checkpointer:
        found: np.ndarray = checkpointer.restore(1)["w"]
        return found


def given(front: Front) -> int:
    """Return how many bytes of checkpoints were requested from the bucket."""
    size = 0
    for each in front.exchanges("GetObject", "model.ckpt-1"):
        begin, _, end = header_of(each.request.headers, "range").removeprefix("bytes=").partition("-")
        size += int(end) - int(begin) + 1
    return size


def check(found: np.ndarray) -> None:
    for rank, part in enumerate(np.split(found, RANKS)):
        assert (part == value_of(1, rank)).all()


def test_the_store_gives_each_byte_once_to_four_hosts_and_a_hung_one_is_passed_by(
    s3_root: str, s3_service: S3Service, s3_front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")  # no host has anything of it in memory
    with running(s3_root, s3_service) as hosts:
        hosts.start("d")
        hosts.save(1, COUNT)
        size = COUNT * 4 * RANKS
        s3_front.forget()
        with ThreadPoolExecutor(4) as readers:
            for found in readers.map(lambda host: restored(hosts, host), "abcd"):
                check(found)
        assert size <= given(s3_front) <= 1.1 * size

        # What each keeps it gives again; of what the hung one kept, others read the store.
        hosts.processes["b"].send_signal(signal.SIGSTOP)
        check(restored(hosts, "d"))
        hosts.processes["b"].send_signal(signal.SIGCONT)
        s3_front.forget()
        check(restored(hosts, "b"))
        assert given(s3_front) <= 0.1 * size
