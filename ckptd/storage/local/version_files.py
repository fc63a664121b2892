"""The files among the versions of one object, and which of them count; see `ckptd.storage.local.versions`.

Another program may put a file there: a copy from a backup, or what an editor leaves. Its number stays taken. It counts
only if its content can be one of the object (`IsSound`); otherwise the newest version below it counts.
"""

from __future__ import annotations

import errno
import itertools
import logging
import re
from collections.abc import Callable
from contextlib import ExitStack

from ckptd.errors import CorruptionError
from ckptd.storage.local.disk import Disk, FileStatus
from ckptd.storage.local.local_reader import read_whole

IsSound = Callable[[str, Callable[[], bytes]], bool]
"""Whether an object of this key can have the content that the function reads. It need not read it."""

_log = logging.getLogger(__name__)

BURIED = b"ckptd: this object was deleted\n"
"""The content of a version that is a deletion."""

_NUMBER = re.compile("[1-9][0-9]{0,17}", re.ASCII)  # other names were not given by us
_MOST_BETWEEN = 1 << 32  # changes while a process hung that then took a number that was free again
_NO_FILE = (errno.ELOOP, errno.EXDEV, errno.ENXIO)  # a symbolic link that leads out or in a circle, a socket
_MOST_BYTES = 64 << 20  # that are read to judge a file


class VersionFiles:
    """Finds the version of one object that counts. Every method raises `OSError` for what the file system refuses."""

    def __init__(self, disk: Disk, key: str, is_sound: IsSound | None) -> None:
        """Look at nothing yet. Without `is_sound` any content counts."""
        self._disk, self._key, self._is_sound_content = disk, key, is_sound

    def numbers(self, chain: int) -> list[int]:
        """Return the numbers that are taken, ascending. A number far above all others is another program's."""
        found = sorted(int(entry.name) for entry in self._disk.entries(chain) if _NUMBER.fullmatch(entry.name))
        below = itertools.chain((0,), found)
        return list(itertools.takewhile(lambda number: number - next(below) <= _MOST_BETWEEN, found))

    def newest_sound(
        self, stack: ExitStack, chain: int, numbers: list[int], shown: FileStatus | None, *, is_patient: bool
    ) -> tuple[int, int | None]:
        """Return the number of the newest version that counts, and its descriptor; None if none does.

        What other programs see counts in any case: whoever put it there, who reads it says what is wrong with it.

        Raises:
            FileNotFoundError: others have gone on so far that the newest was removed. Where that does not end, it is a
                link that leads nowhere: without `is_patient` it is taken for that.
        """
        for number in reversed(numbers):
            file = self._opened(stack, chain, number, is_patient)
            if file is not None:
                status = self._disk.status(file)
                if (shown is not None and status.inode == shown.inode) or self._is_sound(file, status):
                    return number, file
            _log.warning("%d among the versions of %s is none of them, and is ignored: delete it", number, self._key)
        return 0, None

    def is_buried(self, file: int, status: FileStatus) -> bool:
        """Say whether a version is a deletion."""
        if status.size_bytes != len(BURIED):
            return False
        data = bytearray(len(BURIED))
        return self._disk.read_into(file, 0, memoryview(data)) == len(BURIED) and data == BURIED

    def _opened(self, stack: ExitStack, chain: int, number: int, is_patient: bool) -> int | None:
        try:
            file = self._disk.open_file(chain, str(number), confined=True)
        except FileNotFoundError:
            if is_patient:
                raise
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        stack.callback(self._disk.close, file)
        return file

    def _is_sound(self, file: int, status: FileStatus) -> bool:
        if not status.is_file:
            return False
        if self._is_sound_content is None or self.is_buried(file, status):
            return True
        try:
            return self._is_sound_content(
                self._key, lambda: read_whole(self._disk, file, status.size_bytes, self._key, _MOST_BYTES)
            )
        except CorruptionError:
            return False
