"""What can go wrong between a client and an S3 server: a class for each mishap, and rules that say when it happens."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator

from tests.services.exchanges import Reply, Request

_HELD_AT_MOST_S = 120.0


class HangUp(Exception):  # noqa: N818 (no error: it is what was asked for)
    """The connection to the client ends here."""


class Action:
    """One mishap. This one is none: requests and replies pass as they are. Called from the threads of connections."""

    def instead(self, request: Request) -> Reply | None:
        """Return what to reply without asking the server; the request's body has been read."""
        return None

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        """Return what the server gets to read of a request's body. Runs also for a request that has none."""
        return body

    def reply(self, reply: Reply) -> Reply:
        """Return what the client gets to read of the server's reply."""
        return reply

    def release(self) -> None:
        """Let go of whatever is being held."""

    def __repr__(self) -> str:
        return type(self).__name__


class Refuse(Action):
    """The server is not asked; the client gets an error document."""

    def __init__(self, status: int, code: str) -> None:
        self.status = status
        self.code = code

    def instead(self, request: Request) -> Reply:
        return Reply.error(self.status, self.code)

    def __repr__(self) -> str:
        return f"Refuse({self.status}, {self.code!r})"


SLOW_DOWN = Refuse(503, "SlowDown")
INTERNAL_ERROR = Refuse(500, "InternalError")
ACCESS_DENIED = Refuse(403, "AccessDenied")
EXPIRED_TOKEN = Refuse(400, "ExpiredToken")
CLOCK_SKEWED = Refuse(403, "RequestTimeTooSkewed")
WRITE_CONFLICT = Refuse(409, "ConditionalRequestConflict")
STORE_FULL = Refuse(507, "XMinioStorageFull")


class DropRequest(Action):
    """The connection ends before the server hears of the request."""

    def instead(self, request: Request) -> Reply:
        raise HangUp


class DropAnswer(Action):
    """The server does what it was asked to; the client never learns of it."""

    def reply(self, reply: Reply) -> Reply:
        for _ in reply.body:
            pass
        raise HangUp


class ErrorInside200(Action):
    """A status of 200 with an error document behind it: the server was not asked, or, with `is_done`, did the work."""

    def __init__(self, code: str = "InternalError", *, is_done: bool = False) -> None:
        self.code = code
        self.is_done = is_done

    def instead(self, request: Request) -> Reply | None:
        return None if self.is_done else Reply.error(200, self.code)

    def reply(self, reply: Reply) -> Reply:
        for _ in reply.body:
            pass
        return Reply.error(200, self.code)


class Pausing(Action):
    """What stops somewhere: `arrived` is set when it has, and `release` lets it go on."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def wait_until_there(self, timeout_s: float = 30.0) -> None:
        """Wait until a request has come that far."""
        if not self.arrived.wait(timeout_s):
            raise AssertionError(f"no request reached {self} within {timeout_s:g} s")

    def pause(self, timeout_s: float = _HELD_AT_MOST_S) -> None:
        self.arrived.set()
        self._released.wait(timeout_s)


class Delay(Pausing):
    """The request goes on after a while."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        self.pause(self.delay_s)
        return body


class Hold(Pausing):
    """A request is read to its end, and of its body the server gets `after_bytes`; the rest once it is released.

    It then goes on also when the client has long given up: this is how an upload arrives late.
    """

    def __init__(self, after_bytes: int = 0) -> None:
        super().__init__()
        self.after_bytes = after_bytes

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        whole = b"".join(body)
        if self.after_bytes:
            yield whole[: self.after_bytes]
        self.pause()
        yield whole[self.after_bytes :]


class HoldAnswer(Pausing):
    """The server has done it; the client learns of it once it is released."""

    def reply(self, reply: Reply) -> Reply:
        whole = b"".join(reply.body)
        self.pause()
        return Reply(reply.status, reply.headers, iter((whole,)), reply.length_bytes)


class StallUpload(Pausing):
    """After so many bytes of the body nothing moves any more, in either direction. When released, the line is cut."""

    def __init__(self, after_bytes: int = 1) -> None:
        super().__init__()
        self.after_bytes = after_bytes

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        yield from _first(body, self.after_bytes)
        self.pause()
        raise HangUp


