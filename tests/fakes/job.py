"""A training job over a coordinator in this process, rank by rank and step by step: for scenarios and fault tests."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.front import Engine
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment, Lane
from ckptd.engine.manifest import Manifest, Part
from ckptd.format.crc32c import crc32c
from ckptd.format.slices import Box

WAIT_S = 60.0
ROWS_PER_RANK = 6


def tensor_of(step: int, world_size: int) -> np.ndarray:
    """The whole of tensor `w` at a step."""
    rows = ROWS_PER_RANK * world_size
    return (np.arange(rows * 4, dtype=np.float32) + 1000 * step).reshape(rows, 4)


class Rank:
    """One process: holds its rows of `w`, and `step` as every other rank does."""

    def __init__(
        self,
        coordinator: Engine,
        rank: int,
        world_size: int,
        *,
        life: str = "a",
        run: str = "runs/r",
        options: RunOptions | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.run = run
        self.options = options or RunOptions()
        self.member = Member(rank, world_size, f"{life}{rank}", "here", 1000 + rank)
        self.epoch = 0
        self.planned: dict[int, Future[Assignment | Checkpoint]] = {}
        self._requests = 0

    def join(self) -> Rank:
        self.epoch = self.coordinator.join(self.run, self.member, self.options)
        return self

    def disconnect(self) -> None:
        self.coordinator.disconnect(self.run, self.member, self.epoch)

    def parts(self, step: int) -> list[np.ndarray]:
        begin = ROWS_PER_RANK * self.member.rank
        rows = tensor_of(step, self.member.world_size)[begin : begin + ROWS_PER_RANK]
        return [rows, np.array(step, np.int64)]

    def manifest(self) -> Manifest:
        world = self.member.world_size
        box = Box((ROWS_PER_RANK * self.member.rank, 0), (ROWS_PER_RANK, 4))
        return Manifest.of(
            [
                Part("w", 1, (ROWS_PER_RANK * world, 4), box, ROWS_PER_RANK * 16),
                Part("step", 9, (), Box((), ()), 8),
            ]
        )

    def declare(
        self, step: int, *, again: bool = False, overwrite: bool = False, timeout_s: float = 600.0
    ) -> Future[Assignment | Checkpoint]:
        self._requests += not again
        manifest = self.manifest()
        self.coordinator.manifests.add(manifest)
        future = self.coordinator.declare(
            Declaration(
                SaveRef(self.run, self.epoch, step, rank=self.member.rank, incarnation=self.member.incarnation),
                request_id=f"{self.member.incarnation}-{self._requests}",
                world_size=self.member.world_size,
                manifest_digest=manifest.digest,
                overwrite=overwrite,
                timeout_s=timeout_s,
                name=self.options.name,
                pad_step_number=self.options.pad_step_number,
            )
        )
        self.planned[step] = future
        return future

    def assignment(self, step: int) -> Assignment:
        planned = self.planned[step].result(WAIT_S)
        assert isinstance(planned, Assignment)
        return planned

    def bytes_of(self, step: int, lane: Lane) -> tuple[bytes, bytes]:
        """The lane's bytes, and its segments' checksums."""
        arrays = self.parts(step)
        pieces = [
            arrays[item].tobytes()[at : at + size]
            for item, at, size in zip(lane.items, lane.item_offsets, lane.sizes, strict=True)
        ]
        return b"".join(pieces), b"".join(crc32c(piece).to_bytes(4, "little") for piece in pieces)

    def send(self, step: int, *, part: float = 1.0) -> None:
        """Send that part of each lane, from where it stands; the whole of it ends the lane."""
        assignment = self.assignment(step)
        for lane in assignment.lanes:
            data, crcs = self.bytes_of(step, lane)
            writer = self.coordinator.lane(assignment.save, lane.shard)
            upto = int(len(data) * part)
            view = memoryview(data)[writer.received : upto]
            writer.write(writer.received, view, crc32c(view))
            if part == 1.0:
                writer.end(0, crcs, last=True)

    def outcome(self, step: int) -> Checkpoint:
        return self.coordinator.outcome(self.assignment(step).save).result(WAIT_S)


def save_all(ranks: list[Rank], step: int, *, overwrite: bool = False) -> Checkpoint:
    """Let every rank save a step; return the checkpoint."""
    for rank in ranks:
        rank.declare(step, overwrite=overwrite)
    for rank in ranks:
        rank.send(step)
    return ranks[0].outcome(step)
