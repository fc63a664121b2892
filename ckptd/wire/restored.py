"""What a process says of a restore."""

from __future__ import annotations

import math

from ckptd.engine.journal import Measured
from ckptd.errors import InvalidRequestError
from ckptd.wire.v1 import read_pb2

_MOST_S = 86_400.0
_MOST_BYTES = 1 << 50


def from_wire(request: read_pb2.RestoredRequest) -> Measured:
    """Return how long it took and what came by which way, within bounds: a wrong one would spoil the sums for good.

    Raises:
        InvalidRequestError: these are no times or sizes.
    """
    sizes = {"shm": request.shm_bytes, "grpc": request.grpc_bytes, "direct": request.direct_bytes}
    wrong = next((size for size in sizes.values() if not 0 <= size <= _MOST_BYTES), None)
    if wrong is not None:
        raise InvalidRequestError("no restore is so large", expected=f"0 to {_MOST_BYTES} bytes", actual=wrong)
    if not (math.isfinite(request.seconds) and 0 <= request.seconds <= _MOST_S):
        raise InvalidRequestError(
            "no restore takes so long", expected=f"0 to {_MOST_S:g} seconds", actual=request.seconds
        )
    return Measured(sum(sizes.values()), request.seconds, received_bytes=sizes)
