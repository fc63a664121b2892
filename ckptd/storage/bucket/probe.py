"""Does this bucket keep what a store promises? Every promise is tested, on objects of our own, which are removed after.

`ckptd doctor` shows the result of every check, a daemon makes only those that it needs: both refuse the same buckets.
Other checks that can't be made, for lack of rights or because the server does not support them, give a warning.

A server accepts a condition that it does not know, so an answer is believed only when the opposite was tried too.
`fences` matters most: without it a second coordinator, or one that was thought dead, could overwrite what another has
published.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from ckptd.format.crc32c import crc32c
from ckptd.storage.bucket.bucket import Bucket
from ckptd.storage.bucket.multipart import abort_upload
from ckptd.storage.findings import Finding, Outcome
from ckptd.storage.keys import UNFINISHED_SUFFIX, join

_MAX_SKEW_S = 60.0  # the server refuses requests from 15 minutes on
KNOWN: dict[str, tuple[str, ...]] = {}  # results of `fences`, by bucket: they do not change while a process runs
_KNOWN_LOCK = threading.Lock()


def probe(bucket: Bucket, root: str) -> Iterator[Finding]:
    """Test a bucket below `root`; yield the result of each check. Nothing is left behind."""
    trial = _Trial(bucket, root)
    try:
        if bucket.unfenced is not None:
            yield Finding("conditions", Outcome.REFUSED, bucket.unfenced, InvalidRequestError(bucket.unfenced))
        for name, check in _CHECKS:
            finding = _carry_out(name, check, trial)
            yield finding
            if name == "write" and finding.outcome is Outcome.REFUSED:
                return  # the others would fail likewise
    finally:
        trial.clean_up()


def fences(bucket: Bucket, root: str) -> Sequence[str]:
    """Return which promises that keep owners apart the bucket breaks, in words for people; found out once per process.

    Raises:
        CkptdError: when it cannot be tried out.
    """
    with _KNOWN_LOCK:
        known = KNOWN.get(bucket.place)
    if known is None:
        trial = _Trial(bucket, root)
        try:
            found = [check(trial) for name, check in _CHECKS if name in _NEEDED]
        finally:
            trial.clean_up()
        known = (bucket.unfenced,) if bucket.unfenced else ()
        known += tuple(detail for outcome, detail in found if outcome is not Outcome.OK)
        with _KNOWN_LOCK:
            KNOWN[bucket.place] = known
    return known


class _Trial:
    """The bucket under trial, and the objects that are made in it."""

    def __init__(self, bucket: Bucket, root: str) -> None:
        self.bucket = bucket
        self.directory = join(root, ".ckptd")
        self._made: list[str] = []

    def new_key(self) -> str:
        """Return an unused key."""
        key = join(self.directory, f".probe.{secrets.token_hex(16)}{UNFINISHED_SUFFIX}")
        self._made.append(key)
        return key

    def forget(self) -> None:
        """Leave what was made to the next sweep."""
        self._made.clear()

    def clean_up(self) -> None:
        for key in self._made:
            with suppress(CkptdError):
                self.bucket.delete(key)


def _carry_out(name: str, check: Callable[[_Trial], tuple[Outcome, str]], trial: _Trial) -> Finding:
    try:
        outcome, detail = check(trial)
    except CkptdError as error:
        if isinstance(error, UnavailableError):
            trial.forget()  # deleting objects that may not exist would take as long again; a later start sweeps them
        if name not in _NEEDED:
            return Finding(name, Outcome.WARNING, f"cannot tell: {error.reason}")
        return Finding(name, Outcome.REFUSED, error.reason, error)
    return Finding(name, outcome, detail, InvalidRequestError(detail) if outcome is Outcome.REFUSED else None)


def _write(trial: _Trial) -> tuple[Outcome, str]:
    key, began_at = trial.new_key(), time.monotonic()
    trial.bucket.put(key, b"probe")
    data, _ = trial.bucket.get(key, limit_bytes=100)
    if data != b"probe":
        return Outcome.REFUSED, "an object reads back different from what was written"
    trial.bucket.delete(key)
    with suppress(NotFoundError):
        trial.bucket.head(key)
        return Outcome.REFUSED, "an object that was deleted is still there"
    took_ms = (time.monotonic() - began_at) * 1000
    return Outcome.OK, f"an object was written, read and deleted, in {took_ms:.0f} ms"


def _create(trial: _Trial) -> tuple[Outcome, str]:
    key = trial.new_key()
    trial.bucket.put(key, b"first", if_absent=True)
    try:
        trial.bucket.put(key, b"second", if_absent=True)
    except ConflictError:
        return Outcome.OK, "an existing object is not created again (If-None-Match)"
    return Outcome.REFUSED, "it creates an object that exists: two saves could overwrite each other (If-None-Match)"


def _replace(trial: _Trial) -> tuple[Outcome, str]:
    key = trial.new_key()
    first = trial.bucket.put(key, b"first")
    try:
        trial.bucket.put(key, b"second", if_etag=first.etag)
    except ConflictError:
        return Outcome.REFUSED, "it refuses to replace even the current version (If-Match)"
    try:
        trial.bucket.put(key, b"third", if_etag=first.etag)
    except ConflictError:
        return Outcome.OK, "only the version that was seen is replaced (If-Match)"
    return Outcome.REFUSED, "it replaces any version: a coordinator thought dead could publish (If-Match)"


def _replace_missing(trial: _Trial) -> tuple[Outcome, str]:
    key = trial.new_key()
    gone = trial.bucket.put(key, b"first").etag
    trial.bucket.delete(key)
    try:
        trial.bucket.put(key, b"second", if_etag=gone)
    except ConflictError:
        return Outcome.OK, "a deleted object is not replaced (If-Match)"
    return Outcome.REFUSED, "it replaces a deleted object: a coordinator thought dead could publish (If-Match)"


def _complete(trial: _Trial) -> tuple[Outcome, str]:
    key = trial.new_key()
    trial.bucket.put(key, b"first")
    upload = trial.bucket.create_upload(key, {})
    part = trial.bucket.upload_part(key, upload, 1, memoryview(b"second"))
    try:
        trial.bucket.complete_upload(key, upload, [part], if_absent=True)
    except ConflictError:
        abort_upload(trial.bucket, key, upload)
        return Outcome.OK, "an upload does not replace an existing object (If-None-Match)"
    return Outcome.WARNING, "uploads replace existing objects; ckptd gives every attempt keys of its own"


def _listing(trial: _Trial) -> tuple[Outcome, str]:
    key = trial.new_key()
    trial.bucket.put(key, b"")
    if not any(head.key == key for head in trial.bucket.list(key, deep=True)):
        return Outcome.WARNING, "a new object is not listed at once: `ls` and recovery may see an older state"
    trial.bucket.delete(key)
    if any(head.key == key for head in trial.bucket.list(key, deep=True)):
        return Outcome.WARNING, "a deleted object is still listed: `ls` and recovery may see an older state"
    return Outcome.OK, "what was written is listed at once, and what was deleted is not"


def _checksums(trial: _Trial) -> tuple[Outcome, str]:
    wrong = crc32c(b"probe") ^ 1
    try:
        trial.bucket.put(trial.new_key(), b"probe", crc=wrong)
    except CorruptionError:
        pass
    else:
        return Outcome.WARNING, "it accepts bytes that were damaged in transit; `ckptd verify` finds them"
    key = trial.new_key()
    upload = trial.bucket.create_upload(key, {})
    try:
        trial.bucket.upload_part(key, upload, 1, memoryview(b"probe"), crc=wrong)
    except CorruptionError:
        return Outcome.OK, "bytes that were damaged in transit are refused (CRC-32C)"
    finally:
        abort_upload(trial.bucket, key, upload)
    return Outcome.WARNING, "it accepts parts that were damaged in transit; `ckptd verify` finds them"


def _versions(trial: _Trial) -> tuple[Outcome, str]:
    if trial.bucket.has_versions():
        return Outcome.WARNING, "the bucket keeps old versions: what retention deletes still uses space and costs money"
    return Outcome.OK, "what is deleted is gone"


def _lifecycle(trial: _Trial) -> tuple[Outcome, str]:
    if trial.bucket.aborts_old_uploads():
        return Outcome.OK, "the bucket deletes uploads that are not completed (AbortIncompleteMultipartUpload)"
    advice = "a rule AbortIncompleteMultipartUpload would drop those of runs that are never opened again"
    return Outcome.OK, f"ckptd aborts the uploads that a crash leaves; {advice}"


def _clock(trial: _Trial) -> tuple[Outcome, str]:
    skew_s = trial.bucket.now() - time.time()
    text = f"the server's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this host's"
    return (Outcome.WARNING if abs(skew_s) > _MAX_SKEW_S else Outcome.OK), text


_NEEDED = ("write", "create", "replace", "replace missing")
"""The checks that a daemon makes, too; it refuses the bucket if one fails. The other checks only warn."""

_CHECKS: list[tuple[str, Callable[[_Trial], tuple[Outcome, str]]]] = [
    ("write", _write),
    ("create", _create),
    ("replace", _replace),
    ("replace missing", _replace_missing),
    ("complete", _complete),
    ("listing", _listing),
    ("checksums", _checksums),
    ("versions", _versions),
    ("lifecycle", _lifecycle),
    ("clock", _clock),
]
