"""How the C library keeps memory that was freed: for the next message, as it is needed again at once.

A message of a megabyte is in memory of its own. By default glibc hands such memory back to the kernel when it is
freed and requests it again a moment later, and the kernel zeroes every page again. Elsewhere (musl, macOS) nothing is
changed.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of <malloc.h>
_KEPT_BYTES = 64 << 20  # about what flow control lets in at once
_OWN_MAPPING_BYTES = 8 << 20  # larger than any message, and smaller than the parts of uploads, which are kept anyway
_NUM_ARENAS = 2


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, up to a bound; return whether the C library does so.

    Of the arenas there are few, as each keeps memory of its own. Call it before threads are started.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = {_TRIM_THRESHOLD: _KEPT_BYTES, _MMAP_THRESHOLD: _OWN_MAPPING_BYTES, _ARENA_MAX: _NUM_ARENAS}
    return all(mallopt(option, value) == 1 for option, value in wanted.items())
