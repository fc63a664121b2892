"""Agents on three hosts and a coordinator over a real bucket, as processes that are killed while they save.

Afterwards the latest verifies and TensorFlow reads it, the index is the very one that one process writes for the same
layout, and nothing is in the bucket that no checkpoint needs, neither objects nor uploads.
`pytest -s -m campaign tests/e2e/test_agents_bucket.py` kills again and again, on both servers.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import ClientError

import ckptd
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.format.slices import Box
from ckptd.storage.bucket.multipart import PART_BYTES
from ckptd.storage.memory import MemoryStore
from tests.e2e.bucket_look import BucketLook
from tests.e2e.killing import left_over
from tests.e2e.saving_worker import value_of
from tests.e2e.test_agents import HOSTS, Hosts
from tests.fakes.ranks import Ranks
from tests.fakes.waiting import eventually
from tests.services.ceph import OWNER, Ceph
from tests.services.faults import Hold
from tests.services.front import Front
from tests.services.s3 import S3Service
from tests.starts import prepared

RUN, RANKS = "r", 6
WAIT_S = 120.0
SMALL = 2000
LARGE = PART_BYTES // 8 + 300_000  # numbers a rank, two of which share a shard: it takes two parts


class BucketHosts(Hosts):
    """The processes over a bucket, and what is seen of it by others."""

    def __init__(self, base: Path, url: str, service: S3Service, agents_keys: tuple[str, str] | None) -> None:
        self.url, self.agents_keys = url, agents_keys
        self.paused: list[subprocess.Popen[bytes]] = []
        super().__init__(base, url)  # type: ignore[arg-type]
        self.look = BucketLook(service, f"{url.removeprefix(f's3://{service.bucket}/')}/{RUN}")

    def start(self, name: str) -> None:
        with pytest.MonkeyPatch.context() as environment:
            if name != "coordinator" and self.agents_keys is not None:
                access, secret = self.agents_keys
                environment.setenv("AWS_ACCESS_KEY_ID", access)
                environment.setenv("AWS_SECRET_ACCESS_KEY", secret)
            super().start(name)

    def replace_coordinator(self) -> subprocess.Popen[bytes]:
        """Pause the coordinator, and start another in its place, as on another host; return the paused one.

        On the same host the lock in the bucket tells that the former one is alive, and there is no second.
        """
        paused = self.processes["coordinator"]
        paused.send_signal(signal.SIGSTOP)
        self.paused.append(paused)
        for left in self.base.glob("coordinator.sock*"):
            left.unlink()
        elsewhere = self.base / f"python-{len(self.paused)}"
        name = f"{elsewhere.name}-{secrets.token_hex(4)}"
        elsewhere.write_text(
            f'#!/bin/sh\nexec unshare --uts sh -c \'hostname {name}; exec {sys.executable} "$@"\' sh "$@"\n'
        )
        elsewhere.chmod(0o755)
        with pytest.MonkeyPatch.context() as program:
            program.setattr(sys, "executable", str(elsewhere))
            program.setattr(prepared, "Popen", subprocess.Popen)  # which is not forked from this host's
            self.start("coordinator")
        return paused

    def end(self) -> None:
        for each in self.paused:
            each.kill()
            each.wait(WAIT_S)
        super().end()

    def save(self, step: int, count: int = SMALL) -> None:
        self.crew.save(step, count)
        assert self.crew.answers(WAIT_S) == ["saved"] * RANKS

    def awaits_only(self, *ranks: int) -> bool:
        text = self.waiting_for()
        return bool(text) and not any(f"rank {rank}" in text for rank in set(range(RANKS)) - set(ranks))

    def written(self, step: int) -> dict[str, object]:
        """Return when each shard of a step was made, and with which bytes."""
        return {name: at for name, at in self.look.stamps().items() if name.startswith(f"model.ckpt-{step}.data-")}

    def rubbish(self) -> list[str]:
        kept = {prefix: self.look.index(prefix).num_shards for prefix in self.look.listed()}
        return left_over(self.look.found(), kept) + [f"the upload of {each.name}" for each in self.look.uploads()]

    def check(self, step: int) -> None:
        tensors = self.look.tensors(f"model.ckpt-{step}")
        assert tensors["step"][0] == step
        for rank, part in enumerate(np.split(tensors["w"], RANKS)):
            assert (part == value_of(step, rank)).all()
        report = ckptd.verify(f"{self.url}/{RUN}/model.ckpt-{step}")
        assert report.ok, report.problems


@contextmanager
def running(url: str, service: S3Service, agents_keys: tuple[str, str] | None = None) -> Iterator[BucketHosts]:
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        hosts = BucketHosts(Path(base), url, service, agents_keys)
        try:
            yield hosts
        except BaseException:
            for log in Path(base).glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-4000:]}")
            raise
        finally:
            hosts.end()


@contextmanager
def team_that_writes_data_only(service: S3Service, root: str, uid: str, run: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a new user, who reads all of a root and writes the data files of one run, and nothing else.

    Users of Ceph own what they write, also in another's bucket: so its owner needs the right to read as well.
    """
    server = service.server
    assert isinstance(server, Ceph)
    keys = uid, secrets.token_hex(16)
    server.add_user(uid, *keys)
    bucket, user = f"arn:aws:s3:::{service.bucket}", "arn:aws:iam:::user"
    allowed = {"Effect": "Allow", "Principal": {"AWS": [f"{user}/{uid}"]}}
    all_of_them = {"Effect": "Allow", "Principal": {"AWS": [f"{user}/{uid}", f"{user}/{OWNER}"]}}
    listing = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    writing = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    statements = [
        {**allowed, "Action": listing, "Resource": [bucket]},
        {**all_of_them, "Action": ["s3:GetObject"], "Resource": [f"{bucket}/{root}/*"]},
        {**allowed, "Action": writing, "Resource": [f"{bucket}/{root}/{run}/*.data-*-of-*"]},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    service.client().put_bucket_policy(Bucket=service.bucket, Policy=policy)
    try:
        yield keys
    finally:
        service.client().delete_bucket_policy(Bucket=service.bucket)


def refused(service: S3Service, keys: tuple[str, str], key: str) -> bool:
    """Whether the owner of these keys may not write an object."""
    access, secret = keys
    client = replace(service, access_key=access, secret_key=secret).client()
    try:
        client.put_object(Bucket=service.bucket, Key=key, Body=b"forged")
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "AccessDenied")
    return False


