"""A run as a daemon serves it, for programs without access to its files: a store that can only be read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

import grpc

from ckptd.client.daemon.remote_objects import RemoteObjects
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import ConflictError, NotFoundError
from ckptd.format import names
from ckptd.storage.base import AccessPattern, Buffer, Durability, Lock, ObjectStat, ObjectWriter
from ckptd.wire import convert, status, versions
from ckptd.wire.methods import READ, Stub
from ckptd.wire.v1 import read_pb2


class ServedRun:
    """A `Store` whose root is a run. It has what the daemon lists, and nothing of what the engine notes beside that.

    Attributes:
        run: its name.
        address: the daemon's, as text.
    """

    def __init__(self, channel: grpc.Channel, address: str, run: str, *, timeout_s: float) -> None:
        """Nothing is requested yet. The caller closes the channel."""
        self.run = names.check_run_name(run)
        self.address = address
        self._stub = Stub(channel, READ)
        self._peer = versions.this_peer(versions.new_incarnation())
        self._timeout_s = timeout_s
        self._root = ""
        self._objects = RemoteObjects(self._stub, address, self._peer, "", timeout_s)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first."""
        reply = self._ask("List", read_pb2.ListRequest(peer=self._peer, run=self.run))
        return [convert.checkpoint_from_wire(each) for each in reply.checkpoints]

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, if there is one."""
        reply = self._ask("Latest", read_pb2.LatestRequest(peer=self._peer, run=self.run))
        return convert.checkpoint_from_wire(reply.checkpoint) if reply.HasField("checkpoint") else None

    def _ask(self, method: str, request: Any) -> Any:
        try:
            reply = getattr(self._stub, method)(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise status.from_wire(error, address=self.address) from None
        self._root = reply.root
        return reply

    @property
    def url(self) -> str:
        """Where the daemon keeps the run: a path of its host, or a URL."""
        if not self._root:
            self.latest()
        return f"{self._root}/{self.run}"

    @property
    def durability(self) -> Durability:
        """What each of its checkpoints says of itself counts."""
        return Durability.LOCAL_DISK

    @property
    def access(self) -> AccessPattern:
        """As the daemon's objects are read fastest."""
        return self._objects.access

    @property
    def has_locks(self) -> bool:
        """The daemon keeps others out."""
        return True

    @property
    def verifies_writes(self) -> bool:
        """Nothing is written."""
        return False

    def broken_promises(self) -> Sequence[str]:
        """Those of its store are the daemon's to report."""
        return ()

    def location(self, key: str) -> str:
        """Return where the daemon keeps an object."""
        return f"{self.url}/{key}"

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Store.get`."""
        return self._objects.get(f"{self.run}/{key}", limit_bytes=limit_bytes)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Store.read_into`."""
        self._objects.read_into(f"{self.run}/{key}", offset, *into)

    def stat(self, key: str) -> ObjectStat:
        """See `Store.stat`."""
        found = self._objects.stat(f"{self.run}/{key}")
        return ObjectStat(key, found.size_bytes, found.modified_at, found.version)

    def list(self, directory: str, *, deep: bool = True) -> Iterator[ObjectStat]:
        """Yield the indices of the checkpoints: what else is there belongs to one of them, or to the daemon."""
        for key in self.keys(directory):
            if key.endswith(names.INDEX_SUFFIX):
                try:
                    yield self.stat(key)
                except NotFoundError:
                    continue  # deleted meanwhile

    def keys(self, directory: str, starts_with: str = "") -> Sequence[str]:
        """Return the keys of the checkpoints' files."""
        found: list[str] = []
        for each in self.checkpoints() if not directory else ():
            prefix = each.prefix.rpartition("/")[2]
            found.append(names.index_key(prefix))
            found += [names.shard_key(prefix, shard, each.num_shards) for shard in range(each.num_shards)]
        return sorted(key for key in found if key.startswith(starts_with))

    def free_bytes(self) -> int | None:
        """`ckptd status` knows."""
        return None

    def _refuse(self, what: str) -> NoReturn:
        raise ConflictError(f"a run that a daemon serves can only be read here, and not {what}", key=self.run)

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        """See the class."""
        self._refuse("written to")

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """See the class."""
        self._refuse("written to")

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See the class."""
        self._refuse("written to")

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """See the class."""
        self._refuse("deleted from")

    def sweep_unfinished(
        self,
        directory: str,
        *,
        given_up: Collection[str] = (),
        spare: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Sequence[str]:
        """See the class."""
        self._refuse("swept")

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """See the class."""
        self._refuse("locked")
