"""Daemon, workers and the S3 server itself, killed with SIGKILL at any moment of saves to a bucket.

After each round, when all is up again: the latest verifies, nothing that was acknowledged is lost but by retention, and
nothing is left over, neither objects nor uploads. `pytest -s -m campaign tests/e2e/test_kill9_s3.py` does a hundred.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.storage.bucket.multipart import PART_BYTES
from ckptd.storage.locations import open_store
from tests import seams
from tests.e2e.bucket_look import BucketLook, LeftUpload
from tests.e2e.crew import Crew
from tests.e2e.killing import Daemon, fresh_seed, left_over, pause
from tests.e2e.saving_worker import value_of
from tests.services.s3 import S3Service
from tests.services.seaweed import SeaweedFS

CAMPAIGN_ROUNDS = 100
RUN, RANKS, MAX_TO_KEEP = "runs/r", 2, 3
COUNTS = {"small": 50_000, "large": PART_BYTES // 4 + 1_000_000}  # numbers per rank; the large ones take two parts
WAIT_S = 120.0  # the server's outage, the daemon's patience with it, and its own start
ANSWERS = {"saved", "dead", "SessionAbortedError", "UnavailableError", "ConflictError"}

# Who is killed in a round, and whether the daemon is started again before the server: then it is killed too, if it
# was not at first. An equal number of both.
KINDS = [
    ("daemon", False),
    ("worker", False),
    ("gateway", False),
    ("gateway", True),
    ("daemon gateway", True),
    ("gateway worker", True),
]
CAMPAIGN_KINDS = [
    *KINDS,
    *KINDS,
    ("daemon worker", False),
    ("daemon gateway", False),
    ("ceph", False),
    ("daemon gateway worker", True),
    ("ceph", True),
    ("daemon ceph", True),
]
SERVERS = {"gateway": ("rgw",), "ceph": ("rgw", "osd", "mon")}

pytestmark = pytest.mark.every_server


class Job:
    """A daemon, its crew and the server, what was acknowledged, and what has been seen of the bucket."""

    def __init__(self, service: S3Service, url: str, directory: Path, chance: random.Random) -> None:
        self.service, self.url, self.directory, self.chance = service, url, directory, chance
        self.look = BucketLook(service, f"{url.removeprefix(f's3://{service.bucket}/')}/{RUN}")
        self.step, self.acknowledged = 0, [0]
        self.usual_s: dict[str, float] = {}
        self.kills: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.unnoted: dict[str, LeftUpload] = {}
        self.half_done: set[str] = set()
        self.daemon = self.start_daemon()
        self.crew: Crew | None = None

    def start_daemon(self) -> Daemon:
        # A rank that died together with the daemon is unknown to the next one, which waits for its declaration.
        return Daemon(self.directory, self.url, "--declare-timeout-s", "4")

    def start_crew(self) -> Crew:
        return Crew(self.daemon.address, RUN, RANKS, MAX_TO_KEEP, self.directory / "workers.log")

    def begin(self) -> None:
        """Acknowledge saves of each size undisturbed, so that there is something to lose, and their time is known."""
        self.daemon.wait_until_ready()
        self.crew = self.start_crew()
        for size in (*COUNTS, *COUNTS):  # the first of a process takes longer
            began_at = time.monotonic()
            self.order(size)
            self.hear()
            assert self.acknowledged[-1] == self.step
            self.usual_s[size] = time.monotonic() - began_at

    def order(self, size: str) -> None:
        assert self.crew is not None
        self.step += 1
        self.crew.save(self.step, COUNTS[size])

    def hear(self) -> None:
        """Wait until all ranks know what became of the save. One that was told is enough: it counts as saved."""
        assert self.crew is not None
        answers = self.crew.answers(WAIT_S)
        kinds = [answer.partition(" ")[0] or "dead" for answer in answers]
        assert set(kinds) <= ANSWERS, answers
        self.answers.update(kinds)
        if "saved" in kinds:
            self.acknowledged.append(self.step)

    def round(self, kind: str, is_early: bool, size: str) -> None:
        assert self.crew is not None
        server = self.service.server
        assert server is not None
        victims = kind.split()
        self.chance.shuffle(victims)
        self.order(size)
        pause(self.chance.uniform(0, 1.25 * self.usual_s[size]))
        servers = [SERVERS[victim] for victim in victims if victim in SERVERS]
        for victim in victims:
            if victim == "daemon":
                self.daemon.kill()
            elif victim == "worker":
                self.crew.kill(self.chance.randrange(RANKS))
            else:
                server.kill9(*SERVERS[victim])
            self.kills[victim] += 1
        if is_early and "daemon" not in victims:
            pause(self.chance.uniform(0, 0.5))  # it has seen the server gone, and tries again
            self.daemon.kill()
            self.kills["daemon"] += 1
        has_died = is_early or "daemon" in victims
        if is_early:
            self.daemon = self.start_daemon()
            pause(self.chance.uniform(0, 1.0))
        if servers:
            server.start()
        if has_died and not is_early:
            self.daemon = self.start_daemon()
        self.daemon.wait_until_ready(WAIT_S)
        self.hear()
        if "worker" in victims:
            self.crew.end()
            self.crew = self.start_crew()
        self.check(has_died)

    def check(self, has_died: bool) -> None:
        prefixes = self.wait_until_tidy(has_died)
        steps = [int(prefix.rpartition("-")[2]) for prefix in prefixes]
        assert steps == sorted(steps)
        assert self.acknowledged[-1] <= steps[-1]
        # Retention lets the oldest go, and only while there are enough.
        due = [step for step in self.acknowledged[1:] if len(steps) < MAX_TO_KEEP or step >= steps[0]]
        assert set(due) <= set(steps)
        directory = f"{self.url}/{RUN}"
        assert ckptd.latest_checkpoint(directory) == f"{directory}/{prefixes[-1]}"
        report = ckptd.verify(f"{directory}/{prefixes[-1]}")
        assert report.ok, report.problems
        for prefix in prefixes:
            self.check_values(prefix)

    def check_values(self, prefix: str) -> None:
        tensors = self.look.tensors(prefix)
        step = int(tensors["step"][0])
        assert prefix == f"model.ckpt-{step}"
        for rank, part in enumerate(np.split(tensors["w"], RANKS)):
            assert (part == value_of(step, rank)).all()

    def wait_until_tidy(self, has_died: bool) -> list[str]:
        """Wait until nothing is left over, and return the prefixes that the state file lists."""
        deadline = time.monotonic() + WAIT_S / 4
        while True:
            prefixes, found = self.look.listed(), self.look.found()
            rubbish = left_over(found, {prefix: self.look.index(prefix).num_shards for prefix in prefixes})
            uploads = [each for each in self.look.uploads() if each.upload_id not in self.unnoted]
            for half in [each for each in uploads if self.is_half_done(each, found)]:
                # Its parts may be the object's: it stays as long as that, and so does its note.
                self.half_done.add(half.upload_id)
                uploads.remove(half)
                rubbish = [name for name in rubbish if not name.startswith(f".{half.name}.")]
            if not rubbish and has_died:
                # Begun on behalf of a daemon that died before it could note that: it has no part yet, costs nothing,
                # and is swept when it is old.
                nameless = [each for each in uploads if not each.num_parts]
                self.unnoted |= {each.upload_id: each for each in nameless}
                uploads = [each for each in uploads if each not in nameless]
            if not rubbish and not uploads:
                return prefixes
            assert time.monotonic() < deadline, (rubbish, uploads, self.daemon.log_end())
            pause(0.1)

    def is_half_done(self, upload: LeftUpload, found: Collection[str]) -> bool:
        """Say whether it was cut off, by the gateway's death, between making the object and ending the upload.

        The daemon that finds such a one when it starts may delete the object after that: its save was not committed.
        """
        was = f"{self.look.prefix}{upload.name} stays as long as its object" in self.daemon.log.read_text()
        return upload.num_parts > 0 and (upload.name in found or was)

    def end(self) -> int:
        if self.crew is not None:
            self.crew.end()
        return self.daemon.stop()

    def report(self) -> str:
        return (
            f"kills {dict(self.kills)}, answers {dict(self.answers)}, acknowledged {len(self.acknowledged) - 1} "
            f"of {self.step} saves, uploads half completed {len(self.half_done)}, nobody noted {len(self.unnoted)}, "
            f"the oldest {max((each.age_s for each in self.unnoted.values()), default=0):.0f} s old"
        )


@contextmanager
def running(service: S3Service, url: str, directory: Path, seed: int) -> Iterator[Job]:
    if service.server is None:
        pytest.skip("this server is not ours to kill")
    made = Job(service, url, directory, random.Random(seed))
    try:
        made.begin()
        yield made
    except BaseException:
        print(made.report(), made.daemon.log_end(), sep="\n")
        raise
    finally:
        service.server.start()
        code = made.end()
    assert code == 0, made.daemon.log_end()
    print(made.report())


def kill_again_and_again(
    service: S3Service,
    url: str,
    directory: Path,
    kinds: list[tuple[str, bool]],
    rounds: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(service, url, directory, seed) as job:
        deck = [kinds[number % len(kinds)] for number in range(rounds)]
        job.chance.shuffle(deck)
        for number, (kind, is_early) in enumerate(deck):
            job.round(kind, is_early, "large" if number % 3 == 0 else "small")
        job.order("small")
        job.hear()
        assert job.acknowledged[-1] == job.step
        job.check(has_died=False)
    # Who comes an hour later sweeps those that nobody noted, too.
    assert {each.upload_id for each in job.look.uploads()} <= {*job.unnoted, *job.half_done}
    seams.SWEPT_BY_AGE_S.put(monkeypatch, -60.0)
    open_store(url).sweep_unfinished(RUN)
    assert [each for each in job.look.uploads() if each.name not in job.look.found()] == []


def test_whoever_is_killed_at_any_moment_nothing_acknowledged_is_lost(s3_service, s3_root, tmp_path, monkeypatch):
    # SeaweedFS is one process, so that most kinds are the same there, and takes long to come up again.
    kinds = KINDS[::3] if isinstance(s3_service.server, SeaweedFS) else KINDS
    kill_again_and_again(s3_service, s3_root, tmp_path, kinds, len(kinds), 1, monkeypatch)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_a_hundred_kills(s3_service, s3_root, tmp_path, monkeypatch):
    kill_again_and_again(s3_service, s3_root, tmp_path, CAMPAIGN_KINDS, CAMPAIGN_ROUNDS, fresh_seed(), monkeypatch)
