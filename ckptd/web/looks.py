"""Reading values for a page: one tensor at a time, for a bounded time, and never while a save needs the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ckptd.engine.reading.glance import Glance, StringGlance, glance
from ckptd.errors import CkptdError, NotFoundError
from ckptd.interchange.contrast import Contrast, contrast
from ckptd.web.drawing import HistogramBar, StripMark, bars, strip, zero_at
from ckptd.web.shelf import Shelf, Shelved

MOST_S = 10.0
"""After this time no more is read; the page is of what was seen by then."""


@dataclass(frozen=True, slots=True)
class ValuesSeen:
    """What a page shows of the values of a tensor.

    Attributes:
        numbers: of a tensor of numbers.
        strings: of a tensor of strings or variants.
        bars, zero: its histogram.
        strip: where it is large.
        contrast: how it differs from the same tensor of an older checkpoint.
        problem: why nothing was read, or why nothing could be compared; "" where all was.
        is_later: nothing was read now, but it will be soon.
    """

    numbers: Glance | None = None
    strings: StringGlance | None = None
    bars: tuple[HistogramBar, ...] = ()
    zero: float | None = None
    strip: tuple[StripMark, ...] = ()
    contrast: Contrast | None = None
    problem: str = ""
    is_later: bool = False


class ValueReader:
    """See the module.

    Attributes:
        threads: where `at` is to be called.
    """

    def __init__(self, shelf: Shelf, now: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet."""
        self._shelf, self._now = shelf, now
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="ckptd-looks")

    def at(self, shelved: Shelved, name: str, older: Shelved | None) -> ValuesSeen:
        """Look at a tensor, and compare it with that of an older checkpoint. Blocks."""
        later = self._shelf.why_not_now()
        if later:
            return ValuesSeen(problem=later, is_later=True)
        until = self._now() + MOST_S

        def is_late() -> bool:
            return self._now() >= until or bool(self._shelf.why_not_now())

        try:
            with self._shelf.opened(shelved) as bundle:
                seen = glance(bundle, name, is_late=is_late)
                found, problem = None, ""
                if older is not None:
                    try:
                        with self._shelf.opened(older) as before:
                            found = contrast(bundle, before, name, is_late=is_late)
                    except NotFoundError:
                        problem = f"{older.label} has no such tensor, or is gone"
                    except CkptdError as error:
                        problem = f"it cannot be compared with {older.label}: {error}"
        except CkptdError as error:
            return ValuesSeen(problem=str(error))
        if isinstance(seen, StringGlance):
            return ValuesSeen(strings=seen, contrast=found, problem=problem)
        num_elements = self._shelf.tensor(shelved, name=name, number=None).num_elements
        drawn = seen.histogram
        return ValuesSeen(
            numbers=seen,
            bars=() if drawn is None else tuple(bars(drawn)),
            zero=None if drawn is None else zero_at(drawn),
            strip=tuple(strip(seen, num_elements)),
            contrast=found,
            problem=problem,
        )

    def close(self) -> None:
        """Read no more."""
        self.threads.shutdown(wait=False, cancel_futures=True)
