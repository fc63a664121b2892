"""A save that the engine follows while it is captured, as the capturing thread sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ckptd.client.deadline import Deadline
from ckptd.engine.identity import Declaration
from ckptd.engine.lanes.capture import Capture


class Handover(Protocol):
    """See the module. No method raises, and only `wait` waits.

    Attributes:
        capture: what the engine of this process is to follow; None where a daemon follows.
    """

    capture: Capture | None

    def seal(self, sums: NDArray[np.uint32] | None) -> None:
        """Say that all bytes are in place. From here on the engine needs nothing else.

        Without `sums`, which are as for `give_sums`, the checksums are to follow.
        """

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """Pass the checksums on: one per part and, of strings, two, of the lengths and of the payload."""

    def drop(self, reason: str) -> None:
        """Say that the capture will not be finished."""

    def wait(self, deadline: Deadline, *, until_summed: bool) -> Declaration | None:
        """Wait until the engine has said whether it follows; if so, with `until_summed`, until all is transferred.

        Returns what was declared by that, which need not be declared again; None if it is still to be declared.
        """
