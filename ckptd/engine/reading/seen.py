"""An index as it was read: what is read by it later must still be of the same checkpoint.

A checkpoint may be deleted while it is read, and another may be saved under the same keys. A tensor that is read whole
is compared with its checksum in the index; for a box, nothing else shows which checkpoint it came from.
"""

from __future__ import annotations

from ckptd.errors import NotFoundError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Objects


class SeenIndex:
    """One index object. Any thread may use it.

    Attributes:
        data: its content.
        crc32c: the checksum of that.
    """

    def __init__(self, objects: Objects, key: str, *, limit_bytes: int = 1 << 31) -> None:
        """Read it.

        Raises:
            NotFoundError: there is none.
        """
        self._objects = objects
        self._key = key
        self._version = objects.stat(key).version  # first: if it is replaced in between, the check fails
        self.data = objects.get(key, limit_bytes=limit_bytes)
        self.crc32c = crc32c(self.data)

    def check(self) -> None:
        """Make sure that it is still there, so that everything read before this call belongs to it.

        Raises:
            NotFoundError: it is not; the checkpoint has to be opened again, if there is one.
        """
        version = self._objects.stat(self._key).version
        if version == self._version:
            return
        if crc32c(self._objects.get(self._key)) != self.crc32c:
            raise NotFoundError(
                "this checkpoint was deleted or replaced while it was read; open it again",
                key=self._objects.location(self._key),
            )
        self._version = version  # touched, linked or copied: it says the same
