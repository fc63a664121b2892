"""One rank that speaks the wire's words by hand: no client code of ours, so that each side is tested by itself."""

from __future__ import annotations

import uuid

import numpy as np

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.manifest import Manifest, Part
from ckptd.format import dtypes
from ckptd.format.crc32c import crc32c
from ckptd.format.slices import Box
from ckptd.wire import convert, lanes, manifests, methods, versions
from ckptd.wire.chunks import CHUNK_BYTES, Chunk
from ckptd.wire.v1 import save_pb2

WAIT_S = 60


class Worker:
    """Rank `rank` of `world_size`. `arrays`: name to (array, full shape, start)."""

    def __init__(self, channel, rank, world_size, run="runs/a"):
        self.stub = methods.Stub(channel, methods.SAVE)
        self.run, self.rank, self.world_size = run, rank, world_size
        self.incarnation = versions.new_incarnation()
        self.membership = None

    def join(self, options=None):
        request = convert.join_to_wire(
            versions.this_peer(self.incarnation),
            self.run,
            Member(self.rank, self.world_size, self.incarnation),
            options or RunOptions(),
        )
        self.membership = self.stub.Join(request)
        self.epoch = next(self.membership).welcome.epoch
        return self

    def declare(self, step, arrays, *, overwrite=False, timeout_s=60.0):
        """Start a declaration; returns the call, whose replies make the assignment."""
        self.stored = [np.ascontiguousarray(array).tobytes() for array, _, _ in arrays.values()]
        manifest = Manifest.of(
            Part(name, dtypes.of_array_dtype(array.dtype).number, full, Box(start, array.shape), array.nbytes)
            for name, (array, full, start) in arrays.items()
        )
        self.stub.PutManifest(manifests.manifest_parts(manifest), timeout=WAIT_S)
        save = SaveRef(self.run, self.epoch, step, rank=self.rank, incarnation=self.incarnation)
        declaration = Declaration(
            save, uuid.uuid4().hex, self.world_size, manifest.digest, overwrite=overwrite, timeout_s=timeout_s
        )
        return self.stub.Declare(convert.declaration_to_wire(declaration), timeout=WAIT_S)

    def assigned(self, declared):
        self.assignment = lanes.assignment_from_wire(declared)
        return self.assignment

    def requests(self, lane, start=0):
        yield save_pb2.WriteRequest(
            open=save_pb2.WriteOpen(save=convert.save_to_wire(self.assignment.save), shard=lane.shard)
        )
        segments = [
            self.stored[item][offset : offset + size]
            for item, offset, size in zip(lane.items, lane.item_offsets, lane.sizes, strict=True)
        ]
        data = b"".join(segments)
        for at in range(start, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            yield Chunk(at, crc32c(chunk), chunk)
        crcs = np.array([crc32c(segment) for segment in segments], "<u4").tobytes()
        yield save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=0, crcs=crcs, last=True))

    def send(self):
        for lane in self.assignment.lanes:
            *_, last = self.stub.Write(self.requests(lane), timeout=WAIT_S)
            assert last.ended
            assert last.received == lane.size_bytes

    def outcome(self, wait_s=20.0):
        request = save_pb2.AwaitRequest(save=convert.save_to_wire(self.assignment.save), wait_s=wait_s)
        return self.stub.Await(request, timeout=WAIT_S)