def index_of_one_process(step: int, count: int) -> bytes:
    """Return the index that one process writes of the same layout, from bytes and not from receipts."""
    ranks = Ranks(RANKS)
    parts = [np.full(count, value_of(step, rank), np.float32) for rank in range(RANKS)]
    ranks.hold("w", np.concatenate(parts), {rank: Box((rank * count,), (count,)) for rank in range(RANKS)})
    ranks.hold("step", np.array(step, np.int64), dict.fromkeys(range(RANKS)))
    layout = plan(ranks.manifests, 1, hosts=[HOSTS[rank // 2] for rank in range(RANKS)])
    crcs = np.zeros(len(layout.segment_size), np.uint32)
    for shard, size in enumerate(layout.shard_sizes):
        writer = MemoryStore().create(f"shard-{shard}", size)
        filled = FilledShard(layout, shard, writer, now=float, on_end=lambda *_: None, on_failure=lambda _: None)
        filled.begin()
        ranks.fill(layout, filled.lanes.values())
        crcs[filled.rows] = filled.crcs
    return merge(layout, crcs)


def read_by_tensorflow(look: BucketLook, step: int, directory: Path) -> np.ndarray:
    """Copy a checkpoint out of the bucket, as any program copies objects, and let TensorFlow read the latest."""
    import tensorflow

    for name in (each for each in look.found() if "/" not in each):
        (directory / name).write_bytes(look.get(name))
    latest = tensorflow.train.latest_checkpoint(str(directory))
    assert latest == str(directory / f"model.ckpt-{step}")
    found: np.ndarray = tensorflow.train.load_checkpoint(latest).get_tensor("w")
    return found


def test_killed_between_receipts_and_index_and_in_mid_upload_nothing_is_lost_or_left_over(
    s3_root: str, s3_service: S3Service, s3_front: Front, tmp_path: Path
) -> None:
    with running(s3_root, s3_service) as hosts:
        hosts.save(1)
        assert hosts.look.get("model.ckpt-1.index") == index_of_one_process(1, SMALL)

        # The coordinator dies when a and b have given receipts, and c has not.
        s3_front.add(Hold(), "PutObject", "model.ckpt-2.data-00002")
        hosts.crew.save(2, SMALL)
        before = eventually(
            lambda: found if len(found := hosts.written(2)) == 2 else None, "the shards of a and b", within_s=WAIT_S
        )
        eventually(lambda: hosts.awaits_only(4, 5), hosts.waiting_for, within_s=WAIT_S)
        hosts.kill("coordinator")
        s3_front.remove_rules()
        hosts.start("coordinator")
        assert hosts.crew.answers(WAIT_S) == ["saved"] * RANKS
        assert before.items() <= hosts.written(2).items(), "what is sealed is not written again"
        assert hosts.look.get("model.ckpt-2.index") == index_of_one_process(2, SMALL)

        # The agent on c dies in mid-upload: one part is there.
        s3_front.forget()
        s3_front.add(Hold(), "UploadPart", "model.ckpt-3.data-00002", skip=1)
        hosts.crew.save(3, LARGE)
        s3_front.wait_for(1, "UploadPart", "model.ckpt-3.data-00002", timeout_s=WAIT_S)
        assert [each.num_parts for each in hosts.look.uploads() if "data-00002" in each.name] == [1]
        hosts.kill("c")
        s3_front.remove_rules()
        hosts.start("c")
        assert hosts.crew.answers(WAIT_S) == ["saved"] * RANKS
        for step in (1, 2, 3):
            hosts.check(step)
        eventually(lambda: not hosts.rubbish(), hosts.rubbish, within_s=WAIT_S)
        w = read_by_tensorflow(hosts.look, 3, tmp_path)
        for rank in range(RANKS):
            assert (w[rank * LARGE : (rank + 1) * LARGE] == value_of(3, rank)).all()


def test_agents_whose_keys_write_the_data_of_their_team_only_save_all_the_same(
    s3_root: str, s3_service: S3Service
) -> None:
    """Ceph enforces it; SeaweedFS has no policies by key pattern for its static identities."""
    root = s3_root.removeprefix(f"s3://{s3_service.bucket}/")
    team = team_that_writes_data_only(s3_service, root, f"team-{secrets.token_hex(4)}", RUN)
    with team as keys, running(s3_root, s3_service, keys) as hosts:
        hosts.save(1, LARGE)
        hosts.kill("b")
        hosts.start("b")
        hosts.save(2)
        for step in (1, 2):
            hosts.check(step)
        eventually(lambda: not hosts.rubbish(), hosts.rubbish, within_s=WAIT_S)
        record = next(name for name in hosts.look.found() if name.endswith(".json"))
        forged = ("checkpoint", "model.ckpt-2.index", record, ".ckptd/epoch")
        for name in (*(f"{RUN}/{each}" for each in forged), ".ckptd/coordinator", "another/m-1.data-00000-of-00001"):
            assert refused(s3_service, keys, f"{root}/{name}"), name
        assert not refused(s3_service, keys, f"{root}/{RUN}/model.ckpt-2.data-00000-of-00009")


@pytest.mark.campaign
def test_a_coordinator_that_was_paused_past_the_start_of_the_next_has_no_effect_and_ends(
    s3_root: str, s3_service: S3Service, s3_front: Front
) -> None:
    with running(s3_root, s3_service) as hosts:
        hosts.save(1)
        s3_front.add(Hold(), "PutObject", "model.ckpt-2.data-00002")
        hosts.crew.save(2, SMALL)
        eventually(lambda: len(hosts.written(2)) == 2, "the shards of a and b", within_s=WAIT_S)
        zombie = hosts.replace_coordinator()
        s3_front.remove_rules()
        assert hosts.crew.answers(WAIT_S) == ["saved"] * RANKS
        hosts.save(3)
        before = {name: at for name, at in hosts.look.stamps().items() if "model.ckpt" in name or name == "checkpoint"}
        zombie.send_signal(signal.SIGCONT)
        assert zombie.wait(WAIT_S) == 4
        after = hosts.look.stamps()
        assert before.items() <= after.items()
        for step in (1, 2, 3):
            hosts.check(step)
        hosts.save(4)
        eventually(lambda: not hosts.rubbish(), hosts.rubbish, within_s=WAIT_S)
