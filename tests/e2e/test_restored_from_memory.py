"""Ranks restore what was saved last from the memory of hosts, through their agents. Real processes, over both stores.

The store's reads are counted in a bucket. In a directory the data files are overwritten: what is right is from memory.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.wire import methods
from ckptd.wire.v1 import agent_pb2
from tests.e2e.saving_worker import value_of
from tests.e2e.test_agents import HOSTS, Hosts
from tests.e2e.test_agents_bucket import RANKS, RUN, WAIT_S, BucketHosts, running
from tests.e2e.wrong_agent import DIES, LIES, WRONG_VARIABLE
from tests.fakes.waiting import eventually
from tests.services.exchanges import header_of
from tests.services.front import Front
from tests.services.s3 import S3Service

COUNT = 700_000  # numbers a rank: a shard, of two ranks, is less than a block
OF_A_HOST = 2 * COUNT


def restored(hosts: Hosts, host: str, step: int, *places: str) -> np.ndarray:
    """Restore what hosts at `places` hold of `w`, as the only rank of a new job on `host`; all of it without them."""
    with ckptd.Checkpointer(hosts.address(host), RUN, rank=0, world_size=1, timeout_s=WAIT_S) as checkpointer:
        if not places:
            return np.array(checkpointer.restore(step)["w"])
        begin = HOSTS.index(places[0]) * OF_A_HOST
        box = (begin,), (len(places) * OF_A_HOST,)
        return np.array(checkpointer.restore(step, names=["w"], slices={"w": box})["w"])


def restored_part(hosts: Hosts, host: str, step: int, begin: int, count: int) -> np.ndarray:
    with ckptd.Checkpointer(hosts.address(host), RUN, rank=0, world_size=1, timeout_s=WAIT_S) as checkpointer:
        return np.array(checkpointer.restore(step, names=["w"], slices={"w": ((begin,), (count,))})["w"])


def check(found: np.ndarray, step: int, host: str = HOSTS[0]) -> None:
    """Compare what was restored, from the first number that `host` holds on."""
    for at, part in enumerate(np.split(found, len(found) // COUNT)):
        assert (part == value_of(step, 2 * HOSTS.index(host) + at)).all()


def given(front: Front) -> int:
    """Return how many bytes of data files were requested from the bucket."""
    size = 0
    for each in front.exchanges("GetObject", ".data-"):
        begin, _, end = header_of(each.request.headers, "range").removeprefix("bytes=").partition("-")
        size += int(end) - int(begin) + 1
    return size


@pytest.fixture(scope="module")
def in_directory() -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        (root := Path(base) / "root").mkdir()
        hosts = Hosts(Path(base), root)
        try:
            yield hosts
        finally:
            hosts.end()


def test_a_new_job_restores_what_its_host_saved_from_memory_also_when_the_files_are_overwritten(
    in_directory: Hosts,
) -> None:
    hosts = in_directory
    hosts.crew.save(1, COUNT)
    assert hosts.crew.answers(WAIT_S) == ["saved"] * RANKS
    hosts.crew.end()
    for data in (hosts.root / RUN).glob("model.ckpt-1.data-*"):
        data.write_bytes(b"\0" * data.stat().st_size)
    for host in HOSTS:
        check(restored(hosts, host, 1, host), 1, host)


@pytest.fixture
def in_bucket(s3_root: str, s3_service: S3Service, s3_front: Front) -> Iterator[BucketHosts]:
    """The processes, all of whose requests go through the front."""
    with running(s3_root, s3_service) as hosts:
        yield hosts


def in_memory(hosts: BucketHosts, step: int) -> set[str]:
    """Return which hosts have parts of a step in memory, as the coordinator knows it."""
    with grpc.insecure_channel(f"unix:{hosts.base}/coordinator.sock") as channel:
        request = agent_pb2.WhereRequest(key=f"{RUN}/model.ckpt-{step}")
        return {each.host for each in methods.Stub(channel, methods.AGENT).Where(request, timeout=WAIT_S).holders}


def save(hosts: BucketHosts, step: int) -> None:
    """Save a step, and wait until it is known where it is in memory."""
    hosts.save(step, COUNT)
    eventually(lambda: in_memory(hosts, step) == set(HOSTS), "all hosts have it in memory", within_s=WAIT_S)


def test_over_a_bucket_nothing_is_read_of_what_is_in_memory_here_or_on_another_host(
    in_bucket: BucketHosts, s3_front: Front
) -> None:
    in_bucket.start("d")  # a host that has saved nothing
    save(in_bucket, 1)
    save(in_bucket, 2)
    s3_front.forget()
    for host in HOSTS:
        check(restored(in_bucket, host, 2, host), 2, host)
    for host in "db":
        check(restored(in_bucket, host, 2), 2)
    assert s3_front.exchanges("GetObject", "model.ckpt-2.index")
    assert given(s3_front) == 0

    # Each rank has two arenas: the next save but one overwrites what was in memory. A save ends on all hosts, too.
    save(in_bucket, 3)
    assert in_memory(in_bucket, 1) == set()
    s3_front.forget()
    check(restored(in_bucket, "d", 1), 1)
    assert 4 * RANKS * COUNT <= given(s3_front) <= 1.1 * 4 * RANKS * COUNT

    # The memory of a is gone with its agent. Each of the others still has its own.
    in_bucket.kill("a")
    s3_front.forget()
    check(restored(in_bucket, "d", 3), 3)
    assert 4 * OF_A_HOST <= given(s3_front) <= 1.1 * 4 * OF_A_HOST


def test_an_agent_that_lies_and_one_that_dies_as_it_is_asked_cost_time_only(
    in_bucket: BucketHosts, s3_front: Front
) -> None:
    for host, wrong in (("b", LIES), ("c", DIES)):
        in_bucket.kill(host)
        with pytest.MonkeyPatch.context() as environment:
            environment.setattr(in_bucket, "program", "tests.e2e.wrong_agent")
            environment.setenv(WRONG_VARIABLE, wrong)
            in_bucket.start(host)
    save(in_bucket, 1)
    # A rank wants a tenth of a slice that the lying agent has. Alone, it gets it from the store; with seven others on
    # its host, that read as much, the agent of its host reads the slice and compares it.
    few = COUNT // 10
    for num_ranks in ("1", "8"):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LOCAL_WORLD_SIZE", num_ranks)
            found = restored_part(in_bucket, "a", 1, OF_A_HOST, few)
            assert (found == value_of(1, 2)).all()
    s3_front.forget()
    check(restored(in_bucket, "a", 1), 1)
    assert given(s3_front) > 0
    assert in_bucket.processes["c"].wait(WAIT_S) == -signal.SIGKILL
    assert "was damaged in memory" in (in_bucket.base / "a.log").read_text()
