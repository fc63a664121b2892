"""What networks and servers do to requests, one by one, and what must come of it. A real server is behind the proxy.

The numbers are those of the failure table in ``docs/buckets.md``.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError, CorruptionError, NotFoundError, NotPermittedError, UnavailableError
from ckptd.storage.bucket.multipart import PART_BYTES, abort_upload
from ckptd.storage.bucket.object_store import ObjectStore
from ckptd.storage.bucket.s3 import S3Bucket
from ckptd.storage.bucket.s3_requests import Patience, S3Options, S3Requests
from ckptd.storage.locations import open_store
from ckptd.storage.metered import Cause, Operation, Result
from tests.services.faults import (
    ACCESS_DENIED,
    CLOCK_SKEWED,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    WRITE_CONFLICT,
    Action,
    CutDownload,
    CutUpload,
    DropAnswer,
    DropRequest,
    ErrorInside200,
    FlipDownload,
    FlipUpload,
    Hold,
    Refuse,
    StallDownload,
    StallUpload,
)
from tests.services.front import Front
from tests.services.s3 import S3Service
from tests.starts import prepared
from tests.unit.storage.test_metered import Heard

BIG = 2 * PART_BYTES + 5  # in three parts
HASTY = Patience(connect_s=10.0, progress_s=3.0, deadline_s=40.0)  # of a server on a busy machine, too


pytestmark = pytest.mark.every_server


@pytest.fixture
def place() -> str:
    return f"t{random.getrandbits(64):x}"


def store_of(service: S3Service, place: str, patience: Patience) -> ObjectStore:
    return ObjectStore(S3Bucket(service.bucket, S3Requests(service.bucket, S3Options(), patience=patience)), place)


@pytest.fixture
def store(s3_front: Front, s3_service: S3Service, place: str) -> ObjectStore:
    return store_of(s3_service, place, HASTY)


@pytest.fixture
def url(s3_front: Front, s3_service: S3Service, place: str) -> str:
    return f"s3://{s3_service.bucket}/{place}"


def big_bytes() -> bytes:
    return np.random.default_rng(7).integers(0, 256, BIG, np.uint8).tobytes()


def write(store: ObjectStore, key: str, data: bytes) -> None:
    writer = store.create(key, len(data))
    writer.write(0, data)
    writer.finish()


PUT, PART, COMPLETE, GET = "PutObject", "UploadPart", "CompleteMultipartUpload", "GetObject"
ONCE: list[tuple[str, Callable[[], Action], str, dict[str, Any]]] = [
    ("4: completing answers 200, and an error", ErrorInside200, COMPLETE, {}),
    ("4: the same, although it is done", lambda: ErrorInside200(is_done=True), COMPLETE, {}),
    ("5: a whole object's answer is lost", DropAnswer, PUT, {"key": "small$"}),
    ("5: a whole object is lost", DropRequest, PUT, {"key": "small$"}),
    ("5: the answer to completing is lost", DropAnswer, COMPLETE, {}),
    ("5: the answer to beginning is lost", DropAnswer, "CreateMultipartUpload", {}),
    ("5: a part's answer is lost", DropAnswer, PART, {"skip": 1}),
    ("6: another conditional request is under way", lambda: WRITE_CONFLICT, PUT, {"key": "small$"}),
    ("6: the same, completing", lambda: WRITE_CONFLICT, COMPLETE, {}),
    ("10: the server asks to slow down", lambda: SLOW_DOWN, "", {"times": 3}),
    ("10: the server fails", lambda: INTERNAL_ERROR, PART, {"times": 3}),
    ("11: a part's upload hangs", lambda: StallUpload(1 << 20), PART, {}),
    ("11: a download hangs", lambda: StallDownload(1 << 20), GET, {"key": "big$"}),
    ("12: a bit of a part is turned over on its way", lambda: FlipUpload(1000), PART, {}),
    ("12: a bit of a whole object is turned over", lambda: FlipUpload(2), PUT, {"key": "small$"}),
    ("a part's upload is cut off", lambda: CutUpload(1 << 20), PART, {}),
    ("a download is cut off", lambda: CutDownload(1 << 20), GET, {"key": "big$"}),
]


@pytest.mark.parametrize(("what", "action", "operation", "when"), ONCE, ids=[what for what, *_ in ONCE])
def test_what_happens_once_is_got_over(
    store: ObjectStore,
    s3_front: Front,
    s3_service: S3Service,
    place: str,
    what: str,
    action: Callable[[], Action],
    operation: str,
    when: dict[str, Any],
) -> None:
    rule = s3_front.add(action(), operation, **when)
    write(store, "d/big", big_bytes())
    store.put("d/small", b"small")
    into = bytearray(BIG)
    store.read_into("d/big", 0, memoryview(into))
    assert rule.hits == when.get("times", 1), "the rule has never been asked"
    assert into == big_bytes()
    assert store.get("d/small") == b"small"
    assert [stat.key for stat in store.list("")] == ["d/big", "d/small"]
    assert s3_service.unfinished_uploads(place) == []


ALWAYS: list[tuple[str, Action, type[Exception], str]] = [
    ("10: it asks to slow down", SLOW_DOWN, UnavailableError, "slow down"),
    ("12: bits are turned over", FlipUpload(2), CorruptionError, "damaged on the way"),
    ("16: credentials have expired", EXPIRED_TOKEN, NotPermittedError, "expired"),
    ("17: writing is denied", ACCESS_DENIED, NotPermittedError, "may not"),
    ("17: the quota is used up", Refuse(403, "QuotaExceeded"), ckptd.StorageFullError, "quota"),
    ("19: the clocks differ", CLOCK_SKEWED, NotPermittedError, "clock"),
]


@pytest.mark.parametrize(("what", "action", "error", "says"), ALWAYS, ids=[what for what, *_ in ALWAYS])
def test_what_stays_is_an_error_that_says_who_must_act(
    s3_front: Front,
    s3_service: S3Service,
    place: str,
    what: str,
    action: Action,
    error: type[Exception],
    says: str,
) -> None:
    store = store_of(s3_service, place, replace(HASTY, deadline_s=8.0))
    s3_front.add(action, PART, times=None)
    s3_front.add(action, PUT, "small$", times=None)
    with pytest.raises(error, match=says) as caught:
        store.put("d/small", b"small")
    assert caught.value.key == "d/small"  # type: ignore[attr-defined]
    with pytest.raises(error, match=says):
        write(store, "d/big", big_bytes())
    s3_front.remove_rules()
    assert list(store.list("")) == []
    assert s3_service.unfinished_uploads(place) == []
    write(store, "d/big", big_bytes())


def test_16_fresh_credentials_are_fetched_once(store: ObjectStore, s3_front: Front) -> None:
    s3_front.add(EXPIRED_TOKEN, PUT)
    store.put("k", b"data")
    assert len(s3_front.exchanges(PUT)) == 2


def test_1_and_2_what_a_killed_process_left_is_swept_by_the_next(
    url: str, s3_service: S3Service, s3_front: Front, place: str
) -> None:
    script = (
        "import sys; from ckptd.storage.locations import open_store\n"
        "writer = open_store(sys.argv[1]).create('run/shard', 3 * (16 << 20))\n"
        "writer.write(0, bytes(16 << 20)); sys.stdin.read()"
    )
    with prepared.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE) as writing:
        s3_front.wait_for(1, PART)
        writing.kill()
    assert writing.returncode == -9
    assert s3_service.unfinished_uploads(place) == [f"{place}/run/shard"]
    store = open_store(url)
    assert list(store.list("")) == []
    assert store.sweep_unfinished("run") == ["run/shard"]
    assert s3_service.unfinished_uploads(place) == []
    assert s3_service.client().list_objects_v2(Bucket=s3_service.bucket, Prefix=place)["KeyCount"] == 0


def test_3_a_part_that_arrives_after_the_abort_does_not_bring_the_upload_back(
    store: ObjectStore, s3_front: Front, s3_service: S3Service, place: str
) -> None:
    hold = Hold(after_bytes=1 << 20)
    s3_front.add(hold, PART, skip=1)
    failed: list[Exception] = []

    def fill() -> None:
        try:
            write(store, "d/big", big_bytes())
        except ckptd.CkptdError as error:
            failed.append(error)

    filling = threading.Thread(target=fill)
    filling.start()
    hold.wait_until_there()
    [upload] = store.bucket.uploads(place)
    abort_upload(store.bucket, upload.key, upload.upload_id)
    hold.release()
    filling.join(60)
    assert [type(error) for error in failed] in ([NotFoundError], [ConflictError])
    assert s3_service.unfinished_uploads(place) == []
    assert list(store.list("")) == []


# Through the whole of a save.


def save(url: str, *steps: int, **options: Any) -> list[str]:
    """Save some steps and close; return the names of those that are listed then."""
    with ckptd.Checkpointer(url, run="run", **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.full(1000, step, np.float32)}).result(timeout=120)
    state = ckptd.get_checkpoint_state(f"{url}/run")
    assert state is not None
    return [path.rpartition("/")[2] for path in state.all_model_checkpoint_paths]


def test_5_every_other_answer_may_be_lost(url: str, s3_front: Front) -> None:
    s3_front.add(DropAnswer(), PUT, times=None, probability=0.5, seed=5)
    for step in (1, 3):
        save(url, step, step + 1, max_to_keep=3)
        assert ckptd.verify(f"{url}/run").ok
    s3_front.remove_rules()
    assert save(url, 5, max_to_keep=3) == ["model.ckpt-3", "model.ckpt-4", "model.ckpt-5"]


def test_10_every_fifth_request_may_fail(url: str, s3_front: Front) -> None:
    s3_front.add(SLOW_DOWN, times=None, probability=0.2, seed=3)
    assert save(url, 1, 2, 3, max_to_keep=2) == ["model.ckpt-2", "model.ckpt-3"]
    assert ckptd.load_checkpoint(f"{url}/run")["w"][0] == 3


def test_12_what_is_damaged_on_its_way_to_us_is_noticed(url: str, s3_front: Front) -> None:
    save(url, 1)
    s3_front.add(FlipDownload(40), GET, r"\.data-", times=None)
    report = ckptd.verify(f"{url}/run")
    assert not report.ok
    with pytest.raises(CorruptionError), ckptd.Checkpointer(url, run="run") as checkpointer:
        checkpointer.restore()
    s3_front.remove_rules()
    assert ckptd.verify(f"{url}/run").ok


LOOKS_OF_AN_OWNER = [("HeadObject", "checkpoint"), ("HeadObject", "checkpoint.fence"), (GET, "checkpoint.fence")]
"""At the state file, or at the fence before there is one."""


def test_9_13_and_14_a_commit_is_two_whole_puts_and_lists_copies_and_renames_nothing(url: str, s3_front: Front) -> None:
    with ckptd.Checkpointer(url, run="run") as checkpointer:
        for step in (1, 2):
            s3_front.forget()
            checkpointer.save(step, {"w": np.zeros(BIG, np.uint8)}).result(timeout=120)
            asked = [(each.operation, each.key.rpartition("/")[2]) for each in s3_front.exchanges()]
            # Now and then an owner looks whether it still is one; that may fall into a commit, and is no part of it.
            asked = [each for each in asked if each not in LOOKS_OF_AN_OWNER]
            names = [name for _, name in asked]
            sealed = max(number for number, name in enumerate(names) if ".data-" in name and not name.startswith("."))
            published = names.index("checkpoint", sealed)
            rest = [each for each in asked[sealed + 1 : published + 1] if not each[1].endswith((".json", ".ckptd-tmp"))]
            assert rest == [(PUT, f"model.ckpt-{step}.index"), (PUT, "checkpoint")]
            assert s3_front.exchanges("CopyObject UploadPartCopy") == []


def test_15_what_a_dead_attempt_left_under_a_shards_key_is_not_mixed_in(url: str, s3_front: Front) -> None:
    open_store(url).put("run/model.ckpt-1.data-00000-of-00001", b"from an attempt that nobody knows of")
    save(url, 1)
    assert ckptd.load_checkpoint(f"{url}/run")["w"][0] == 1
    assert open_store(url).get("run/model.ckpt-1.data-00000-of-00001").startswith(b"from an attempt")


def test_16_a_save_with_expired_credentials_fails_and_publishes_nothing(url: str, s3_front: Front) -> None:
    save(url, 1)
    with ckptd.Checkpointer(url, run="run") as checkpointer:
        checkpointer.save(2, {"w": np.zeros(3)}).result(timeout=120)
        s3_front.add(EXPIRED_TOKEN, PUT, r"\.data-", times=None)
        with pytest.raises(NotPermittedError, match="expired"):
            checkpointer.save(3, {"w": np.zeros(3)}).result(timeout=120)
        s3_front.remove_rules()
        checkpointer.save(4, {"w": np.zeros(3)}).result(timeout=120)
        assert [one.step for one in checkpointer.checkpoints()] == [1, 2, 4]


def test_17_retention_that_may_not_delete_never_fails_a_save(url: str, s3_front: Front) -> None:
    s3_front.add(ACCESS_DENIED, "DeleteObject", r"^(?!.*\.ckptd)", times=None)
    assert save(url, 1, 2, 3, max_to_keep=1) == ["model.ckpt-3"]
    present = [stat.key for stat in open_store(f"{url}/run").list("", deep=False) if stat.key.endswith(".index")]
    assert present == ["model.ckpt-1.index", "model.ckpt-2.index", "model.ckpt-3.index"]
    s3_front.remove_rules()
    save(url, 4, max_to_keep=1)
    present = [stat.key for stat in open_store(f"{url}/run").list("", deep=False) if stat.key.endswith(".index")]
    assert present == ["model.ckpt-4.index"]


def test_7_and_22_of_two_coordinators_the_second_wins_and_the_first_is_told(
    s3_service: S3Service, s3_root: str
) -> None:
    from ckptd.engine.catalog.catalog import Catalog
    from ckptd.engine.clock import SystemClock
    from tests.fakes.small_checkpoint import index_bytes, shard_bytes

    store = open_store(s3_root)

    def catalog(holder: str) -> Catalog:
        made = Catalog(store, "run", clock=SystemClock(), holder=holder)
        made.upkeep.recover()
        return made

    def commit(catalog: Catalog, step: int) -> None:
        record = catalog.draft("m", step, save_id=f"s{step}", shard_sizes=[len(shard_bytes(step, 0))])
        catalog.begin(record)
        store.put(record.shard_keys[0], shard_bytes(step, 0))
        catalog.commit(record, index_bytes(step, 1))
        catalog.retire()

    first = catalog("the first")
    commit(first, 1)
    second = catalog("the second")
    with pytest.raises(ConflictError, match="taken over") as caught:
        commit(first, 2)
    assert caught.value.actual == "the second"
    commit(second, 3)
    assert ckptd.latest_checkpoint(f"{s3_root}/run") == f"{s3_root}/run/m-3"
    assert first.upkeep.is_fenced


def test_a_meter_hears_of_each_request_once_and_of_its_repetitions_by_their_cause(
    s3_front: Front, s3_service: S3Service, place: str
) -> None:
    heard = Heard()
    store = open_store(f"s3://{s3_service.bucket}/{place}", meter=heard)
    s3_front.add(SLOW_DOWN, PUT, times=2)
    s3_front.add(FlipUpload(2), PUT, key="flipped$")
    store.put("small", b"small")
    store.put("flipped", b"bytes")
    with pytest.raises(ConflictError):
        store.put("small", b"other")
    assert heard.counts[Operation.PUT, Result.OK] == 2
    assert heard.counts[Operation.PUT, Result.REFUSED] == 1
    assert heard.repeats == {Cause.SERVER: 2, Cause.DAMAGED: 1}
