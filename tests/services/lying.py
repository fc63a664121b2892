"""A store that breaks promises, in front of a real one: conditions, checksums or listings that it takes lightly.

It changes requests and signs them anew, so the real server has nothing to object to. Requests signed in their URL, or
signed chunk by chunk, are not understood. As it is a `Front`, rules may be added as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.services.exchanges import Reply, Request
from tests.services.front import Front
from tests.services.s3 import REGION, S3Service

_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_CHANGING = ("PUT", "POST", "DELETE")


class Lie(Enum):
    """A promise that is not kept."""

    IF_MATCH = "a change is made whatever If-Match says"
    IF_NONE_MATCH = "a change is made whatever If-None-Match says"
    IF_MATCH_ON_MISSING = "If-Match holds for an object that is not there"
    COMPLETE_CONDITIONS = "conditions hold for a plain PUT, and are ignored when an upload is completed"
    CHECKSUMS = "what does not fit its checksum is stored as well"
    LISTINGS = "a listing shows what was there before: `catch_up` brings it up to date"


ALL_CONDITIONS = (Lie.IF_MATCH, Lie.IF_NONE_MATCH)


class LyingStore(Front):
    """See the module. `lies` says which promises it breaks; without any it is honest and signs anew."""

    def __init__(self, service: S3Service, lies: Collection[Lie] = ALL_CONDITIONS) -> None:
        super().__init__(service.endpoint)
        self._service = service
        self._lies = frozenset(lies)
        self._client = service.client()
        self._credentials = Credentials(service.access_key, service.secret_key)
        self._late: set[str] = set()  # keys written since the listings caught up
        self._gone: set[str] = set()  # keys deleted since
        self._listed: dict[str, ElementTree.Element] = {}

    def catch_up(self) -> None:
        """Let listings from now on show what is there at this moment."""
        with self._changed:
            for each in (self._late, self._gone, self._listed):
                each.clear()

    def outgoing(self, request: Request, body: Iterator[bytes]) -> tuple[Request, Iterator[bytes]]:
        """Leave out what would make the server keep a promise."""
        if request.method in _CHANGING:
            request = self._without_conditions(request)
            if request.operation == "DeleteObjects":
                whole = b"".join(body)
                self._note_deleted(whole)
                body = iter((whole,))
            elif Lie.CHECKSUMS in self._lies:
                request, body = _without_checksums(request, body)
        return self._signed(request), body

    def incoming(self, request: Request, reply: Reply) -> Reply:
        """Show listings as they were."""
        if Lie.LISTINGS not in self._lies or reply.status >= 300:
            return reply
        whole = b"".join(reply.body)
        operation = request.operation
        with self._changed:
            if operation in ("PutObject", "CompleteMultipartUpload", "CopyObject"):
                self._late.add(request.key)
            elif operation == "DeleteObject":
                self._gone.add(request.key)
            elif operation == "ListObjects":
                whole = self._as_it_was(request, whole)
        return Reply(reply.status, reply.headers, iter((whole,) if whole else ()), len(whole))

    def _note_deleted(self, body: bytes) -> None:
        with self._changed:
            self._gone.update(
                each.text or "" for each in ElementTree.fromstring(body).iter() if each.tag.endswith("Key")
            )

    def _without_conditions(self, request: Request) -> Request:
        is_complete = request.operation == "CompleteMultipartUpload"
        if Lie.IF_NONE_MATCH in self._lies or (is_complete and Lie.COMPLETE_CONDITIONS in self._lies):
            request = request.without("If-None-Match")
        if Lie.IF_MATCH in self._lies or (is_complete and Lie.COMPLETE_CONDITIONS in self._lies):
            request = request.without("If-Match")
        if Lie.IF_MATCH_ON_MISSING in self._lies and request.header("If-Match") and not self._has(request.key):
            request = request.without("If-Match")
        return request

    def _has(self, key: str) -> bool:
        try:
            self._client.head_object(Bucket=self._service.bucket, Key=key)
        except ClientError:
            return False
        return True

    def _signed(self, request: Request) -> Request:
        unsigned = request.without("Authorization", "X-Amz-Date", "Connection", "Keep-Alive")
        payload = unsigned.header("X-Amz-Content-SHA256") or "UNSIGNED-PAYLOAD"
        url = f"http://{request.header('Host')}{request.target}"
        signed = AWSRequest(method=request.method, url=url, headers=dict(unsigned.headers))
        _Signer(self._credentials, payload).add_auth(signed)
        return replace(unsigned, headers=list(signed.headers.items()))

    def _as_it_was(self, request: Request, body: bytes) -> bytes:
        ElementTree.register_namespace("", _NAMESPACE.strip("{}"))
        root = ElementTree.fromstring(body)
        query, is_encoded = request.query, root.find(_NAMESPACE + "EncodingType") is not None

        def key_of(element: ElementTree.Element) -> str:
            key = element.findtext(_NAMESPACE + "Key") or ""
            return unquote(key) if is_encoded else key

        shown = {}
        for element in root.findall(_NAMESPACE + "Contents"):
            root.remove(element)
            key = key_of(element)
            if key not in self._late or key in self._listed:
                shown[key] = self._listed.setdefault(key, element)
        for key in self._gone & self._listed.keys():
            rest = key.removeprefix(query.get("prefix", ""))
            is_below = key.startswith(query.get("prefix", "")) and key > query.get("start-after", "")
            if is_below and not (query.get("delimiter") and query["delimiter"] in rest):
                shown[key] = self._listed[key]
        root.extend(shown[key] for key in sorted(shown))
        count = root.find(_NAMESPACE + "KeyCount")
        if count is not None:
            count.text = str(len(shown) + len(root.findall(_NAMESPACE + "CommonPrefixes")))
        changed: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return changed


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """Signs what a client signed before, and believes what it said of the body."""

    def __init__(self, credentials: Any, payload: str) -> None:
        super().__init__(credentials, "s3", REGION)
        self._payload = payload

    def payload(self, request: Any) -> str:
        return self._payload


def _without_checksums(request: Request, body: Iterator[bytes]) -> tuple[Request, Iterator[bytes]]:
    request = request.without("X-Amz-Checksum-*", "X-Amz-Sdk-Checksum-Algorithm", "Content-MD5", "X-Amz-Content-SHA256")
    if request.operation == "CompleteMultipartUpload":
        whole = re.sub(rb"<Checksum\w+>[^<]*</Checksum\w+>", b"", b"".join(body))
        headers = [*request.without("Content-Length").headers, ("Content-Length", str(len(whole)))]
        return replace(request, headers=headers), iter((whole,))
    return request, body
