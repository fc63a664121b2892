"""Signed requests to an S3 server: bytes go from memory to the socket and from the socket to memory without a copy.

`botocore` finds region, endpoint and credentials as everywhere in that ecosystem (environment, profiles, roles, with
their renewal) and signs, unless a public bucket is read without credentials; `urllib3` keeps the connections. What is
repeated and how often is decided here: a lost answer is requested again, so a request may be carried out
twice, which the caller has to tolerate. A link that is slow is no reason to give up: what counts is the time in which
no byte moves (`ckptd.storage.bucket.s3_connections`).
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader, create_loader
from botocore.session import Session, get_session

from ckptd.errors import (
    CkptdError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
)
from ckptd.storage.bucket import s3_errors
from ckptd.storage.bucket.at_once import AtOnce
from ckptd.storage.bucket.retrying import Retries
from ckptd.storage.bucket.s3_connections import Body, Movement, pools
from ckptd.storage.metered import Cause, OnRepeat, untold

_PIECE_BYTES = 1 << 20  # received at once
_LARGE_BYTES = 1 << 20  # bodies from this size on take turns where a link is slow
_MOST_LARGE = 32
_MOST_DAMAGED = 3  # times that bytes may arrive damaged
_MAX_ANSWER_BYTES = 64 << 20
_REPEATED = (urllib3.exceptions.HTTPError, OSError)
_TIMEOUTS = (urllib3.exceptions.TimeoutError, TimeoutError)


@dataclass(frozen=True, slots=True)
class S3Options:
    """What the environment leaves open, from fsspec's configuration of ``s3``; None leaves it to botocore."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    key: str | None = None
    secret: str | None = None
    token: str | None = None
    anon: bool = False  # anonymous: requests are not signed


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, in seconds.

    Attributes:
        connect_s: for a connection.
        progress_s: how long a connection may move no byte at all; then the request is repeated, and next time that
            takes twice as long.
        deadline_s: how long a request is repeated. The time in which bytes moved does not count.
    """

    connect_s: float = 5.0
    progress_s: float = 10.0
    deadline_s: float = 60.0

    def longer_than(self, last: Patience, left_s: float) -> Patience:
        """Return twice the `last`, but no more than what is left, or this."""
        return Patience(
            max(self.connect_s, min(2 * last.connect_s, left_s)),
            max(self.progress_s, min(2 * last.progress_s, left_s)),
            self.deadline_s,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer: a status below 300, headers, and the body unless it went into the caller's memory.

    Where `num_attempts` is above 1, the server may have carried the request out more often than once.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    num_attempts: int = 1


class _Unsigned(S3SigV4Auth):  # type: ignore[misc]
    """Signs everything but the body, which has a checksum of its own: hashing it again would take most of the time."""

    def _should_sha256_sign_payload(self, request: Any) -> bool:
        return False


class S3Requests:
    """Makes requests to one bucket. Any thread may use it."""

    def __init__(
        self,
        bucket: str,
        options: S3Options,
        *,
        patience: Patience | None = None,
        num_connections: int = 32,
        on_repeat: OnRepeat = untold,
    ) -> None:
        """Find out where the bucket is and which credentials to use; nothing is sent yet.

        Raises:
            InvalidRequestError: when the configuration makes no sense.
        """
        self._options, self._on_repeat = options, on_repeat
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        try:
            session = _session_of(options)
            client = session.create_client(
                "s3",
                region_name=options.region or session.get_config_variable("region") or "us-east-1",
                endpoint_url=options.endpoint_url,
                config=Config(signature_version="s3v4"),
            )
        except (BotoCoreError, ValueError) as error:
            raise InvalidRequestError(f"the configuration of S3 is invalid: {error}") from error
        self._session = session
        self._credentials = None if options.key is None else _given(session, options)
        self.region = str(client.meta.region_name)
        endpoint = str(client.meta.endpoint_url).rstrip("/")
        is_amazon = endpoint.endswith(".amazonaws.com")
        if is_amazon and "." not in bucket:
            scheme, _, host = endpoint.partition("://")
            self.base_url = f"{scheme}://{bucket}.{host}"
        else:
            self.base_url = f"{endpoint}/{quote(bucket, safe='')}"
        self._at_once = AtOnce(_MOST_LARGE)
        common: dict[str, Any] = {
            "maxsize": num_connections,
            "retries": False,
            "ca_certs": session.get_config_variable("ca_bundle") or None,
        }
        self._pool = pools(_proxy_for(self.base_url), **common)
        client.close()

    def send(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Sequence[memoryview] = (),
        into: Sequence[memoryview] | None = None,
    ) -> Answer:
        """Make a request and repeat it while that may help.

        Args:
            method: of HTTP.
            key: of the object, empty for the bucket.
            query: parameters.
            headers: besides those that sign.
            body: what is sent, one buffer after another.
            into: receives the answer's body, which has to fill all of it.

        Raises:
            CkptdError: what the server said, or `UnavailableError` when it gives no useful answer.
        """
        retries, is_renewed, num_damaged, patience = Retries(self._patience.deadline_s), False, 0, self._patience
        for num_attempts in itertools.count(1):
            try:
                with self._turn(body, retries):
                    answer = self._once(method, key, query or {}, headers or {}, body, into, patience, retries)
                return replace(answer, num_attempts=num_attempts)
            except _ExpiredError as expired:
                if is_renewed:
                    raise expired.error from None
                is_renewed = True
                self._renew()
                self._on_repeat(Cause.CREDENTIALS)
            except CorruptionError:
                num_damaged += 1
                if not body or num_damaged == _MOST_DAMAGED:
                    raise
                self._on_repeat(Cause.DAMAGED)
            except UnavailableError as error:
                retries.pause(error)
                self._on_repeat(_cause_of(error))
                if isinstance(error.__cause__, _TIMEOUTS):
                    patience = self._patience.longer_than(patience, retries.left_s)
        raise AssertionError("the loop above has no end")

    @contextmanager
    def _turn(self, body: Sequence[memoryview], retries: Retries) -> Iterator[None]:
        """Wait for a turn if the body is large, and note how that ends."""
        if sum(memory.nbytes for memory in body) < _LARGE_BYTES:
            yield
            return
        began_at = time.monotonic()
        with self._at_once.one():
            retries.excuse(time.monotonic() - began_at)
            try:
                yield
            except UnavailableError as error:
                self._at_once.stopped(str(error))
                raise
            self._at_once.arrived()

    def _once(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Sequence[memoryview],
        into: Sequence[memoryview] | None,
        patience: Patience,
        retries: Retries,
    ) -> Answer:
        url = f"{self.base_url}/{quote(key.encode('utf-8', 'surrogateescape'), safe='/~')}"
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        sent = dict(headers)
        if method in ("PUT", "POST"):
            sent = {"Content-Length": str(sum(memory.nbytes for memory in body)), **sent}
        request = AWSRequest(method=method, url=url, headers=sent)
        if not self._options.anon:
            _Unsigned(self._frozen(), "s3", self.region).add_auth(request)
        movement = Movement()
        try:
            answer = self._pool.urlopen(
                method,
                url,
                headers=dict(request.headers.items()),
                body=Body(body, movement, patience.progress_s) if body else None,
                timeout=urllib3.Timeout(connect=patience.connect_s, read=patience.progress_s),
                preload_content=False,
                redirect=False,
                decode_content=False,
            )
            try:
                if answer.status < 300 and into is not None:
                    _check_length(answer, sum(memory.nbytes for memory in into), key)
                    for memory in into:
                        _fill(answer, memory.cast("B"), movement)
                    data = b""
                else:
                    data = answer.read(_MAX_ANSWER_BYTES + 1, decode_content=False)
                    if len(data) > _MAX_ANSWER_BYTES:
                        raise UnavailableError("the server's answer is too large", key=key or None)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except _REPEATED as error:
            retries.excuse(movement.lasted_s)
            raise UnavailableError(f"{self.base_url}: {_reason_of(error)}", key=key or None) from error
        # A slow answer may begin with a status of 200, to keep the connection alive, and end in an error.
        code = s3_errors.code_of(data) if answer.status >= 300 or method != "GET" else ""
        if answer.status < 300 and not code:
            return Answer(answer.status, answer.headers, data)
        failure = s3_errors.error_of(answer.status, data, key)
        if code == "NoSuchBucket":
            failure = NotFoundError(f"there is no bucket at {self.base_url}", key=key or None)
        if code in s3_errors.EXPIRED:
            raise _ExpiredError(failure)
        raise failure

    def _frozen(self) -> Any:
        try:
            with self._lock:
                credentials = self._credentials or self._session.get_credentials()
                self._credentials = credentials
            if credentials is None:
                raise NotPermittedError(
                    "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; "
                    "to read a public bucket without credentials, set FSSPEC_S3_ANON=true"
                )
            return credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise NotPermittedError(f"cannot get the credentials for S3: {error}") from error

    def _renew(self) -> None:
        """Read credentials again: they may have been replaced in the environment or the file."""
        if self._options.key is not None:
            return
        with self._lock:
            self._session, self._credentials = _session_of(self._options), None


def _session_of(options: S3Options) -> Session:
    """Return a new session, which reads the environment and the files of AWS again."""
    session = get_session()
    if options.profile is not None:
        session.set_config_variable("profile", options.profile)
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return session


@functools.cache
def _models(data_path: str | None) -> Loader:
    """Return what reads botocore's descriptions of services and regions.

    It keeps them: 2 MB of JSON, which each session would parse again for itself and take most of its time for.
    """
    return create_loader(data_path)


class _ExpiredError(Exception):
    """The server requires fresh credentials; `error` is raised when there are none."""

    def __init__(self, error: CkptdError) -> None:
        super().__init__(str(error))
        self.error = error


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL, as every program of that ecosystem reads it."""
    where = urlsplit(url)
    host = where.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    return getproxies().get(where.scheme)


