"""What agents and their coordinator tell each other ⇄ the messages of `AgentService.Attend`, both ways."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    Fenced,
    FromAgent,
    FromCoordinator,
    Go,
    Guest,
    HeardEnd,
    Hello,
    NotYet,
    Owed,
    PartFailed,
    PartSealed,
    Receipt,
    Replaced,
    SaveEnded,
    TrialReport,
)
from ckptd.errors import InvalidRequestError
from ckptd.storage.pace import UploadLimits
from ckptd.wire import convert, shares, status, versions
from ckptd.wire.declared import declaration_from_wire, declaration_to_wire
from ckptd.wire.v1 import agent_pb2

_term = convert.term_from_wire
_MOST_PART_BYTES, _LEAST_RATE = 1 << 30, 0.01
_KNOWN_LIVES = 1 << 12


def from_agent_to_wire(message: FromAgent) -> agent_pb2.AgentMessage:
    """Return the message for what an agent tells."""
    agent = life_to_wire(message.agent)
    match message:
        case Hello():
            hello = agent_pb2.Hello(
                agent=agent,
                root_id=message.root_id,
                highest_term=message.highest_term,
                addresses=message.addresses,
                labels=[agent_pb2.Label(name=name, value=value) for name, value in message.labels],
                members=message.members,
                saves=[_carried_to_wire(each) for each in message.saves],
                peer=versions.this_peer(message.agent.incarnation),
                trial=None if message.trial is None else _trial_to_wire(message.trial),
            )
            return agent_pb2.AgentMessage(hello=hello)
        case Beat(term=term, owed=owed, reading=reading, is_last=is_last):
            told = [_owed_to_wire(each) for each in owed]
            ends = [agent_pb2.HeardEnd(save=each.save, request_id=each.request_id) for each in message.ends]
            beat = agent_pb2.Beat(agent=agent, term=term, owed=told, reading=reading, ends=ends, is_last=is_last)
            return agent_pb2.AgentMessage(beat=beat)
        case DeclareHost(term=term, declaration=declaration):
            said = declaration_to_wire(declaration)
            return agent_pb2.AgentMessage(declare=agent_pb2.DeclareHost(agent=agent, term=term, declaration=said))
        case PartSealed(term=term, request_id=request_id, save=save, receipts=receipts):
            sealed = agent_pb2.PartSealed(agent=agent, term=term, request_id=request_id, save=save)
            sealed.receipts.extend(_receipt_to_wire(each) for each in receipts)
            return agent_pb2.AgentMessage(sealed=sealed)
        case PartFailed(term=term, request_id=request_id, save=save, reason=reason, rank=rank, error=error):
            failed = agent_pb2.PartFailed(
                agent=agent, term=term, request_id=request_id, save=save, reason=reason, rank=rank
            )
            failed.error = b"" if error is None else status.pack(error)
            return agent_pb2.AgentMessage(failed=failed)


def from_agent_from_wire(message: agent_pb2.AgentMessage) -> FromAgent:
    """Read and check what an agent tells."""
    match message.WhichOneof("kind"):
        case "hello":
            hello = message.hello
            versions.check_peer(hello.peer, role="agent")
            return Hello(
                life_from_wire(hello.agent),
                convert.text_from_wire(hello.root_id),
                _term(hello.highest_term),
                tuple(convert.text_from_wire(each) for each in hello.addresses),
                tuple((convert.text_from_wire(each.name), convert.text_from_wire(each.value)) for each in hello.labels),
                tuple(hello.members),
                tuple(_carried_from_wire(each) for each in hello.saves),
                _trial_from_wire(hello.trial) if hello.HasField("trial") else None,
            )
        case "beat":
            beat = message.beat
            owed = tuple(_owed_from_wire(each) for each in beat.owed)
            reading = tuple(convert.key_from_wire(each) for each in beat.reading)
            ends = tuple(_end_from_wire(each) for each in beat.ends)
            return Beat(life_from_wire(beat.agent), _term(beat.term), owed, reading, ends, beat.is_last)
        case "declare":
            declare = message.declare
            said = declaration_from_wire(declare.declaration)
            return DeclareHost(life_from_wire(declare.agent), _term(declare.term), said)
        case "sealed":
            sealed = message.sealed
            receipts = tuple(_receipt_from_wire(each) for each in sealed.receipts)
            agent, request_id = life_from_wire(sealed.agent), convert.request_id_from_wire(sealed.request_id)
            return PartSealed(agent, _term(sealed.term), request_id, _save(sealed.save), receipts)
        case "failed":
            failed = message.failed
            agent, request_id = life_from_wire(failed.agent), convert.request_id_from_wire(failed.request_id)
            reason = convert.text_from_wire(failed.reason)
            rank = failed.rank if failed.HasField("rank") else None
            error = status.unpack(failed.error) if failed.error else None
            return PartFailed(agent, _term(failed.term), request_id, _save(failed.save), reason, rank, error)
        case "end_seen":
            seen = message.end_seen
            ends = (_end_from_wire(seen),) if seen.save and seen.is_sole else ()
            return Beat(life_from_wire(seen.agent), _term(seen.term), ends=ends)
    raise InvalidRequestError("an agent says what is unknown here")


def _trial_to_wire(trial: TrialReport) -> agent_pb2.TrialReport:
    return agent_pb2.TrialReport(
        word=trial.word,
        place=_printable(trial.place),
        got_lock=trial.got_lock,
        problem=_printable(trial.problem),
    )


def _printable(text: str) -> str:
    """Return a text without bytes of a path that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _trial_from_wire(trial: agent_pb2.TrialReport) -> TrialReport:
    word, place, problem = (convert.text_from_wire(each) for each in (trial.word, trial.place, trial.problem))
    return TrialReport(word, place, trial.got_lock, problem)


