from __future__ import annotations

import grpc
import pytest

from ckptd import errors
from ckptd.errors import CkptdError
from ckptd.wire import status


class Failed(grpc.RpcError):
    """What a client sees of a status."""

    def __init__(self, code, details="", metadata=()):
        super().__init__()
        self._status = (code, details, metadata)

    def code(self):
        return self._status[0]

    def details(self):
        return self._status[1]

    def trailing_metadata(self):
        return self._status[2]


def across(error: CkptdError) -> CkptdError:
    sent = status.to_wire(error)
    return status.from_wire(Failed(sent.code, sent.details, sent.metadata), address="127.0.0.1:7070")


CODES = [
    (errors.InvalidRequestError, "INVALID_ARGUMENT"),
    (errors.NotFoundError, "NOT_FOUND"),
    (errors.ConflictError, "FAILED_PRECONDITION"),
    (errors.SessionAbortedError, "ABORTED"),
    (errors.UnavailableError, "UNAVAILABLE"),
    (errors.StorageFullError, "RESOURCE_EXHAUSTED"),
    (errors.CorruptionError, "DATA_LOSS"),
    (errors.NotPermittedError, "PERMISSION_DENIED"),
    (errors.CkptdError, "INTERNAL"),
]


FINER = [(errors.VersionMismatchError, errors.ConflictError), (errors.EvictedError, errors.ConflictError)]
"""Classes that say more than their base, and are the base for a peer that does not know them."""


def test_the_tables_have_every_error_there_is():
    declared = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CkptdError)}
    assert declared == {kind for kind, _ in CODES} | {kind for kind, _ in FINER}


@pytest.mark.parametrize(("kind", "base"), FINER)
def test_a_finer_class_crosses_as_itself_and_is_its_base_without_our_details(kind, base):
    assert type(across(kind("why"))) is kind
    sent = status.to_wire(kind("why"))
    assert type(status.from_wire(Failed(sent.code, sent.details), address="a:1")) is base


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_a_remote_caller_catches_the_class_that_was_raised(kind, code):
    error = kind("the reason", key="runs/a/m-1.index", offset=12, expected=(3, 4), actual="a 'word'")
    error.add_note("while committing step 1")
    error.add_note("second")
    assert status.to_wire(error).code is grpc.StatusCode[code]
    caught = across(error)
    assert type(caught) is kind
    assert str(caught) == str(error)
    assert (caught.reason, caught.key, caught.offset) == ("the reason", "runs/a/m-1.index", 12)
    assert (caught.expected, caught.actual) == ((3, 4), "a 'word'")
    assert caught.__notes__ == ["while committing step 1", "second"]


def test_what_programs_decide_by_travels_as_fields():
    occupied = errors.ConflictError("the run is in use", expected="rank 0 (pid 1 on a), which was here until just now")
    occupied.holder = "rank 0 (pid 1 on a)"
    assert (across(occupied).holder, across(occupied).free_in_s) == ("rank 0 (pid 1 on a)", None)
    occupied.free_in_s = 3.5
    assert across(occupied).free_in_s == 3.5
    assert across(errors.ConflictError("already saved")).holder == ""
    assert across(errors.CorruptionError("bad", tensor="w")).tensor == "w"


@pytest.mark.parametrize(
    ("details", "why"),
    [
        ("connect: Connection refused (111)", "connection refused; start one with `ckptd serve --root DIR`"),
        ("DNS resolution failed", "the host's name is not known"),
        ("Socket closed", ""),
    ],
)
def test_that_nothing_answers_is_a_field(details, why):
    caught = status.from_wire(Failed(grpc.StatusCode.UNAVAILABLE, details), address="a:1")
    assert caught.no_answer == why
    assert str(caught) == f"no daemon answers at a:1: {why}" or not why


@pytest.mark.parametrize("kind", [kind for kind, _ in CODES])
def test_the_plain_status_gives_the_same_class_without_our_details(kind):
    sent = status.to_wire(kind("why"))
    assert type(status.from_wire(Failed(sent.code, sent.details), address="a:1")) is (
        # gRPC's own refusals are no full disk.
        errors.UnavailableError if kind is errors.StorageFullError else kind
    )


