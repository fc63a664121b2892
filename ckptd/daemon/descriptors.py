"""Descriptors: every rank takes one for its connection, and some more for shared memory and for files."""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger("ckptd.daemon")

_MOST = 1 << 20  # more than any host serves; some systems say "unlimited" and mean less
_FEW = 4096


def raise_limit() -> int:
    """Raise the process's limit to what the system allows it, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays at %d: %s", soft, error)
    return _MOST if soft == resource.RLIM_INFINITY else soft


def tell(allowed: int) -> None:
    """Say in the log how many open files are allowed; loudly if a large job needs more."""
    if allowed >= _FEW:
        _log.info("%d open files are allowed", allowed)
        return
    advice = "each rank takes some: raise the hard limit (LimitNOFILE=, ulimits, ulimit -Hn)"
    _log.warning("%d open files are allowed; %s", allowed, advice)
