"""What the probe finds out about a real server, and about one that lies."""

from __future__ import annotations

import json
import sys
import uuid

import pytest

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.storage.bucket.object_store import ObjectStore
from ckptd.storage.bucket.probe import fences, probe
from ckptd.storage.findings import Finding, Outcome
from ckptd.storage.locations import open_store
from tests import seams
from tests.services.faults import ACCESS_DENIED, Refuse
from tests.services.front import Front
from tests.services.lying import ALL_CONDITIONS, Lie, LyingStore
from tests.services.s3 import S3Service
from tests.starts import prepared

pytestmark = pytest.mark.every_server


def bucket_store(url: str) -> ObjectStore:
    store = open_store(url)
    assert isinstance(store, ObjectStore)
    return store


def probed(store: ObjectStore) -> dict[str, Finding]:
    return {finding.name: finding for finding in probe(store.bucket, store.root)}


def test_a_server_that_keeps_every_promise_passes_and_nothing_is_left_behind(s3_root: str) -> None:
    store = bucket_store(s3_root)
    checks = "write, create, replace, replace missing, complete, listing, checksums, versions, lifecycle, clock"
    assert {name: finding.outcome for name, finding in probed(store).items()} == dict.fromkeys(
        checks.split(", "), Outcome.OK
    )
    assert list(fences(store.bucket, store.root)) == []
    assert list(store.bucket.list(store.root, deep=True)) == []
    assert list(store.bucket.uploads(store.root)) == []


NOT_IMPLEMENTED = Refuse(501, "NotImplemented")
UNTOLD = [
    pytest.param(ACCESS_DENIED, "GetBucketVersioning GetBucketLifecycleConfiguration", {"versions", "lifecycle"}),
    pytest.param(NOT_IMPLEMENTED, "GetBucketVersioning GetBucketLifecycleConfiguration", {"versions", "lifecycle"}),
    pytest.param(NOT_IMPLEMENTED, "HeadBucket", {"clock"}),
    pytest.param(NOT_IMPLEMENTED, "CompleteMultipartUpload", {"complete"}),
]


@pytest.mark.parametrize(("answer", "operations", "untold"), UNTOLD, ids=["denied", "not offered", "clock", "complete"])
def test_what_cannot_be_tried_out_is_a_warning_and_daemon_and_doctor_take_the_bucket_alike(
    s3_front: Front, s3_service: S3Service, answer: Refuse, operations: str, untold: set[str]
) -> None:
    s3_front.add(answer, operations, times=None)
    root = f"s3://{s3_service.bucket}/{uuid.uuid4().hex}"
    doubts = {name for name, finding in probed(bucket_store(root)).items() if finding.outcome is not Outcome.OK}
    assert doubts == untold
    doctor = prepared.run(
        [sys.executable, "-m", "ckptd", "doctor", root, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert doctor.returncode == 0, doctor.stderr
    assert json.loads(doctor.stdout)["ok"]
    coordinator = Coordinator(bucket_store(root))
    coordinator.open()
    coordinator.close()


LIES = [
    (Lie.IF_NONE_MATCH, {"create": Outcome.REFUSED, "complete": Outcome.WARNING}),
    (Lie.IF_MATCH, {"replace": Outcome.REFUSED, "replace missing": Outcome.REFUSED}),
    (Lie.IF_MATCH_ON_MISSING, {"replace missing": Outcome.REFUSED}),
    (Lie.COMPLETE_CONDITIONS, {"complete": Outcome.WARNING}),
    (Lie.CHECKSUMS, {"checksums": Outcome.WARNING}),
    (Lie.LISTINGS, {"listing": Outcome.WARNING}),
]


@pytest.mark.parametrize(("lie", "found"), LIES, ids=[lie.name for lie, _ in LIES])
def test_what_a_server_ignores_is_found_out(
    s3_service: S3Service,
    s3_root: str,
    monkeypatch: pytest.MonkeyPatch,
    lie: Lie,
    found: dict[str, Outcome],
) -> None:
    seams.PROBED_BUCKETS.put(monkeypatch, {})  # a store before this one may have had the same port
    with LyingStore(s3_service, [lie]) as liar:
        monkeypatch.setenv("AWS_ENDPOINT_URL", liar.endpoint)
        store = bucket_store(s3_root)
        outcomes = {name: finding.outcome for name, finding in probed(store).items()}
        assert {name: outcome for name, outcome in outcomes.items() if outcome is not Outcome.OK} == found
        is_fenced = Outcome.REFUSED not in found.values()
        assert (list(store.broken_promises()) == []) is is_fenced


def test_a_coordinator_refuses_a_server_that_ignores_conditions_unless_told_otherwise(
    s3_service: S3Service, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LyingStore(s3_service, ALL_CONDITIONS) as liar:
        monkeypatch.setenv("AWS_ENDPOINT_URL", liar.endpoint)
        with pytest.raises(InvalidRequestError, match="cannot keep a second owner out") as caught:
            Coordinator(open_store(s3_root)).open()
        assert any("If-Match" in note for note in caught.value.__notes__)
        coordinator = Coordinator(open_store(s3_root), settings=Settings(allow_unfenced=True))
        coordinator.open()
        assert coordinator.root.warnings
        assert all(warning.startswith("unfenced: ") for warning in coordinator.root.warnings)
        coordinator.close()


def test_who_may_not_write_hears_that_and_nothing_else(s3_front: Front, s3_service: S3Service) -> None:
    s3_front.add(ACCESS_DENIED, "PutObject", times=None)
    store = bucket_store(f"s3://{s3_service.bucket}/denied")
    [finding] = probed(store).values()
    assert (finding.name, finding.outcome) == ("write", Outcome.REFUSED)
    assert isinstance(finding.error, NotPermittedError)
