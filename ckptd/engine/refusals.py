"""Refusals that the service in front of the engine treats in its own way."""

from __future__ import annotations

from ckptd.errors import InvalidRequestError, UnavailableError


class NotNowError(UnavailableError):
    """The same call will be answered later: the daemon is stopping, or has too much under way at this moment.

    Clients repeat the call. Every other `UnavailableError` is an answer: the store failed, say, and the engine has
    tried what could be tried.
    """


class InDoubtError(UnavailableError):
    """A commit failed, and so did looking for what it has left: the save may count, now or later.

    Attributes:
        why: both failures, in words.
    """

    why: str = ""


class NestedRunError(InvalidRequestError):
    """A new run would be inside another, or around one.

    Attributes:
        other: that run's name, as it lies below the root; None for one that is found from a directory above.
    """

    other: str | None = None
