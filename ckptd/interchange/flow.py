"""Write tensors' streams into an object that is being created."""

from __future__ import annotations

from collections.abc import Callable

from ckptd.engine.reading.verify import Progress
from ckptd.errors import CorruptionError
from ckptd.interchange.source import Array, TensorFacts, TensorSource
from ckptd.storage.base import ObjectWriter


class Flow:
    """Yields the tensors' streams and counts their bytes."""

    def __init__(self, source: TensorSource, total_bytes: int, progress: Progress | None) -> None:
        self._source = source
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._progress = progress

    def write(self, facts: TensorFacts, writer: ObjectWriter, offset: int, passing: Callable[[Array], None]) -> None:
        """Write a tensor's bytes from `offset` on, showing each part to `passing` too."""
        end = offset + facts.size_bytes
        for part in self._source.stream(facts.name):
            data = part.view("u1")
            if offset + len(data) > end:
                break
            passing(data)
            writer.write(offset, data.data)
            offset += len(data)
            self._done_bytes += len(data)
            if self._progress is not None:
                self._progress(self._done_bytes, self._total_bytes)
        if offset != end:
            raise CorruptionError(
                f"tensor {facts.name!r} does not have the size of its shape", key=self._source.location
            )