def from_coordinator_to_wire(message: FromCoordinator, run: str = "") -> agent_pb2.CoordinatorMessage:
    """Return the message for what a coordinator tells; `run`: the one that a save is of."""
    match message:
        case Attached(term=term, lease_s=lease_s, ends=over, hears=hears):
            attached = agent_pb2.Attached(term=term, lease_s=lease_s, ends=over, hears=hears)
            return agent_pb2.CoordinatorMessage(attached=attached)
        case Fenced(term=term, holder=holder):
            return agent_pb2.CoordinatorMessage(fenced=agent_pb2.Fenced(term=term, holder=holder))
        case Replaced(term=term, by=by):
            return agent_pb2.CoordinatorMessage(replaced=agent_pb2.Replaced(term=term, by=life_to_wire(by)))
        case NotYet(term=term, request_id=request_id, reason=reason):
            not_yet = agent_pb2.NotYet(term=term, request_id=request_id, reason=reason)
            return agent_pb2.CoordinatorMessage(not_yet=not_yet)
        case Go():
            go = agent_pb2.Go(
                term=message.term,
                request_id=message.request_id,
                save=message.save,
                num_shards=message.num_shards,
                shard=message.shard,
                key=message.key,
                size_bytes=message.size_bytes,
                layout_digest=message.layout_digest,
                share=None if message.share is None else shares.share_to_wire(message.share),
                prefix_key=message.prefix_key,
                attempt=message.attempt,
                guests=[agent_pb2.Guest(rank=e.rank, incarnation=e.incarnation, host=e.host) for e in message.guests],
                passing=[shares.passing_to_wire(each) for each in message.passing],
                part_bytes=message.limits.part_bytes,
                uploads_at_once=message.limits.at_once,
                requests_per_s=message.limits.requests_per_s,
            )
            return agent_pb2.CoordinatorMessage(go=go)
        case SaveEnded():
            checkpoint = message.checkpoint
            ended = agent_pb2.SaveEnded(
                term=message.term,
                request_id=message.request_id,
                save=message.save,
                prefix=message.prefix,
                reason=message.reason,
                unknown=not message.is_known,
                checkpoint=None if checkpoint is None else convert.checkpoint_to_wire(checkpoint, run),
                error=b"" if message.error is None else status.pack(message.error),
                index_crc32c=message.index_crc32c,
            )
            return agent_pb2.CoordinatorMessage(ended=ended)


def from_coordinator_from_wire(message: agent_pb2.CoordinatorMessage) -> FromCoordinator:
    """Read and check what a coordinator tells."""
    match message.WhichOneof("kind"):
        case "attached":
            attached = message.attached
            lease_s, over = convert.seconds_from_wire("lease_s", attached.lease_s), attached.ends
            return Attached(_term(attached.term), lease_s, tuple(_save(each) for each in over), attached.hears)
        case "fenced":
            return Fenced(_term(message.fenced.term), convert.text_from_wire(message.fenced.holder))
        case "replaced":
            return Replaced(_term(message.replaced.term), life_from_wire(message.replaced.by))
        case "not_yet":
            said = message.not_yet
            request_id, reason = convert.request_id_from_wire(said.request_id), convert.text_from_wire(said.reason)
            return NotYet(_term(said.term), request_id, reason)
        case "go":
            return _go_from_wire(message.go)
        case "ended":
            ended = message.ended
            has_checkpoint = ended.HasField("checkpoint")
            return SaveEnded(
                _term(ended.term),
                convert.request_id_from_wire(ended.request_id),
                _save(ended.save),
                ended.prefix,
                ended.reason,
                is_known=not ended.unknown,
                checkpoint=convert.checkpoint_from_wire(ended.checkpoint) if has_checkpoint else None,
                error=status.unpack(ended.error) if ended.error else None,
                index_crc32c=ended.index_crc32c if ended.HasField("index_crc32c") else None,
            )
    raise InvalidRequestError("a coordinator says what is unknown here")


def life_from_wire(message: agent_pb2.AgentLife) -> AgentLife:
    """Read and check which agent speaks: all of its messages say the same, and give the same value."""
    return _life(message.SerializeToString())