def _cause_of(error: UnavailableError) -> Cause:
    if isinstance(error.__cause__, _TIMEOUTS):
        return Cause.TIMEOUT
    return Cause.SERVER if error.__cause__ is None else Cause.CONNECTION


def _reason_of(error: BaseException) -> str:
    """Say what went wrong with a connection, without the names that every layer gives it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "nothing came for a while" if isinstance(error, urllib3.exceptions.TimeoutError) else str(error)


def _given(session: Any, options: S3Options) -> Any:
    session.set_credentials(options.key, options.secret, options.token)
    return session.get_credentials()


def _check_length(answer: Any, wanted: int, key: str) -> None:
    length = int(answer.headers.get("Content-Length", wanted))
    if length < wanted:
        raise CorruptionError("the object ends early", key=key, expected=wanted, actual=length)
    if length > wanted:
        raise InvalidRequestError("the server does not offer ranges", key=key, expected=wanted, actual=length)


def _fill(answer: Any, into: memoryview, movement: Movement) -> None:
    """Read a body into memory; one that is cut short is a broken connection."""
    done = 0
    # urllib3's own `readinto` reads into memory of its own and copies; the response below it does not.
    source = getattr(answer, "_fp", None) or answer
    while done < len(into):
        count = source.readinto(into[done : done + _PIECE_BYTES])
        if not count:
            raise urllib3.exceptions.IncompleteRead(done, len(into) - done)
        done += count
        movement.note()
