"""Files that hold one bearer token itself: what ``--token-file`` takes, and `ckptd token new --out` writes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptd.access.opening import opened
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.printable import why_no_token

_MOST_BYTES = 64 << 10
_LEFT_EMPTY = "; `ckptd token new NAME > FILE` leaves it so when it fails, `--out FILE` does not"


def read(path: str) -> str:
    """Return the token that a file holds.

    Raises:
        NotFoundError: there is no such file.
        NotPermittedError: it cannot be read.
        InvalidRequestError: it holds no token; the message says what is wrong.
    """
    try:
        with opened(path) as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such token file", key=path) from error
    except OSError as error:
        raise NotPermittedError(f"the token file cannot be read: {error.strerror}", key=path) from error
    text = data.decode("utf-8", "replace").strip()
    if text.startswith("{") and '"tokens"' in text:
        raise InvalidRequestError(
            "this file holds the hashes of tokens, which --tokens of `ckptd serve` takes, and no token itself", key=path
        )
    if len(data) > _MOST_BYTES:
        raise InvalidRequestError("a token file holds one token; this one is too large", key=path)
    if why := why_no_token(text):
        raise InvalidRequestError(f"a token file holds one token: {why}{'' if text else _LEFT_EMPTY}", key=path)
    return text


@contextmanager
def made(path: str, *, replaces: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield what writes a token into a new file, of mode 0600; it is durable when the block ends.

    The file is made before the block and is gone when that raises, so a token that cannot be kept is never made.

    Raises:
        ConflictError: there is such a file, and it is not to be replaced.
        InvalidRequestError: it is to be replaced, and it is a directory or a device, which hold no token.
        NotPermittedError: it cannot be made.
    """
    place = Path(path)
    if replaces and place.exists() and not place.is_file():
        raise InvalidRequestError("this is no file: --force replaces nothing else", key=path)
    try:
        if replaces:
            descriptor, unfinished = tempfile.mkstemp(dir=place.parent, prefix=place.name)  # 0600
        else:
            unfinished = path
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConflictError("there is such a file already: pass --force to replace it", key=path) from error
    except OSError as error:
        raise NotPermittedError(f"the token file cannot be made: {error.strerror}", key=path) from error
    try:
        with os.fdopen(descriptor, "w") as file:

            def write(token: str) -> None:
                file.write(token + "\n")

            yield write
            file.flush()
            os.fsync(descriptor)
        if replaces:
            Path(unfinished).replace(place)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