@pytest.mark.parametrize("value", [5, "5", 1.5, True, (1, (2, 3)), "\udcff raw", None])
def test_a_field_keeps_its_type(value):
    assert across(errors.ConflictError("x", actual=value)).actual == value


def test_a_value_that_json_lacks_is_told_as_text():
    assert across(errors.ConflictError("x", expected={1})).expected == "{1}"


def test_an_endless_error_fits_in_a_header():
    error = errors.ConflictError("ü" * 100_000, key="ü" * 9000, expected=list(range(9000)), actual=b"\0" * 9000)
    for _ in range(100):
        error.add_note("ü" * 1000)
    sent = status.to_wire(error)
    percent_encoded = 3 * len(sent.details.encode())
    in_base64 = sum(len(value) for _, value in sent.metadata) * 4 // 3
    assert percent_encoded + in_base64 < 8 * 1024
    assert type(across(error)) is errors.ConflictError


@pytest.mark.parametrize(
    ("code", "details", "kind", "says"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:7070: Failed to connect to remote "
            "host: connect: Connection refused (111)",
            errors.UnavailableError,
            "no daemon answers at 127.0.0.1:7070: connection refused; start one with `ckptd serve --root DIR`",
        ),
        ("UNAVAILABLE", "Socket closed", errors.UnavailableError, "broke: Socket closed"),
        (
            "UNAVAILABLE",
            "Stream removed (Socket closed (GOAWAY received; Error code: 0; Debug Text: connections from uid:7 were "
            "closed: there are 9))",
            errors.UnavailableError,
            "closed the connection: connections from uid:7 were closed: there are 9",
        ),
        (
            "UNAVAILABLE",
            "failed to connect; last error: UNKNOWN: unix:/x.sock: connect: No such file or directory (2)",
            errors.UnavailableError,
            "there is no such socket",
        ),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: unix:/x.sock: connect: Permission denied (13)",
            errors.UnavailableError,
            "access to 127.0.0.1:7070 is denied: its socket admits only its own user",
        ),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", errors.UnavailableError, "`ca`"),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed "
            "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed certificate: OK",
            errors.UnavailableError,
            "no secure connection to 127.0.0.1:7070: self signed certificate; check",
        ),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed",
            errors.UnavailableError,
            "it may need TLS (grpcs://)",
        ),
        ("UNAVAILABLE", "failed to connect: No route to host (113)", errors.UnavailableError, ": No route to host; "),
        ("UNAVAILABLE", "DNS resolution failed for nowhere:1", errors.UnavailableError, "name is not known"),
        ("UNAVAILABLE", "errors resolving x:1: [address lookup failed]", errors.UnavailableError, "name is not known"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.UnavailableError, "did not answer in time"),
        ("UNIMPLEMENTED", "Method not found!", errors.ConflictError, "no ckptd daemon, or one of another version"),
        (
            "RESOURCE_EXHAUSTED",
            "CLIENT: Received message larger than max (5 vs. 4)",
            errors.InvalidRequestError,
            "too large",
        ),
        ("RESOURCE_EXHAUSTED", "too many streams", errors.UnavailableError, "too much to do"),
        ("UNAUTHENTICATED", "", errors.NotPermittedError, "token"),
        ("CANCELLED", "Locally cancelled", errors.UnavailableError, "cancelled"),
        ("UNKNOWN", "Unexpected <class 'KeyError'>", errors.CkptdError, "its log says why"),
    ],
)
def test_what_grpc_says_itself_becomes_an_error_that_says_what_to_do(code, details, kind, says):
    caught = status.from_wire(Failed(grpc.StatusCode[code], details, ()), address="127.0.0.1:7070")
    assert type(caught) is kind
    assert says in str(caught)


@pytest.mark.parametrize("packed", [b"\xff\xff", b"", b"\x0a\x03abc"])
def test_details_of_somebody_else_are_passed_over(packed):
    error = Failed(grpc.StatusCode.NOT_FOUND, "nothing here", ((status.DETAILS_KEY, packed),))
    caught = status.from_wire(error)
    assert type(caught) is errors.NotFoundError
    assert str(caught) == "nothing here"
