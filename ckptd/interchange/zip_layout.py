"""The bytes of a zip archive around uncompressed members, with all offsets known before the first byte.

An object's size is fixed when it is created, and a member's CRC-32 is known only at its end; so every record
has its zip64 fields, and records are filled in after the data they describe. Everything that may vary between two
archives of the same members (times, systems, attributes) is constant.
Source: PKWARE ``APPNOTE.TXT`` 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ckptd.errors import InvalidRequestError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_EXTRA_SIZES = struct.Struct("<2H2Q")
_EXTRA_PLACE = struct.Struct("<2H3Q")
_VERSION = 45  # the one that brought zip64
_MADE_BY = 3 << 8 | _VERSION  # Unix
_UTF8 = 1 << 11
_NEW_YEAR_1980 = 0x21
_ZIP64 = 1
_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF
_RW_R__R__ = 0o100644 << 16
_MAX_NAME_BYTES = _MASK16


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One member: `offset` is of its local header, `data_offset` of its first byte, both in the archive."""

    name: bytes
    size: int
    offset: int
    data_offset: int

    def local_header(self, crc: int) -> bytes:
        """Return the bytes before the data; `crc` is the data's CRC-32."""
        extra = _EXTRA_SIZES.pack(_ZIP64, _EXTRA_SIZES.size - 4, self.size, self.size)
        fields = (_VERSION, _UTF8, 0, 0, _NEW_YEAR_1980, crc, _MASK32, _MASK32, len(self.name), len(extra))
        return _LOCAL.pack(b"PK\3\4", *fields) + self.name + extra

    def central_header(self, crc: int) -> bytes:
        """Return the member's line in the directory at the end."""
        extra = _EXTRA_PLACE.pack(_ZIP64, _EXTRA_PLACE.size - 4, self.size, self.size, self.offset)
        fields = (_MADE_BY, _VERSION, _UTF8, 0, 0, _NEW_YEAR_1980, crc, _MASK32, _MASK32, len(self.name), len(extra))
        return _CENTRAL.pack(b"PK\1\2", *fields, 0, 0, 0, _RW_R__R__, _MASK32) + self.name + extra


@dataclass(frozen=True, slots=True)
class ZipLayout:
    """A whole archive: `directory_offset` is where its directory begins, `size` that of all of it, in bytes."""

    members: tuple[ZipMember, ...]
    directory_offset: int
    size: int

    @classmethod
    def plan(cls, members: Sequence[tuple[str, int]]) -> ZipLayout:
        """Lay out members of these names and sizes in bytes, one after another.

        Raises:
            InvalidRequestError: for a name that is not text or longer than zip allows.
        """
        placed, offset, directory = [], 0, 0
        for text, size in members:
            try:
                name = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InvalidRequestError(f"the name {text!r} is not UTF-8, which zip requires") from error
            if len(name) > _MAX_NAME_BYTES:
                raise InvalidRequestError(f"a name of {len(name)} bytes is too long for a zip archive")
            data_offset = offset + _LOCAL.size + len(name) + _EXTRA_SIZES.size
            placed.append(ZipMember(name, size, offset, data_offset))
            directory += _CENTRAL.size + len(name) + _EXTRA_PLACE.size
            offset = data_offset + size
        return cls(tuple(placed), offset, offset + directory + _END64.size + _LOCATOR.size + _END.size)

    def directory(self, crcs: Sequence[int]) -> bytes:
        """Return all bytes after the last member; `crcs` are the members' CRC-32s."""
        lines = b"".join(member.central_header(crc) for member, crc in zip(self.members, crcs, strict=True))
        count, place = len(self.members), self.directory_offset
        end64 = _END64.pack(b"PK\6\6", _END64.size - 12, _MADE_BY, _VERSION, 0, 0, count, count, len(lines), place)
        locator = _LOCATOR.pack(b"PK\6\7", 0, place + len(lines), 1)
        short = min(count, _MASK16)
        end = _END.pack(b"PK\5\6", 0, 0, short, short, min(len(lines), _MASK32), min(place, _MASK32), 0)
        return lines + end64 + locator + end
