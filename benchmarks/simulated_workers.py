"""Workers that exist on the wire only: they join, declare, send and await as a `Checkpointer` does, many to a process.

A real one needs threads of its own, and Python's gRPC wakes each of them several times a second: a thousand would
keep the cores of one host busy with nothing. These share an event loop, and a connection among twenty-five, as
the daemon allows 256 streams on each. Messages are made and read by the same code as a real worker's.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import numpy as np
from grpc import aio

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment, Lane
from ckptd.engine.manifest import Manifest
from ckptd.errors import CkptdError, UnavailableError
from ckptd.format import crc32c
from ckptd.wire import addresses, chunks, convert, lanes, manifests, methods, status, versions
from ckptd.wire.channels import COMMON_OPTIONS
from ckptd.wire.v1 import save_pb2

COLUMNS = 4  # of each tensor, float32
FLOAT32 = 1
SLICE_BYTES = 4 * COLUMNS
WORKERS_PER_CONNECTION = 25
_RUN = "many"
_OPTIONS = RunOptions(max_to_keep=2)
_TIMEOUT_S = 600.0
_AWAIT_S = 15.0
_AGAIN_S = 0.5

T = TypeVar("T")


def manifest_of(rank: int, num_workers: int, num_tensors: int) -> Manifest:
    """Return what a worker brings that holds one row of every tensor."""
    none = np.zeros(num_tensors, np.int64)
    return Manifest(
        names=tuple(f"model/layer_{number:04d}/weights" for number in range(num_tensors)),
        dtypes=(FLOAT32,) * num_tensors,
        full_shapes=((num_workers, COLUMNS),) * num_tensors,
        tensor=np.arange(num_tensors, dtype=np.int64),
        starts=np.tile(np.array([rank, 0], np.int64), num_tensors),
        shapes=np.tile(np.array([1, COLUMNS], np.int64), num_tensors),
        sizes=np.full(num_tensors, SLICE_BYTES, np.int64),
        lengths_sizes=none,
        lengths_crcs=none.astype(np.uint32),
        lengths_covered=none,
    )


def value_of(rank: int, tensor: int) -> float:
    """Return what a worker's row of a tensor is filled with."""
    return float(rank + 1000 * (tensor % 1000))


class SimulatedWorker:
    """One rank. `channel` may be shared with others."""

    def __init__(self, channel: aio.Channel, rank: int, num_workers: int, num_tensors: int) -> None:
        self._channel = channel
        self._member = Member(rank, num_workers, versions.new_incarnation(), "simulated", 1)
        self._peer = versions.this_peer(self._member.incarnation)
        self._manifest = manifest_of(rank, num_workers, num_tensors)
        rows = np.array([value_of(rank, tensor) for tensor in range(num_tensors)], np.float32)
        self._data = memoryview(np.repeat(rows, COLUMNS)).cast("B")
        self._epoch = 0
        self._joined: Any = None

    async def join(self) -> None:
        """Become a member, and stay one until `leave`."""

        async def joined() -> None:
            request = convert.join_to_wire(self._peer, _RUN, self._member, _OPTIONS)
            self._joined = self._call("Join")(request)
            event = await self._joined.read()
            self._epoch = event.welcome.epoch

        await self._again(joined)

    def leave(self) -> None:
        self._joined.cancel()

    async def save(self, step: int) -> None:
        """Save; return once the checkpoint is published."""
        declaration = Declaration(
            save=SaveRef(_RUN, self._epoch, step, rank=self._member.rank, incarnation=self._member.incarnation),
            request_id=uuid.uuid4().hex,
            world_size=self._member.world_size,
            manifest_digest=self._manifest.digest,
            timeout_s=_TIMEOUT_S,
        )
        assignment = await self._declare(convert.declaration_to_wire(declaration))
        for lane in assignment.lanes:
            await self._again(lambda lane=lane: self._send(assignment.save, lane))
        while True:
            request = save_pb2.AwaitRequest(save=convert.save_to_wire(assignment.save), wait_s=_AWAIT_S)
            reply = await self._again(lambda request=request: self._call("Await")(request))
            if reply.phase == save_pb2.SAVE_PHASE_PUBLISHED:
                return

    async def _declare(self, request: save_pb2.DeclareRequest) -> Assignment:
        while True:
            replies = await self._again(lambda: _listed(self._call("Declare")(request)))
            if replies[0].WhichOneof("kind") != "need_manifest":
                return lanes.assignment_from_wire(replies)

            async def parts() -> AsyncIterator[save_pb2.ManifestPart]:
                for part in manifests.manifest_parts(self._manifest):
                    yield part

            await self._again(lambda: self._call("PutManifest")(parts()))

    async def _send(self, save: SaveRef, lane: Lane) -> None:
        segments = [
            self._data[item * SLICE_BYTES + offset : item * SLICE_BYTES + offset + size]
            for item, offset, size in zip(
                lane.items.tolist(), lane.item_offsets.tolist(), lane.sizes.tolist(), strict=True
            )
        ]
        call = self._call("Write")()
        opening = save_pb2.WriteOpen(save=convert.save_to_wire(save), shard=lane.shard)
        await call.write(save_pb2.WriteRequest(open=opening))
        received = (await call.read()).received
        data = b"".join(segments)
        for at in range(received, len(data), chunks.CHUNK_BYTES):
            part = data[at : at + chunks.CHUNK_BYTES]
            await call.write(chunks.Chunk(at, crc32c.crc32c(part), part))
        crcs = np.array([crc32c.crc32c(segment) for segment in segments], "<u4").tobytes()
        await call.write(save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=0, crcs=crcs, last=True)))
        while (reply := await call.read()) is not aio.EOF:
            if reply.ended:
                call.cancel()
                return
        raise UnavailableError("the daemon ended the stream before the lane was whole", key=lane.key)

    def _call(self, name: str) -> Any:
        method = methods.SAVE[name]
        kinds = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        make = kinds[method.request_streaming, method.reply_streaming]
        return make(method.path, request_serializer=method.encode_request, response_deserializer=method.decode_reply)

    async def _again(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the daemon has no room for now, as every client does."""
        while True:
            try:
                return await work()
            except grpc.RpcError as error:
                failure = status.from_wire(error)
                if not failure.retryable:
                    raise failure from error
            except CkptdError as failure:
                if not failure.retryable:
                    raise
            await asyncio.sleep(_AGAIN_S)


async def _listed(call: Any) -> list[Any]:
    return [reply async for reply in call]


def connections(address: str, num_workers: int) -> list[aio.Channel]:
    """Return a channel for every twenty-five workers; each has a connection of its own."""
    options = [*COMMON_OPTIONS, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    target = addresses.parse(address).target
    return [aio.insecure_channel(target, options) for _ in range(-(-num_workers // WORKERS_PER_CONNECTION))]
