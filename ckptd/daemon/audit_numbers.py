"""The numbers of an audit log's records: where they go on after a restart, a crash or a rotation."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptd.errors import InvalidRequestError

MOST_LINE_BYTES = 64 << 10

_UNPACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MOST_BYTES = 1 << 30  # of a packed file, unpacked

_log = logging.getLogger("ckptd.audit")


def last_number(lines: bytes, path: str) -> int:
    """Return the number of the last of some whole lines of an audit log; the file at `path` ends in it.

    Raises:
        InvalidRequestError: it is no numbered record.
    """
    number = _number(lines.rpartition(b"\n")[2])
    if number is None:
        raise InvalidRequestError("this is no audit log: its last line is no numbered record", key=path)
    return number


def last_number_before(path: str) -> int:
    """Return the number of the last record of the files that `path` was rotated into, 0 if there are none.

    They are beside it: its name, a dot or a dash, and more; those that are packed are read, too. The newest counts that
    ends in a record; others are told in the log.
    """
    for rotated in _newest_first(Path(path)):
        with suppress(OSError, EOFError, lzma.LZMAError, zlib.error):
            number = _last_in(rotated)
            if number is not None:
                return number
        _log.warning("%s does not end in a numbered record: the numbers do not go on from there", rotated)
    return 0


def _newest_first(ours: Path) -> Iterator[Path]:
    found: list[tuple[float, Path]] = []
    for each in ours.absolute().parent.iterdir():
        if each.name.startswith((f"{ours.name}.", f"{ours.name}-")):
            with suppress(OSError):  # it has gone
                state = each.stat()
                if stat.S_ISREG(state.st_mode) and state.st_size:
                    found.append((state.st_mtime, each))
    for _, each in sorted(found, reverse=True):
        yield each


def _last_in(path: Path) -> int | None:
    unpack = _UNPACKED.get(path.suffix)
    tail, done = b"", 0
    with path.open("rb") if unpack is None else unpack(path) as file:
        if unpack is None:
            file.seek(max(0, path.stat().st_size - 2 * MOST_LINE_BYTES))
        while done < _MOST_BYTES and (part := file.read(MOST_LINE_BYTES)):
            tail, done = (tail + part)[-2 * MOST_LINE_BYTES :], done + len(part)
    return _number(tail.rpartition(b"\n")[0].rpartition(b"\n")[2])


def _number(line: bytes) -> int | None:
    try:
        record: Any = json.loads(line)
        number = record["number"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if type(number) is int and number > 0 else None