class StallDownload(Pausing):
    """After so many bytes of the reply's body nothing moves any more. When released, the line is cut."""

    def __init__(self, after_bytes: int = 1) -> None:
        super().__init__()
        self.after_bytes = after_bytes

    def reply(self, reply: Reply) -> Reply:
        reply.body = self._some(reply.body)
        return reply

    def _some(self, body: Iterator[bytes]) -> Iterator[bytes]:
        yield from _first(body, self.after_bytes)
        self.pause()
        raise HangUp


class CutUpload(Action):
    """The line is cut in the middle of the body, on both sides."""

    def __init__(self, after_bytes: int = 1) -> None:
        self.after_bytes = after_bytes

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        yield from _first(body, self.after_bytes)
        raise HangUp


class CutDownload(Action):
    """The reply's body ends early: the line is cut, or `silently`, as if it had never been longer."""

    def __init__(self, after_bytes: int = 1, *, silently: bool = False) -> None:
        self.after_bytes = after_bytes
        self.silently = silently

    def reply(self, reply: Reply) -> Reply:
        some = b"".join(_first(reply.body, self.after_bytes))
        for _ in reply.body:
            pass
        reply.body = iter((some,)) if self.silently else _then_hang_up(some)
        if self.silently:
            reply.length_bytes = len(some)
        return reply


class FlipUpload(Action):
    """One bit of the body is another one when the server reads it."""

    def __init__(self, at_byte: int = 0) -> None:
        self.at_byte = at_byte

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        return _flipped(body, self.at_byte)


class FlipDownload(Action):
    """One bit of the reply's body is another one when the client reads it."""

    def __init__(self, at_byte: int = 0) -> None:
        self.at_byte = at_byte

    def reply(self, reply: Reply) -> Reply:
        reply.body = _flipped(reply.body, self.at_byte)
        return reply


class Run(Action):
    """Calls something before the server is asked, or `afterwards`, before the client learns of it; then all goes on.

    It runs in a thread of the `Front`: it may kill processes, but none started there would outlive the connection.
    """

    def __init__(self, what: Callable[[], object], *, afterwards: bool = False) -> None:
        self._what = what
        self._is_after = afterwards

    def upload(self, body: Iterator[bytes]) -> Iterator[bytes]:
        if not self._is_after:
            self._what()
        return body

    def reply(self, reply: Reply) -> Reply:
        if self._is_after:
            self._what()
        return reply


class Rule:
    """When an action happens: to requests of an operation (several with spaces between; "" any) whose key contains a
    pattern, after `skip` of them, at most `times` (None: always), each with a probability that `seed` makes repeatable.
    """

    def __init__(
        self,
        action: Action,
        operation: str = "",
        key: str = "",
        *,
        when: Callable[[Request], bool] | None = None,
        skip: int = 0,
        times: int | None = 1,
        probability: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.action = action
        self.hits = 0
        self._operations = operation.split()
        self._key = re.compile(key)
        self._when = when
        self._skip = skip
        self._times = times
        self._probability = probability
        self._random = random.Random(seed)

    def applies(self, request: Request) -> bool:
        """Say whether it is this request's turn, and count it. Not for several threads at once."""
        if self._operations and request.operation not in self._operations:
            return False
        if not self._key.search(request.key) or (self._when is not None and not self._when(request)):
            return False
        if self._skip:
            self._skip -= 1
            return False
        if self._times is not None and self.hits >= self._times:
            return False
        if self._random.random() >= self._probability:
            return False
        self.hits += 1
        return True


def _first(body: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the first bytes of a body; of the piece in which they end, the rest is lost."""
    for piece in body if count else ():
        yield piece[:count]
        count -= len(piece[:count])
        if not count:
            return


def _then_hang_up(data: bytes) -> Iterator[bytes]:
    yield data
    raise HangUp


def _flipped(body: Iterable[bytes], at_byte: int) -> Iterator[bytes]:
    for piece in body:
        if 0 <= at_byte < len(piece):
            piece = piece[:at_byte] + bytes([piece[at_byte] ^ 1]) + piece[at_byte + 1 :]
        at_byte -= len(piece)
        yield piece
