"""Each mishap really happens, to the requests that it is meant for and to no others; and all of them are remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError

from tests.services import faults
from tests.services.conftest import client_of
from tests.services.exchanges import Exchange, Request, round_trips
from tests.services.front import Front
from tests.services.s3 import S3Service

BODY = bytes(range(256)) * 2048  # half a MiB: more than one piece


class Place:
    """One key of a bucket, seen by way of the front and past it."""

    def __init__(self, service: S3Service, front: Front, key: str) -> None:
        self.client = client_of(service, front)
        self.directly = service.client()
        self.front = front
        self.where = {"Bucket": service.bucket, "Key": key}

    def put(self, body: bytes = BODY, **options: Any) -> Any:
        return self.client.put_object(**self.where, Body=body, **options)

    def get(self, **options: Any) -> bytes:
        data: bytes = self.client.get_object(**self.where, **options)["Body"].read()
        return data

    def stored(self) -> bytes | None:
        try:
            data: bytes = self.directly.get_object(**self.where)["Body"].read()
        except self.directly.exceptions.NoSuchKey:
            return None
        return data

    def begin(self) -> dict[str, Any]:
        return {**self.where, "UploadId": self.client.create_multipart_upload(**self.where)["UploadId"]}

    def complete(self, upload: dict[str, Any], etag: str) -> Any:
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        return self.client.complete_multipart_upload(**upload, MultipartUpload=parts)


@pytest.fixture
def place(s3_service: S3Service, front: Front, key: str) -> Place:
    return Place(s3_service, front, key)


def code_of(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    told = caught.value.response
    return told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Code"]


def test_what_no_rule_is_for_passes_unchanged_and_is_remembered(place: Place) -> None:
    upload = place.begin()
    part = place.client.upload_part(**upload, PartNumber=1, Body=BODY)
    place.complete(upload, part["ETag"])
    assert place.client.head_object(**place.where)["ContentLength"] == len(BODY)
    assert place.get(Range="bytes=5-9") == BODY[5:10]
    listed = place.client.list_objects_v2(Bucket=place.where["Bucket"], Prefix=place.where["Key"])
    assert [each["Key"] for each in listed["Contents"]] == [place.where["Key"]]
    place.client.delete_object(**place.where)
    seen = place.front.exchanges()
    assert [(each.operation, each.status, each.server_status) for each in seen] == [
        ("CreateMultipartUpload", 200, 200),
        ("UploadPart", 200, 200),
        ("CompleteMultipartUpload", 200, 200),
        ("HeadObject", 200, 200),
        ("GetObject", 206, 206),
        ("ListObjects", 200, 200),
        ("DeleteObject", 204, 204),
    ]
    assert [each.key for each in seen] == [place.where["Key"]] * 5 + [""] + [place.where["Key"]]
    assert (seen[1].sent_bytes, seen[1].query["partNumber"]) == (len(BODY), "1")
    assert (seen[4].range, seen[4].received_bytes) == ("bytes=5-9", 5)
    assert round_trips(seen) == 7


REFUSALS = [
    (faults.SLOW_DOWN, 503, "SlowDown"),
    (faults.INTERNAL_ERROR, 500, "InternalError"),
    (faults.ACCESS_DENIED, 403, "AccessDenied"),
    (faults.EXPIRED_TOKEN, 400, "ExpiredToken"),
    (faults.CLOCK_SKEWED, 403, "RequestTimeTooSkewed"),
    (faults.WRITE_CONFLICT, 409, "ConditionalRequestConflict"),
    (faults.STORE_FULL, 507, "XMinioStorageFull"),
]


@pytest.mark.parametrize(("action", "status", "code"), REFUSALS, ids=[code for *_, code in REFUSALS])
def test_a_refusal_never_reaches_the_server(place: Place, action: faults.Refuse, status: int, code: str) -> None:
    place.front.add(action, "PutObject GetObject", times=2)
    assert code_of(place.put) == (status, code)
    assert code_of(place.get) == (status, code)
    assert [(each.status, each.server_status) for each in place.front.exchanges()] == [(status, None)] * 2
    assert place.stored() is None
    place.put(b"now")
    assert place.stored() == b"now"


def test_a_refusal_of_a_request_for_a_head_has_no_body(place: Place) -> None:
    place.put()
    place.front.add(faults.SLOW_DOWN, "HeadObject")
    assert code_of(lambda: place.client.head_object(**place.where)) == (503, "503")
    assert place.client.head_object(**place.where)["ContentLength"] == len(BODY)


def test_a_lost_answer_is_of_a_request_that_was_carried_out(place: Place) -> None:
    place.front.add(faults.DropAnswer(), "PutObject")
    with pytest.raises(HTTPClientError):
        place.put()
    assert place.stored() == BODY
    [lost] = place.front.exchanges()
    assert (lost.status, lost.server_status) == (None, 200)


def test_a_dropped_request_and_a_cut_upload_leave_nothing(place: Place) -> None:
    place.front.add(faults.DropRequest(), "PutObject")
    place.front.add(faults.CutUpload(100_000), "PutObject")
    for _ in range(2):
        with pytest.raises(HTTPClientError):
            place.put()
    assert place.stored() is None


@pytest.mark.parametrize("is_done", [False, True])
def test_completing_may_answer_200_and_mean_an_error(place: Place, is_done: bool) -> None:
    upload = place.begin()
    part = place.client.upload_part(**upload, PartNumber=1, Body=BODY)
    place.front.add(faults.ErrorInside200("InternalError", is_done=is_done), "CompleteMultipartUpload")
    assert code_of(lambda: place.complete(upload, part["ETag"]))[1] == "InternalError"
    [told] = place.front.exchanges("CompleteMultipartUpload")
    assert (told.status, told.server_status) == (200, 200 if is_done else None)
    assert place.stored() == (BODY if is_done else None)


def test_a_held_part_arrives_after_its_upload_was_aborted(place: Place) -> None:
    upload = place.begin()
    hold = faults.Hold(after_bytes=1000)
    place.front.add(hold, "UploadPart")
    sending = threading.Thread(target=lambda: _ignore(place.client.upload_part, **upload, PartNumber=1, Body=BODY))
    sending.start()
    hold.wait_until_there()
    place.directly.abort_multipart_upload(**upload)
    hold.release()
    [late] = place.front.wait_for(1, "UploadPart")
    sending.join(60)
    assert late.server_status == 404
    assert place.stored() is None


def test_a_held_answer_is_told_when_released(place: Place) -> None:
    hold = faults.HoldAnswer()
    place.front.add(hold, "PutObject")
    sending = threading.Thread(target=place.put)
    sending.start()
    hold.wait_until_there()
    assert place.stored() == BODY
    assert [each.status for each in place.front.exchanges()] == [None]
    hold.release()
    sending.join(60)
    assert [each.status for each in place.front.exchanges()] == [200]


def test_bodies_stall_in_both_directions(place: Place, s3_service: S3Service) -> None:
    patient, hasty = place.client, client_of(s3_service, place.front, patience_s=3.0)
    place.front.add(faults.StallUpload(100_000), "PutObject")
    place.client = hasty
    with pytest.raises(HTTPClientError):
        place.put()
    assert place.stored() is None
    place.client = patient
    place.put()
    place.client = hasty
    stall = place.front.add(faults.StallDownload(100_000), "GetObject")
    with pytest.raises((HTTPClientError, ResponseStreamingError)):
        place.get()
    assert stall.hits == 1
    [stalled] = place.front.exchanges("GetObject")
    assert (stalled.status, stalled.received_bytes) == (200, 100_000)


def test_a_download_is_cut_loudly_or_silently(place: Place) -> None:
    place.put()
    place.front.add(faults.CutDownload(100_000), "GetObject")
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        place.get()
    place.front.add(faults.CutDownload(1000, silently=True), "GetObject")
    assert place.get(Range=f"bytes=0-{len(BODY) - 1}") == BODY[:1000]


def test_a_bit_is_flipped_on_either_way(place: Place) -> None:
    place.front.add(faults.FlipUpload(300_000), "PutObject")
    assert code_of(place.put)[1] in ("XAmzContentSHA256Mismatch", "BadDigest")
    place.put()
    place.front.add(faults.FlipDownload(300_000), "GetObject")
    got = place.get(Range=f"bytes=0-{len(BODY) - 1}")
    assert [at for at in range(len(BODY)) if got[at] != BODY[at]] == [300_000]
    assert place.stored() == BODY


def test_something_is_run_before_or_after_the_server_did_its_work(place: Place) -> None:
    found: list[bytes | None] = []
    place.front.add(faults.Run(lambda: found.append(place.stored())), "PutObject")
    place.front.add(faults.Run(lambda: found.append(place.stored()), afterwards=True), "PutObject")
    place.put(b"1")
    place.put(b"2")
    assert found == [None, b"2"]


def test_a_delay_is_waited_for(place: Place) -> None:
    place.front.add(faults.Delay(0.2), "PutObject")
    place.put()
    [delayed] = place.front.exchanges()
    assert delayed.ended_s is not None
    assert delayed.ended_s - delayed.began_s >= 0.2


def test_a_rule_is_for_some_requests_some_times_and_by_chance_repeatably() -> None:
    def request(method: str, target: str) -> Request:
        return Request(method, target, [])

    rule = faults.Rule(
        faults.SLOW_DOWN, "UploadPart", r"data-\d", skip=1, times=2, when=lambda each: "uploadId" in each.query
    )
    shard, other = request("PUT", "/b/run/m.data-0?partNumber=1&uploadId=u"), request("PUT", "/b/run/m.data-0")
    assert [rule.applies(each) for each in (other, shard, shard, other, shard, shard)] == [
        False, False, True, False, True, False,
    ]  # fmt: skip
    assert rule.hits == 2
    first, again = (
        [rule.applies(other) for _ in range(200)]
        for rule in [faults.Rule(faults.SLOW_DOWN, times=None, probability=0.2, seed=3) for _ in range(2)]
    )
    assert first == again
    assert 20 <= sum(first) <= 60


def test_round_trips_count_what_happens_at_once_only_once() -> None:
    def between(began_s: float, ended_s: float | None) -> Exchange:
        return Exchange(Request("GET", "/b/k", []), "GetObject", "k", began_s, ended_s)

    assert round_trips([]) == 0
    assert round_trips([between(0, 3), between(1, 2), between(1, 4)]) == 1
    assert round_trips([between(0, 1), between(1, 2), between(0.5, 1.5), between(2, None)]) == 3


def _ignore(call: Callable[..., object], **arguments: Any) -> None:
    with suppress(ClientError, HTTPClientError):
        call(**arguments)
