"""How direct reads and writes of a file must be aligned (``statx``, which Python does not offer)."""

from __future__ import annotations

import ctypes

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STRUCT_BYTES = 256
_MEMORY_ALIGN_AT, _OFFSET_ALIGN_AT = 0x98, 0x9C

_libc = ctypes.CDLL(None, use_errno=True)


def direct_alignment(file: int) -> tuple[int, int] | None:
    """Return the alignment of addresses, and that of offsets and lengths; (0, 0) where the file refuses direct access.

    None where the kernel (before Linux 6.1) or the file system does not tell.
    """
    if not hasattr(_libc, "statx"):
        return None
    facts = (ctypes.c_uint32 * (_STRUCT_BYTES // 4))()
    if _libc.statx(file, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, ctypes.byref(facts)) != 0:
        return None
    if not facts[0] & _STATX_DIOALIGN:
        return None
    return int(facts[_MEMORY_ALIGN_AT // 4]), int(facts[_OFFSET_ALIGN_AT // 4])
