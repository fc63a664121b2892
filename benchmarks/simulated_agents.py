"""Agents that exist on the wire only: they attend, declare for their ranks, give receipts and hear the end of saves.

They speak the coordinator's real protocol, each over a connection of its own, many to a process, and write no bytes:
what they give receipts for is not there. Messages are made by the same code as a real agent's, once, and sent again
with another step.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc import aio
from plans import GROUP, manifest_of

from ckptd.agent.placing import this_boot
from ckptd.engine.hosts.messages import (
    AgentLife,
    Beat,
    DeclareHost,
    FromAgent,
    Go,
    HeardEnd,
    Hello,
    HostDeclaration,
    PartSealed,
    RankPart,
    Receipt,
    SaveEnded,
)
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.storage.base import Durability
from ckptd.wire import addresses, agents, convert, manifests, methods, shares, status, versions
from ckptd.wire.channels import COMMON_OPTIONS
from ckptd.wire.parts import MOST_TOLD_BYTES, Joined
from ckptd.wire.v1 import agent_pb2, common_pb2

RUN = "hosts"
_OPTIONS = RunOptions(max_to_keep=2)
_CALL_S = 120.0
_AGAIN_S = 0.3
_AT_ONCE = 8  # calls of one process

T = TypeVar("T")


@dataclass
class Counted:
    """Bytes of messages, without what gRPC and HTTP/2 add."""

    up: int = 0
    down: int = 0


class SimulatedAgent:
    """One host. See the module."""

    def __init__(self, channel: aio.Channel, number: int, num_hosts: int, held: Sequence[Manifest]) -> None:
        self._channel, self._counted = channel, Counted()
        born = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.life = AgentLife(f"host-{number}", secrets.token_hex(16), born, this_boot())
        self._manifests = held
        ranks = range(number * GROUP, (number + 1) * GROUP)
        self._members = [Member(rank, num_hosts * GROUP, secrets.token_hex(16), self.life.host, 1) for rank in ranks]
        self._epochs = [0] * GROUP
        self._term, self._num_sums, self._layout = 0, 0, b""
        self._said: HostDeclaration | None = None
        self._go: asyncio.Future[Go] = asyncio.Future()
        self._ended: asyncio.Future[float] = asyncio.Future()
        self._ends: dict[str, HeardEnd] = {}  # that the coordinator has not answered
        self._attending: Any = None
        self._telling = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    async def attend(self, root_id: str) -> None:
        """Attend, hand over the manifests, and get each rank its place."""
        hello = Hello(self.life, root_id, 0, members=tuple(member.rank for member in self._members))
        self._attending = self._call("Attend")()
        await self._tell(hello)
        first = await self._attending.read()
        self._term, lease_s = first.attached.term, first.attached.lease_s
        self._listening = asyncio.create_task(self._listen())
        self._beating = asyncio.create_task(self._beat(lease_s / 5))

    async def place(self) -> None:
        """Get each rank its place."""
        for at, member in enumerate(self._members):
            peer = common_pb2.Peer(incarnation=member.incarnation, host=member.host, pid=1, version=versions.VERSION)
            join = convert.join_to_wire(peer, RUN, member, _OPTIONS)
            request = agent_pb2.PlaceRequest(join=join, host=self.life.host)
            reply = await self._again(lambda request=request: self._call("Place")(self._sent(request), timeout=_CALL_S))
            self._epochs[at] = reply.epoch

    async def hand_over(self) -> None:
        """Hand the manifests of the ranks over."""
        for manifest in self._manifests:

            async def parts(manifest: Manifest = manifest) -> Any:
                for part in manifests.manifest_parts(manifest):
                    yield self._sent(part)

            await self._again(lambda parts=parts: self._call("PutManifest", methods.SAVE)(parts(), timeout=_CALL_S))

    async def declare(self, step: int) -> None:
        """Declare a step."""
        self._go, self._ended = asyncio.Future(), asyncio.Future()
        words = hashlib.sha256(b"".join(each.digest for each in self._manifests)).digest()
        said = HostDeclaration(
            secrets.token_hex(24),
            RUN,
            step,
            tuple(member.rank for member in self._members),
            self._members[0].world_size,
            words,
            sum(each.size_bytes for each in self._manifests),
            since_term=self._term,
            parts=tuple(self._parts(step)),
            known_layout=self._layout,
        )
        self._said = said
        await self._tell(DeclareHost(self.life, self._term, said))

    async def planned(self) -> int:
        """Return how many slices this host is told to write."""
        await self._go
        return self._num_sums

    def _parts(self, step: int) -> Iterator[RankPart]:
        for member, epoch, manifest in zip(self._members, self._epochs, self._manifests, strict=True):
            declaration = Declaration(
                save=SaveRef(RUN, epoch, step, rank=member.rank, incarnation=member.incarnation),
                request_id=secrets.token_hex(16),
                world_size=member.world_size,
                manifest_digest=manifest.digest,
                timeout_s=3600.0,
            )
            yield RankPart(member, _OPTIONS, declaration)

    async def seal(self, sums: bytes) -> float:
        """Give the receipt; return when it was sent."""
        go = self._go.result()
        receipts: tuple[Receipt, ...] = ()
        if go.shard is not None:
            receipt = Receipt(
                go.save,
                self.life,
                go.shard,
                go.key,
                go.size_bytes,
                "1",
                Durability.LOCAL_DISK,
                sums[: 4 * self._num_sums],
            )
            receipts = (receipt,)
        at = time.monotonic()
        await self._tell(PartSealed(self.life, self._term, go.request_id, go.save, receipts))
        return at

    async def ended(self) -> float:
        """Return when the end was heard; the next beat says that it was."""
        at = await self._ended
        go = self._go.result()
        self._ends[go.save] = HeardEnd(go.save, go.request_id)
        return at

    async def leave(self) -> None:
        """Attend no more."""
        for task in (self._beating, self._listening):
            if task is not None:
                task.cancel()
        self._attending.cancel()
        await self._channel.close()

    def counted(self) -> Counted:
        """Return the bytes since the last call."""
        counted, self._counted = self._counted, Counted()
        return counted

    async def _listen(self) -> None:
        joined = Joined(agent_pb2.CoordinatorMessage, MOST_TOLD_BYTES)
        while (part := await self._attending.read()) is not aio.EOF:
            self._counted.down += part.ByteSize()
            message = joined.add(part)
            if message is None:
                continue
            match message.WhichOneof("kind"):
                case "go" if not self._go.done():
                    self._take(message.go)
                case "attached":  # to a beat
                    for save in message.attached.ends:
                        self._ends.pop(save, None)
                case "fenced" | "replaced":
                    raise SystemExit(f"the coordinator answered {message}")
                case "ended":
                    ended = agents.from_coordinator_from_wire(message)
                    if isinstance(ended, SaveEnded) and ended.checkpoint is None:
                        raise SystemExit(f"{self.life}: {ended.reason}")
                    if not self._ended.done():
                        self._ended.set_result(time.monotonic())

    def _take(self, go: agent_pb2.Go) -> None:
        if go.HasField("share"):
            share = shares.share_from_wire(go.share, go.shard, go.num_shards, go.size_bytes)
            self._layout, self._num_sums = go.layout_digest, len(share.segment_size)
        shard = go.shard if go.HasField("shard") else None
        self._go.set_result(
            Go(go.term, go.request_id, go.save, go.num_shards, shard, go.key, go.size_bytes, go.layout_digest)
        )

    async def _beat(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._tell(Beat(self.life, self._term, ends=tuple(self._ends.values())))

    async def _tell(self, message: FromAgent) -> None:
        """Say something by the call by which it attends, as agents do."""
        async with self._telling:
            await self._attending.write(self._sent(agents.from_agent_to_wire(message)))

    def _sent(self, message: Any) -> Any:
        self._counted.up += message.ByteSize()
        return message

    def _call(self, name: str, service: Any = methods.AGENT) -> Any:
        method = service[name]
        kinds = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        make = kinds[method.request_streaming, method.reply_streaming]
        return make(method.path, request_serializer=method.encode_request, response_deserializer=method.decode_reply)

    async def _again(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the coordinator has no room for now, as every agent does."""
        while True:
            try:
                return await work()
            except grpc.RpcError as error:
                failure = status.from_wire(error)
                if not failure.retryable:
                    raise failure from error
            await asyncio.sleep(_AGAIN_S)


def agents_of(address: str, hosts: range, num_hosts: int, num_slices: int) -> list[SimulatedAgent]:
    """Return the agents of some hosts of a job whose tensors are cut into a slice for each rank."""
    options = [*COMMON_OPTIONS, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    target, known = addresses.parse(address).target, KnownManifests()
    made = []
    for host in hosts:
        held = [
            manifest_of(known, "hosts", num_hosts * GROUP, num_slices, rank)
            for rank in range(host * GROUP, (host + 1) * GROUP)
        ]
        made.append(SimulatedAgent(aio.insecure_channel(target, options), host, num_hosts, held))
    return made


async def all_of(works: Sequence[Awaitable[T]], at_once: int = _AT_ONCE) -> list[T]:
    """Do all of it, so many at a time; return the results in order."""
    places = asyncio.Semaphore(at_once)

    async def one(work: Awaitable[T]) -> T:
        async with places:
            return await work

    return list(await asyncio.gather(*(one(work) for work in works)))
