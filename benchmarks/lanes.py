"""One lane, without a network or a disk: how fast a client makes its chunks, and how fast a daemon takes them.

One core, bytes in cache as far as they fit. The limit is one checksum over the same bytes.

    python benchmarks/lanes.py          # 64 MiB of each size, the best of 5 rounds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.saving.lane_source import LaneSource
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Lane
from ckptd.format import crc32c

CHUNK_BYTES = 2 << 20


class Nowhere:
    """A shard's writer that keeps nothing."""

    key, size_bytes = "m.data", 0

    def write(self, offset: int, data: memoryview) -> None:
        """Take and forget."""

    def finish(self) -> None:
        """Never called."""

    def abort(self) -> None:
        """Nothing to free."""


def best_s(work: Callable[[], object], rounds: int) -> float:
    """Return the shortest time that `work` took."""
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def measure(tensor_bytes: int, total_bytes: int, rounds: int) -> None:
    """Print the rates for tensors of one size."""
    count = total_bytes // tensor_bytes
    data = np.random.default_rng(1).integers(0, 255, (count, tensor_bytes), dtype=np.uint8)
    snapshot = Snapshot.take({f"w{number:07}": row for number, row in enumerate(data)}, RoomPool())
    layout = plan((snapshot.manifest,), 1, 4096)
    segments = layout.lane_segments[0, 0]
    lane = Lane(
        0, "m.data", (), total_bytes, layout.segment_item[segments], layout.segment_item_offset[segments],
        layout.segment_size[segments],
    )  # fmt: skip

    def send() -> list[tuple[int, memoryview, int]]:
        source = LaneSource(lane, snapshot, CHUNK_BYTES)
        chunks = [(chunk.position, chunk.joined(), chunk.crc32c) for chunk in source.chunks()]
        list(source.segment_crcs())
        return chunks

    sent = send()

    def receive() -> None:
        writer = LaneWriter(
            layout, 0, 0, Nowhere(), now=time.monotonic, on_end=lambda: None, on_failure=lambda error: None
        )
        for position, chunk, crc in sent:
            writer.write(position, chunk, crc)

    def limit() -> None:
        for _, chunk, _ in sent:
            crc32c.crc32c(chunk)

    gb = total_bytes / 1e9
    rates = {what.__name__: gb / best_s(what, rounds) for what in (limit, send, receive)}
    client, daemon = rates["send"] / rates["limit"], rates["receive"] / rates["limit"]
    print(
        f"{tensor_bytes:>8} B: limit {rates['limit']:5.2f} GB/s; client {rates['send']:5.2f} ({client:.2f} of it), "
        f"daemon {rates['receive']:5.2f} ({daemon:.2f} of it)"
    )
    snapshot.release()


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for tensor_bytes in (1 << 10, 4 << 10, 2 << 20):
        measure(tensor_bytes, given.mib << 20, given.rounds)


if __name__ == "__main__":
    main()
