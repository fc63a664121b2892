"""A daemon over a bucket with many runs listens at once, and asks little for a run that needs no repair."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ckptd
from tests.fakes.waiting import eventually
from tests.services.faults import Delay
from tests.services.front import Front
from tests.services.s3 import S3Service
from tests.starts.daemons import Daemon

NUM_RUNS = 12
DELAY_S = 0.04
WITHIN_S = 120.0
MOST_REQUESTS = 4
LOOK_EVERY_S = 10.0  # so often a daemon looks whether a run still is its own: on a busy machine this takes longer


class Place:
    """A root in the bucket behind the front, and the daemons over it, one after the other."""

    def __init__(self, front: Front, service: S3Service, directory):
        self.front = front
        self.name = uuid.uuid4().hex
        self.url = f"s3://{service.bucket}/{self.name}"
        self.directory = directory
        self.number = 0

    def start(self) -> float:
        """Start a daemon; return after how many seconds it listened."""
        self.number += 1
        self.started_at = began = time.monotonic()
        self.log = self.directory / f"{self.number}.log"
        self.daemon = Daemon(self.url, self.log, self.directory / f"{self.number}.json")
        self.daemon.wait_until_ready()
        return time.monotonic() - began

    def forget(self) -> None:
        self.front.forget()
        self.forgot_at = time.monotonic()

    def most_requests(self) -> int:
        """Return how many requests there may have been for a run since the last `forget`."""
        now = time.monotonic()
        has_looked = now - self.started_at >= LOOK_EVERY_S
        return MOST_REQUESTS + has_looked * (1 + int((now - self.forgot_at) / LOOK_EVERY_S))

    def trainer(self, number: int) -> ckptd.Checkpointer:
        host, port = self.daemon.port()
        return ckptd.Checkpointer(
            f"grpc://{host}:{port}", f"runs/{number}", rank=0, world_size=1, max_to_keep=3, timeout_s=WITHIN_S
        )

    def save(self, number: int) -> None:
        with self.trainer(number) as checkpointer:
            for step in (1, 2, 3):
                checkpointer.save(step, {"w": np.full(100, step, np.int32)}).result(WITHIN_S)

    def wait_until_inspected(self) -> None:
        eventually(lambda: "looked at" in self.log.read_text(), self.log.read_text)

    def requests_by_run(self) -> Counter[str]:
        """Count the requests since the last `forget` for each run, those for a listing of it among them."""
        counts: Counter[str] = Counter()
        for exchange in self.front.exchanges():
            about = exchange.key or exchange.query.get("prefix", "")
            parts = about.removeprefix(f"{self.name}/").split("/")
            if parts[0] == "runs" and len(parts) > 1:
                counts[parts[1]] += 1
        return counts


@pytest.fixture
def place(s3_front, s3_service, tmp_path):
    place = Place(s3_front, s3_service, tmp_path)
    place.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(place.save, range(NUM_RUNS)))
    assert place.daemon.stop() == 0
    yield place
    place.front.remove_rules()
    assert place.daemon.stop() == 0, place.log.read_text()


def test_a_start_listens_first_and_asks_little_for_each_run(place):
    place.front.add(Delay(DELAY_S), times=None)
    place.forget()
    listening_s = place.start()
    place.wait_until_inspected()
    counts = place.requests_by_run()
    total = len(place.front.exchanges())
    print(f"listening after {listening_s:.1f} s; {total} requests in all, for a run at most {max(counts.values())}")
    assert len(counts) == NUM_RUNS
    assert max(counts.values()) <= place.most_requests(), counts
    for number in range(NUM_RUNS):
        place.forget()
        with place.trainer(number) as checkpointer:
            assert checkpointer.latest().step == 3
        assert place.requests_by_run()[str(number)] <= place.most_requests(), place.front.exchanges()
    with place.trainer(0) as checkpointer:
        assert [one.step for one in checkpointer.checkpoints()] == [1, 2, 3]
        checkpointer.save(4, {"w": np.zeros(3)}).result(WITHIN_S)
        assert [one.step for one in checkpointer.checkpoints()] == [2, 3, 4]
        assert (checkpointer.restore(3)["w"] == 3).all()