@lru_cache(_KNOWN_LIVES)
def _life(data: bytes) -> AgentLife:
    message = agent_pb2.AgentLife.FromString(data)
    host = convert.text_from_wire(message.host)
    if not host or host != message.host or not math.isfinite(message.born):
        raise InvalidRequestError("an agent says on which host it is, by a printable name", actual=message.host[:64])
    incarnation = convert.request_id_from_wire(message.incarnation)
    boot, started_by = convert.text_from_wire(message.boot), convert.text_from_wire(message.started_by)
    return AgentLife(host, incarnation, message.born, boot, started_by)


def life_to_wire(life: AgentLife) -> agent_pb2.AgentLife:
    """Return the message for one life of an agent."""
    return agent_pb2.AgentLife(
        host=life.host, incarnation=life.incarnation, born=life.born, boot=life.boot, started_by=life.started_by
    )


def _carried_to_wire(carried: CarriedSave) -> agent_pb2.CarriedSave:
    message = agent_pb2.CarriedSave(
        declaration=declaration_to_wire(carried.declaration),
        save=carried.save,
        layout_digest=carried.layout_digest,
    )
    if carried.receipts is not None:
        message.sealed.SetInParent()
        message.sealed.receipts.extend(_receipt_to_wire(each) for each in carried.receipts)
    return message


def _carried_from_wire(message: agent_pb2.CarriedSave) -> CarriedSave:
    receipts = None
    if message.HasField("sealed"):
        receipts = tuple(_receipt_from_wire(each) for each in message.sealed.receipts)
    return CarriedSave(declaration_from_wire(message.declaration), _save(message.save), message.layout_digest, receipts)


def _receipt_to_wire(receipt: Receipt) -> agent_pb2.Receipt:
    return agent_pb2.Receipt(
        save=receipt.save,
        by=life_to_wire(receipt.by),
        shard=receipt.shard,
        key=receipt.key,
        size_bytes=receipt.size_bytes,
        version=receipt.version,
        durability=convert.durability_to_wire(receipt.durability),
        sums=receipt.sums,
    )


def _receipt_from_wire(message: agent_pb2.Receipt) -> Receipt:
    return Receipt(
        _save(message.save),
        life_from_wire(message.by),
        message.shard,
        convert.key_from_wire(message.key),
        message.size_bytes,
        message.version,
        convert.durability_from_wire(message.durability),
        message.sums,
    )


def _go_from_wire(message: agent_pb2.Go) -> Go:
    shard = message.shard if message.HasField("shard") else None
    go = Go(
        _term(message.term),
        convert.request_id_from_wire(message.request_id),
        _save(message.save),
        message.num_shards,
        shard,
        convert.key_from_wire(message.key) if shard is not None else "",
        message.size_bytes,
        message.layout_digest,
        prefix_key=convert.key_from_wire(message.prefix_key) if message.prefix_key else "",
        attempt=message.attempt,
        guests=tuple(
            Guest(each.rank, convert.request_id_from_wire(each.incarnation), convert.text_from_wire(each.host))
            for each in message.guests
        ),
        passing=tuple(shares.passing_from_wire(each, message.num_shards) for each in message.passing),
        limits=_limits_from_wire(message),
    )
    if shard is None or not message.HasField("share"):
        return go
    if not 0 <= shard < message.num_shards or message.size_bytes < 0:
        raise InvalidRequestError("a host is told to write a shard that there is not", actual=shard)
    return replace(go, share=shares.share_from_wire(message.share, shard, message.num_shards, message.size_bytes))


def _limits_from_wire(go: agent_pb2.Go) -> UploadLimits:
    rate = go.requests_per_s
    if not 0 <= go.part_bytes <= _MOST_PART_BYTES or not (math.isfinite(rate) and (rate == 0 or rate >= _LEAST_RATE)):
        raise InvalidRequestError("a host is told to send in a way that there is not", actual=(go.part_bytes, rate))
    return UploadLimits(go.part_bytes, go.uploads_at_once, rate)


def _owed_to_wire(owed: Owed) -> agent_pb2.Owed:
    ranks, sizes = [rank for rank, _ in owed.by_rank], [size for _, size in owed.by_rank]
    return agent_pb2.Owed(save=owed.save, bytes=owed.size_bytes, ranks=ranks, rank_bytes=sizes)


def _owed_from_wire(message: agent_pb2.Owed) -> Owed:
    if len(message.ranks) != len(message.rank_bytes):
        raise InvalidRequestError("each rank that owes bytes is told with how many", expected=len(message.ranks))
    by_rank = tuple((rank, max(0, size)) for rank, size in zip(message.ranks, message.rank_bytes, strict=True))
    return Owed(_save(message.save), max(0, message.bytes), by_rank)


def _end_from_wire(message: agent_pb2.HeardEnd | agent_pb2.EndSeen) -> HeardEnd:
    return HeardEnd(convert.request_id_from_wire(message.save), convert.request_id_from_wire(message.request_id))


def _save(value: str) -> str:
    return convert.request_id_from_wire(value) if value else ""
