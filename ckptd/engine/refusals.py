"""Refusals that pass by themselves."""

from __future__ import annotations

from ckptd.errors import UnavailableError


class NotNowError(UnavailableError):
    """The same call will be answered later: the daemon is stopping, or has too much under way at this moment.

    Clients repeat the call. Every other `UnavailableError` is an answer: the store failed, say, and the engine has
    tried what could be tried.
    """
