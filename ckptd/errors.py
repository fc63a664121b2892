"""Every error that ckptd raises. Each class says what to do; of ours only `printable` is imported here.

| class | what to do | gRPC status | exit code |
|---|---|---|---|
| `InvalidRequestError` | the request is wrong; change it | INVALID_ARGUMENT | 2 |
| `NotFoundError` | no such checkpoint, tensor, session | NOT_FOUND | 3 |
| `ConflictError` | wrong phase, already there, old epoch | FAILED_PRECONDITION | 4 |
| `SessionAbortedError` | this save is over; start another | ABORTED | 5 |
| `UnavailableError` | try again later | UNAVAILABLE | 6 |
| `StorageFullError` | the operator must make room | RESOURCE_EXHAUSTED | 7 |
| `CorruptionError` | the bytes are wrong; do not retry | DATA_LOSS | 8 |
| `NotPermittedError` | the operator must grant access | PERMISSION_DENIED | 9 |
"""

from __future__ import annotations

import sys
from typing import ClassVar

from ckptd.printable import printable

_MOST_CHARACTERS = 10_000
"""Of a text in a message: a file may hold a name of megabytes."""


class CkptdError(Exception):
    """What all our errors have in common: a reason, and fields that say where and what.

    The message is made from the fields, so that a log line and a program read the same facts.
    Every field is optional; `notes` collects what each room between the cause and the caller knew.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    is_answer: bool = False
    """Whether a daemon has answered with it: it has tried, and a client does not repeat the call by itself."""

    def __init__(
        self,
        reason: str,
        *,
        key: str | None = None,
        offset: int | None = None,
        expected: object = None,
        actual: object = None,
        tensor: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.key = key
        self.offset = offset
        self.expected = expected
        self.actual = actual
        self.tensor = tensor  # that the reason names

    def __str__(self) -> str:
        # Names in it come from files and peers, and it ends on terminals and in logs. The fields stay as they are.
        text = printable(self.reason, lines=True, limit=_MOST_CHARACTERS)
        if self.key is not None:
            text = f"{printable(self.key, limit=_MOST_CHARACTERS)}: {text}"
        if self.offset is not None:
            text += f" at byte {self.offset}"
        facts = self._facts()
        if facts:
            text += f" ({', '.join(facts)})"
        return text

    def _facts(self) -> list[str]:
        named = (("expected", self.expected), ("found", self.actual))
        return [f"{what} {printable(str(value), limit=_MOST_CHARACTERS)}" for what, value in named if value is not None]

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.key, self.offset, self.expected, self.actual, self.tensor)

    def in_tensor(self, name: str) -> CkptdError:
        """Return the error with the tensor's name in its reason; itself if that names one already."""
        if self.tensor is not None:
            return self
        named = type(self)(f"tensor {name!r}: {self.reason}")
        named.__dict__.update({**self.__dict__, "reason": named.reason, "tensor": name})
        return named

    if sys.version_info < (3, 11):  # PEP 678 came with 3.11

        def add_note(self, note: str) -> None:
            """Add what this room knows about the error; shown after the message."""
            self.__notes__ = [*getattr(self, "__notes__", []), note]


def _rebuild(
    kind: type[CkptdError],
    reason: str,
    key: str | None,
    offset: int | None,
    expected: object,
    actual: object,
    tensor: str | None = None,
) -> CkptdError:
    return kind(reason, key=key, offset=offset, expected=expected, actual=actual, tensor=tensor)


class InvalidRequestError(CkptdError):
    """The request is wrong: a bad name, shape, dtype or argument. Change it."""

    exit_code = 2


class NotFoundError(CkptdError):
    """There is no such checkpoint, tensor, object or save."""

    exit_code = 3


class ConflictError(CkptdError):
    """The request does not fit what is there: already saved, wrong phase, another owner, an old epoch."""

    exit_code = 4
    may_take_over: bool = False
    """Whether the caller may take over the lock in its way on request: its holder, on another host, may have ended."""
    holder: str = ""
    """The process in the caller's place of a run, as `Member` names it; "" where the conflict is of another kind."""
    free_in_s: float | None = None
    """After how long that place is free, as its process is gone, unless it comes back; None while it is connected."""


class VersionMismatchError(ConflictError):
    """Client and daemon are of versions that do not work together. Trying again gives the same answer."""


class EvictedError(ConflictError):
    """An operator has freed this process's place in a run. It gets none there again; start the job anew to save."""


class SessionAbortedError(CkptdError):
    """This save is over and left nothing behind; start another."""

    exit_code = 5


class UnavailableError(CkptdError):
    """The other side cannot answer now; the same call may succeed later."""

    exit_code = 6
    retryable = True
    may_have_arrived: bool = True
    """Whether the other side may have taken the call: then the request may be carried out, now or later."""
    hung_up: bool = False
    """Whether what listens at the address ends each connection before it has answered anything."""
    no_answer: str = ""
    """Why nothing answers at an address, where the reason says just that; "" where it says another thing."""

    @classmethod
    def unanswered(cls, address: object, why: str) -> UnavailableError:
        """Return the error that says that no daemon answers at an address, and why."""
        error = cls(f"no daemon answers at {address}: {why}")
        error.no_answer = why
        return error


class StorageFullError(CkptdError):
    """The store has no room left; an operator must make some. That of a save says how much it needs."""

    exit_code = 7

    @property
    def needed_bytes(self) -> int | None:
        """How much room the save needs in all; None where that is not known."""
        return self.expected if isinstance(self.expected, int) else None

    @property
    def free_bytes(self) -> int | None:
        """How much was free when the save had given back what it had taken; None where the store does not say."""
        return self.actual if isinstance(self.actual, int) else None

    def _facts(self) -> list[str]:
        if self.needed_bytes is None:
            return super()._facts()
        needs = f"{readable_size(self.needed_bytes)} needed"
        return [needs] if self.free_bytes is None else [needs, f"{readable_size(self.free_bytes)} free"]


class CorruptionError(CkptdError):
    """The bytes are wrong. Trying again gives the same bytes."""

    exit_code = 8


class NotPermittedError(CkptdError):
    """The store or the daemon refuses this identity."""

    exit_code = 9


def readable_size(size_bytes: int) -> str:
    """Format bytes in decimal units, as disks and networks are sold: ``12.3 MB``."""
    if abs(size_bytes) < 1000:
        return f"{size_bytes} B"
    amount = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        amount /= 1000
        if abs(amount) < 999.95 or unit == "PB":
            break
    return f"{amount:.1f} {unit}"
