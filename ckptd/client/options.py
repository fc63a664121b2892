"""What callers may write for a `Checkpointer`'s arguments. Everything else is an `InvalidRequestError`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming


def from_environment(variable: str, default: int) -> int:
    """Return a whole number from the environment, `default` when it is not set."""
    text = os.environ.get(variable)
    if text is None or not text.strip():
        return default
    try:
        return int(text)
    except ValueError as error:
        raise InvalidRequestError(f"the environment's {variable} is no number", actual=text) from error


def check_step(step: Any) -> int:
    """Return a step; numpy's whole numbers are steps too."""
    try:
        number = step.__index__() if not isinstance(step, bool) else -1
    except AttributeError:
        number = -1
    if not 0 <= number <= naming.MAX_STEP:
        raise InvalidRequestError("a step is a whole number from 0 on", actual=repr(step))
    return int(number)


def check_latest_filename(name: str) -> str:
    """Return the state file's name if it is one, and no path."""
    if "/" in name:
        raise InvalidRequestError("'latest_filename' must not contain path components", actual=name)
    return naming.check_checkpoint_name(name)


def read_ca(ca: str | bytes | None) -> bytes | None:
    """Return the PEM of a certificate authority that is given as such, or as the path of a file."""
    if ca is None or isinstance(ca, bytes):
        return ca
    if "-----BEGIN" in ca:
        return ca.encode()
    try:
        return Path(ca).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"the certificate authority can't be read: {error}") from error
