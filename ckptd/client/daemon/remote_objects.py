"""The objects of a daemon's store: through the wire, or straight from disk where this host has them."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np

from ckptd.client.daemon.stream_queue import OVERLAP_BYTES, QueuePlace
from ckptd.client.daemon.told_waits import waits
from ckptd.client.deadline import Backoff, Deadline
from ckptd.errors import CkptdError, CorruptionError, UnavailableError
from ckptd.format import crc32c
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.storage.capabilities import SlicePart
from ckptd.storage.locations import open_store
from ckptd.wire import status
from ckptd.wire.v1 import common_pb2, read_pb2

ROOT_ID_KEY = ".ckptd/id"
_ROOT_ID_LIMIT_BYTES = 4096
_LONG_BYTES = 8 << 20
_REQUEST_BYTES = 64 << 20  # what cannot go straight to its place is held in memory until all of it is here
_LEAST_BYTES = 1 << 20  # shorter requests say nothing of what comes next
_AHEAD_BYTES = 256 << 20  # of what is read next, an agent hears so much
_MOST_RANGES = 32
_TRIAL_S = 3.0  # a bucket may be reachable for the daemon alone


class RemoteObjects:
    """Reads objects through the daemon's ReadService. Any thread may use it; each call is bounded by `timeout_s`."""

    def __init__(
        self, stub: Any, address: str, peer: common_pb2.Peer, root: str, timeout_s: float, *, originals: bool = False
    ) -> None:
        """`originals`: from the store, and no copy of it that the daemon has or gets elsewhere."""
        self._originals = originals
        self._stub = stub
        self._address = address
        self._peer = peer
        self._root = root
        self._timeout_s = timeout_s
        self._line = threading.Semaphore()

    @property
    def access(self) -> AccessPattern:
        """Requests are long, as one call for each block would cost as much as the block; they take turns.

        The daemon takes longer to answer than to send a gap, so several distant ranges are requested at once.
        """
        return AccessPattern(num_readers=4, gap_bytes=256 << 10, request_bytes=_REQUEST_BYTES)

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """Return a whole object; `CorruptionError` when it is larger than `limit_bytes`."""
        size = self.stat(key).size_bytes
        if size > limit_bytes:
            raise CorruptionError("object is too large", key=key, expected=f"at most {limit_bytes} bytes", actual=size)
        data = bytearray(size)
        self.read_into(key, 0, memoryview(data))
        return bytes(data)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into`, one after another, from byte `offset` on; a broken stream goes on where it stopped."""
        self.read_summed(key, offset, *into)

    def read_summed(self, key: str, offset: int, *into: memoryview) -> list[int]:
        """See `SummingObjects`; what arrives is summed when it is put in its place."""
        return self._read(key, offset, into)

    def _read(
        self, key: str, offset: int, into: Sequence[memoryview], about: read_pb2.ReadRequest | None = None
    ) -> list[int]:
        """`about`: what a request says beside the range."""
        places, turn = _Places(into), QueuePlace(self._line)
        with waits.of(key, self._address, places.size_bytes) as wait:
            if places.size_bytes > _LONG_BYTES:
                turn.take(Deadline(self._timeout_s))  # past the deadline it goes on without its turn
            places.on_put = wait.arrived
            try:
                self._fill(key, offset, places, turn, about)
            finally:
                turn.give_up()
        return places.sums

    def _fill(
        self, key: str, offset: int, places: _Places, turn: QueuePlace, about: read_pb2.ReadRequest | None
    ) -> None:
        size, done = places.size_bytes, 0
        deadline, backoff = Deadline(self._timeout_s), Backoff()
        while done < size:
            try:
                for block in self.blocks(key, offset + done, size - done, deadline, about):
                    if len(block) > size - done:
                        raise CorruptionError("the daemon sent more than was requested", key=key, offset=offset + done)
                    done += len(block)
                    places.put(block)
                    if size - done <= OVERLAP_BYTES:
                        turn.give_up()  # the next is opened while the rest of this one is under way
                if done < size:
                    raise CorruptionError(
                        "object ends early", key=key, offset=offset, expected=f"{size} bytes", actual=done
                    )
            except UnavailableError as error:
                _pause(error, deadline, backoff)

    def stat(self, key: str) -> ObjectStat:
        """Describe one object; `NotFoundError` if there is none."""
        deadline, backoff = Deadline(self._timeout_s), Backoff()
        while True:
            try:
                for reply in self._replies(key, 0, 0, deadline):
                    if isinstance(reply, read_pb2.ReadReply):
                        return ObjectStat(key, reply.object_size, reply.modified_at, reply.version)
                raise CorruptionError("the daemon did not describe the object", key=key)
            except UnavailableError as error:
                _pause(error, deadline, backoff)

    def _then(self, key: str, end: int) -> Sequence[read_pb2.ObjectRange]:
        return ()

    def location(self, key: str) -> str:
        """Return where the daemon keeps it."""
        return f"{self._root}/{key}" if self._root else key

    def blocks(
        self, key: str, offset: int, size: int, deadline: Deadline, about: read_pb2.ReadRequest | None = None
    ) -> Iterator[memoryview]:
        """Yield the bytes of a range as the daemon sends them, in one call."""
        for reply in self._replies(key, offset, size, deadline, about):
            data = memoryview(reply.data) if isinstance(reply, read_pb2.ReadReply) else reply
            if len(data):
                yield data

    def _replies(
        self, key: str, offset: int, size: int, deadline: Deadline, about: read_pb2.ReadRequest | None = None
    ) -> Iterator[Any]:
        request = read_pb2.ReadRequest(
            peer=self._peer,
            key=key,
            offset=offset,
            size=size,
            originals=self._originals,
            then=self._then(key, offset + size) if size >= _LEAST_BYTES else (),
        )
        if about is not None:
            request.MergeFrom(about)
        call = self._stub.Read(request, timeout=max(deadline.remaining_s, 0.001))
        try:
            yield from call
        except grpc.RpcError as error:
            raise status.from_wire(error, address=self._address) from None
        finally:
            call.cancel()


class PooledRemoteObjects(RemoteObjects):
    """The objects of an agent, which reads them together with those of other hosts: what comes is a copy."""

    def __init__(self, stub: Any, address: str, peer: common_pb2.Peer, root: str, timeout_s: float) -> None:
        super().__init__(stub, address, peer, root, timeout_s)
        self._beneath = RemoteObjects(stub, address, peer, root, timeout_s, originals=True)
        self._foreseen: list[tuple[str, int, int]] = []

    def foresee(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """See `ForeseeingObjects`."""
        self._foreseen = sorted(ranges)

    def read_parts(self, key: str, offset: int, slices: Sequence[SlicePart], *into: memoryview) -> None:
        """See `CheckingObjects`. The agent of this host compares: it is trusted as this process is."""
        parts = [
            read_pb2.SlicePart(offset=of.offset, size=of.size, crc32c=of.crc32c, wanted_bytes=of.wanted_bytes)
            for of in slices
        ]
        about = read_pb2.ReadRequest(slices=parts, num_ranks=_num_ranks_here())
        self._read(key, offset, into, about)

    def _then(self, key: str, end: int) -> list[read_pb2.ObjectRange]:
        """Return what is read next after a byte of an object, as far as an agent may read ahead."""
        foreseen, found, left = self._foreseen, list[read_pb2.ObjectRange](), _AHEAD_BYTES
        at = bisect_right(foreseen, (key, end, 1 << 63)) - 1  # in the order in which they are read, and so of keys
        if at < 0 or foreseen[at][0] != key or end > foreseen[at][1] + foreseen[at][2]:
            return []
        for n in range(at, len(foreseen)):
            of, offset, size = foreseen[n]
            if n == at:
                offset, size = end, offset + size - end
            if size:
                found.append(read_pb2.ObjectRange(key=of, offset=offset, size=min(size, left)))
                left -= min(size, left)
            if not left or len(found) == _MOST_RANGES:
                break
        return found

    @property
    def beneath(self) -> Objects:
        """See `LayeredObjects`: read from the store, as a copy was damaged."""
        return self._beneath


def objects_for(stub: Any, address: str, peer: common_pb2.Peer, root: str, root_id: str, timeout_s: float) -> Objects:
    """Return the objects below a daemon's root: the directory itself where this host sees it, else the daemon's.

    A path may mean another directory here than on the daemon's host, so the daemon tells what its own contains. An
    agent of one host of many does not where it reads for all: no process beside it has to reach the store.
    """
    if root and not root_id:
        return PooledRemoteObjects(stub, address, peer, root, timeout_s)
    if root and root_id:
        try:
            trial = open_store(root, patience_s=_TRIAL_S)
            if (
                trial.get(ROOT_ID_KEY, limit_bytes=_ROOT_ID_LIMIT_BYTES).decode("utf-8", "replace").strip()
                == root_id.strip()
            ):
                return open_store(root)
        except CkptdError:
            pass  # not on this host, or not readable by us
    return RemoteObjects(stub, address, peer, root, timeout_s)


def _num_ranks_here() -> int:
    """Return how many ranks of this host read about as much as this one, as torchrun and others say."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1


class _Places:
    """Memory that is filled from its beginning to its end.

    Attributes:
        size_bytes: of all of it.
        sums: the CRC-32C of what has been put into each part.
        on_put: is called with the size of each block that has been put there.
    """

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = [part.cast("B") for part in parts]
        self._part = self._filled = 0
        self.size_bytes = sum(map(len, self._parts))
        self.sums = [0] * len(parts)
        self.on_put: Callable[[int], object] = lambda size_bytes: None

    def put(self, block: memoryview) -> None:
        """Copy a block to where the last one ended."""
        self.on_put(len(block))
        while len(block):
            part = self._parts[self._part][self._filled :]
            count = min(len(block), len(part))
            # numpy releases the interpreter's lock meanwhile: gRPC's thread puts the next block together.
            np.copyto(np.frombuffer(part, np.uint8, count), np.frombuffer(block, np.uint8, count))
            self.sums[self._part] = crc32c.extend(self.sums[self._part], block[:count])
            block = block[count:]
            self._filled += count
            if count == len(part):
                self._part, self._filled = self._part + 1, 0


def _pause(error: UnavailableError, deadline: Deadline, backoff: Backoff) -> None:
    """Wait before the next attempt; raise the error when there is no time for one, or none would succeed."""
    pause_s = backoff.next_s(deadline)
    if error.is_answer or deadline.remaining_s <= pause_s:
        raise error
    time.sleep(pause_s)
