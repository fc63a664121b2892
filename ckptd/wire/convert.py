"""Messages ⇄ engine values. `from_wire` checks what comes from another program.

Whatever comes out of a ``*_from_wire`` here has numbers in range and names that cannot leave the root; anything else
is an `InvalidRequestError` that says which field was wrong. Manifests are in `manifests`, lanes in `lanes`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from ckptd.engine.catalog.retention import Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.replicas import MOST_PARTS, MOST_REMARKS, Compared, Difference, Remark
from ckptd.engine.saves.starts import Restoring
from ckptd.engine.series import NamedStep
from ckptd.errors import InvalidRequestError
from ckptd.format import names
from ckptd.storage.base import Durability
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, save_pb2

if TYPE_CHECKING:
    from ckptd.engine.offline.repair import Repaired
    from ckptd.engine.saves.session import Phase

MAX_WORLD_SIZE = 1 << 16
MAX_CALL = 1 << 53
_MAX_ROWS = 1 << 31
MAX_EPOCH = MAX_TERM = 1 << 53
MAX_TIMEOUT_S = 7 * 24 * 3600.0
_MOST_REPAIRED = 500  # of each kind in one answer
MAX_META_GRAPH_BYTES = 3 << 20  # it travels in one message

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}", re.ASCII)

_DURABILITY_TO_WIRE = {
    Durability.MEMORY: common_pb2.DURABILITY_MEMORY,
    Durability.LOCAL_DISK: common_pb2.DURABILITY_LOCAL_DISK,
    Durability.OBJECT_STORE: common_pb2.DURABILITY_OBJECT_STORE,
}
_DURABILITY_FROM_WIRE: dict[int, Durability] = {number: level for level, number in _DURABILITY_TO_WIRE.items()}


def durability_to_wire(level: Durability) -> common_pb2.Durability:
    """Return the wire's word for a durability level."""
    return _DURABILITY_TO_WIRE[level]


def durability_from_wire(number: int) -> Durability:
    """Return the level; one that a newer peer invented counts as the least."""
    return _DURABILITY_FROM_WIRE.get(number, Durability.MEMORY)


def phase_to_wire(phase: Phase | None) -> save_pb2.SavePhase:
    """Return the wire's word for a phase; None is "no trace of it". An aborted save is an error instead."""
    if phase is None:
        return save_pb2.SAVE_PHASE_UNKNOWN
    return cast("save_pb2.SavePhase", save_pb2.SavePhase.Value(f"SAVE_PHASE_{phase.name}"))


def run_from_wire(run: str) -> str:
    """Check the name of a run."""
    return names.check_run_name(run)


def key_from_wire(key: str) -> str:
    """Check the key of an object that a client wants to read: below the root, and nothing that the engine hides."""
    try:
        return names.check_run_name(key)
    except InvalidRequestError as e:
        raise InvalidRequestError(e.reason.replace("run name", "key", 1)) from e


def step_from_wire(step: int) -> int:
    """Check a training step."""
    return _number("step", step, 0, names.MAX_STEP)


def checkpoint_from_choice(name: str, step: int, series: str) -> int | str | NamedStep:
    """Return which checkpoint of a run is meant: a step of a series, or the one of this name, or just a step."""
    if series:
        return NamedStep(series_from_wire(series), step_from_wire(step))
    return names.check_checkpoint_name(text_from_wire(name)) if name else step_from_wire(step)


def series_from_wire(name: str) -> str:
    """Check the base name of checkpoints; what is empty means any, as older clients know of none."""
    return names.ANY_NAME if name in ("", names.ANY_NAME) else names.check_checkpoint_name(text_from_wire(name))


def save_to_wire(save: SaveRef) -> common_pb2.SaveIdentity:
    """Return the message that names a save and the sender."""
    return common_pb2.SaveIdentity(
        run=save.run,
        epoch=save.epoch,
        step=save.step,
        save_id=save.save_id,
        attempt=save.attempt,
        plan_id=save.plan_id,
        rank=save.rank,
        incarnation=save.incarnation,
    )


def save_from_wire(save: common_pb2.SaveIdentity) -> SaveRef:
    """Read and check the identity of a save."""
    return SaveRef(
        run=names.check_run_name(save.run),
        epoch=_number("epoch", save.epoch, 0, MAX_EPOCH),
        step=step_from_wire(save.step) if save.HasField("step") else None,
        save_id=_identifier("save_id", save.save_id, empty=True),
        attempt=_number("attempt", save.attempt, 0, (1 << 31) - 1),
        plan_id=_identifier("plan_id", save.plan_id, empty=True),
        rank=_number("rank", save.rank, 0, MAX_WORLD_SIZE - 1),
        incarnation=_identifier("incarnation", save.incarnation),
    )


def join_to_wire(peer: common_pb2.Peer, run: str, member: Member, options: RunOptions) -> save_pb2.JoinRequest:
    """Return the request by which `member` joins `run`; its host, pid and incarnation are the peer's."""
    return save_pb2.JoinRequest(
        peer=peer, run=run, rank=member.rank, world_size=member.world_size, options=options_to_wire(options)
    )


def join_from_wire(request: save_pb2.JoinRequest) -> tuple[str, Member, RunOptions]:
    """Read and check a request to join: the run, the member, and how the run keeps its checkpoints."""
    options = options_from_wire(request.options) if request.HasField("options") else RunOptions()
    return names.check_run_name(request.run), _member(request.peer, request.rank, request.world_size), options


def leave_from_wire(request: save_pb2.LeaveRequest) -> tuple[str, Member, int]:
    """Read and check a request to leave. The world's size is not sent again: `Member` says 0, "not known"."""
    _number("rank", request.rank, 0, MAX_WORLD_SIZE - 1)
    incarnation = _identifier("incarnation", request.peer.incarnation)
    member = Member(request.rank, 0, incarnation, text_from_wire(request.peer.host), max(request.peer.pid, 0))
    return names.check_run_name(request.run), member, _number("epoch", request.epoch, 0, MAX_EPOCH)


def options_to_wire(options: RunOptions) -> common_pb2.RunOptions:
    """Return the message for a run's options."""
    return common_pb2.RunOptions(
        name=options.name,
        max_to_keep=options.max_to_keep,
        keep_checkpoint_every_n_hours=options.keep_checkpoint_every_n_hours or 0.0,
        pad_step_number=options.pad_step_number,
        latest_filename=options.latest_filename,
        retention=options.retention,
        absolute_paths=not options.save_relative_paths,
        hours_age_s=0.0 if options.hours_since is None else max(0.0, time.time() - options.hours_since),
    )


def options_from_wire(options: common_pb2.RunOptions) -> RunOptions:
    """Read and check a run's options. Keeping all, sent as 0 or without a number, is None; so are 0 hours."""
    keep = _number("max_to_keep", options.max_to_keep, 0, (1 << 31) - 1)
    hours = options.keep_checkpoint_every_n_hours
    if not (math.isfinite(hours) and hours >= 0):
        raise InvalidRequestError("keep_checkpoint_every_n_hours is not a number of hours", actual=hours)
    age_s = options.hours_age_s
    if not (math.isfinite(age_s) and age_s >= 0):
        raise InvalidRequestError("hours_age_s is not a number of seconds", actual=age_s)
    return RunOptions(
        name=names.check_checkpoint_name(options.name),
        max_to_keep=keep or None,
        keep_checkpoint_every_n_hours=hours or None,
        pad_step_number=options.pad_step_number,
        latest_filename=names.check_checkpoint_name(options.latest_filename),
        retention=Rule.named(options.retention or Rule.SAVER.value).value,
        save_relative_paths=not options.absolute_paths,
        hours_since=time.time() - age_s if age_s else None,
    )


def declaration_to_wire(declaration: Declaration) -> save_pb2.DeclareRequest:
    """Return the request that declares a rank's part of a save."""
    compared = declaration.compared
    return save_pb2.DeclareRequest(
        save=save_to_wire(declaration.save),
        request_id=declaration.request_id,
        world_size=declaration.world_size,
        manifest_digest=declaration.manifest_digest,
        meta_graph=declaration.meta_graph or b"",
        overwrite=declaration.overwrite,
        timeout_s=declaration.timeout_s,
        checkpoint_name=declaration.name,
        pad_step_number=declaration.pad_step_number,
        meta_suffix=declaration.meta_suffix,
        unlisted=not declaration.write_state,
        compared_parts=b"" if compared is None else np.ascontiguousarray(compared.rows, "<i8").tobytes(),
        compared_digests=b"" if compared is None else np.ascontiguousarray(compared.digests, "<u8").tobytes(),
        refuses_differences=declaration.refuses_differences,
        remarks=[
            save_pb2.Remark(name=each.name, digest=each.digest, what=each.what, outline=each.is_outline)
            for each in declaration.remarks
        ],
        again=declaration.is_repeated,
        call=declaration.call,
    )


def declaration_from_wire(request: save_pb2.DeclareRequest) -> Declaration:
    """Read and check a declaration."""
    save = save_from_wire(request.save)
    world_size = _number("world_size", request.world_size, 1, MAX_WORLD_SIZE)
    if save.rank >= world_size:
        raise InvalidRequestError("rank out of range", expected=f"0 to {world_size - 1}", actual=save.rank)
    if len(request.manifest_digest) != 32:
        raise InvalidRequestError("a manifest's digest has 32 bytes", actual=len(request.manifest_digest))
    if len(request.meta_graph) > MAX_META_GRAPH_BYTES:
        raise InvalidRequestError(
            "the meta graph is too large",
            expected=f"at most {MAX_META_GRAPH_BYTES} bytes",
            actual=len(request.meta_graph),
        )
    return Declaration(
        save=save,
        request_id=_identifier("request_id", request.request_id),
        world_size=world_size,
        manifest_digest=request.manifest_digest,
        meta_graph=request.meta_graph or None,
        overwrite=request.overwrite,
        timeout_s=seconds_from_wire("timeout_s", request.timeout_s),
        name=names.check_checkpoint_name(request.checkpoint_name),
        pad_step_number=request.pad_step_number,
        meta_suffix=names.check_checkpoint_name(request.meta_suffix or "meta"),
        write_state=not request.unlisted,
        compared=_compared(request) if request.compared_parts else None,
        refuses_differences=request.refuses_differences,
        remarks=_remarks(request),
        is_repeated=request.again,
        call=_number("call", request.call, 0, MAX_CALL),
    )


def _compared(request: save_pb2.DeclareRequest) -> Compared:
    if len(request.compared_parts) > MOST_PARTS * 8:
        raise InvalidRequestError(
            "too many parts to compare", expected=MOST_PARTS, actual=len(request.compared_parts) // 8
        )
    if len(request.compared_parts) % 8 or len(request.compared_parts) != len(request.compared_digests):
        raise InvalidRequestError(
            "compared parts and their digests are numbers of 8 bytes, one each",
            expected=len(request.compared_parts),
            actual=len(request.compared_digests),
        )
    rows = np.frombuffer(request.compared_parts, "<i8").astype(np.int64)
    if rows[0] < 0 or rows[-1] >= _MAX_ROWS or (np.diff(rows) <= 0).any():
        raise InvalidRequestError("the parts that are compared are not rows of a manifest in their order")
    return Compared(rows, np.frombuffer(request.compared_digests, "<u8").astype(np.uint64))


def _remarks(request: save_pb2.DeclareRequest) -> tuple[Remark, ...]:
    if len(request.remarks) > MOST_REMARKS:
        raise InvalidRequestError("too many remarks to compare", expected=MOST_REMARKS, actual=len(request.remarks))
    return tuple(
        Remark(each.name, each.digest, text_from_wire(each.what), each.outline) for each in request.remarks if each.name
    )


def differences_to_wire(differences: Sequence[Difference]) -> list[save_pb2.Difference]:
    """Return the messages that say what differs between ranks."""
    return [
        save_pb2.Difference(name=names.tensor_key(each.name), what=each.what, contradiction=each.is_contradiction)
        for each in differences
    ]


def differences_from_wire(messages: Iterable[save_pb2.Difference]) -> tuple[Difference, ...]:
    """Read what differs between ranks."""
    return tuple(Difference(names.tensor_name(each.name), each.what, each.contradiction) for each in messages)


def checkpoint_to_wire(checkpoint: Checkpoint, run: str) -> common_pb2.Checkpoint:
    """Return the message that describes a checkpoint of `run`."""
    return common_pb2.Checkpoint(
        run=run,
        prefix=checkpoint.prefix,
        key=f"{run}/{checkpoint.prefix.rsplit('/', 1)[-1]}",
        step=checkpoint.step,
        size_bytes=checkpoint.size_bytes,
        num_shards=checkpoint.num_shards,
        saved_at=checkpoint.saved_at,
        duration_s=checkpoint.duration_s,
        pinned=checkpoint.pinned,
        save_id=checkpoint.save_id,
        durability=durability_to_wire(checkpoint.durability),
        verified_at=checkpoint.verified_at,
        rolled_back=checkpoint.rolled_back,
    )


def checkpoint_from_wire(message: common_pb2.Checkpoint) -> Checkpoint:
    """Read a checkpoint's description; its key below the root stays with the message."""
    return Checkpoint(
        prefix=message.prefix,
        step=message.step if message.HasField("step") else None,
        size_bytes=message.size_bytes,
        num_shards=message.num_shards,
        saved_at=message.saved_at,
        duration_s=message.duration_s,
        pinned=message.pinned,
        save_id=message.save_id,
        durability=durability_from_wire(message.durability),
        verified_at=message.verified_at if message.HasField("verified_at") else None,
        rolled_back=message.rolled_back,
    )


def repaired_to_wire(repaired: Repaired) -> admin_pb2.RepairReply:
    """Return the message that says what a repair did; of very many checkpoints it names the newest."""
    left_out = [admin_pb2.LeftOut(prefix=prefix, reason=reason) for prefix, reason in repaired.left_out]
    return admin_pb2.RepairReply(
        changed=repaired.is_changed,
        reason=repaired.reason,
        prefixes=repaired.prefixes[-_MOST_REPAIRED:],
        left_out=left_out[-_MOST_REPAIRED:],
        kept_at=repaired.kept_at or "",
        num_prefixes=len(repaired.prefixes),
        mended=repaired.mended[:_MOST_REPAIRED],
    )


def eviction_to_wire(members: Iterable[Member], saves: Iterable[SaveRef]) -> admin_pb2.EvictReply:
    """Return the message that says which processes lost their places, and which saves ended with that."""
    return admin_pb2.EvictReply(
        evicted=[admin_pb2.Evicted(rank=each.rank, host=each.host, pid=each.pid) for each in members],
        ended=[save_to_wire(save) for save in saves],
    )


def restoring_from_wire(message: read_pb2.Restoring) -> Restoring:
    """Check and read which call of `restore` this is."""
    _number("world_size", message.world_size, 1, MAX_WORLD_SIZE)
    _number("rank", message.rank, 0, message.world_size - 1)
    return Restoring(_identifier("restoring", message.id), message.rank, message.world_size, message.together)


def seconds_from_wire(what: str, value: float, *, most: float = MAX_TIMEOUT_S) -> float:
    """Check a time to wait: a number above zero, cut at `most`."""
    if not (math.isfinite(value) and value > 0):
        raise InvalidRequestError(f"{what} is no time to wait", expected="seconds above zero", actual=value)
    return min(value, most)


def stall_to_wire(seconds: Mapping[str, float], save_id: str = "") -> save_pb2.Stall:
    """Write how long the call that began a save made training stand still, by what it was for."""
    return save_pb2.Stall(save_id=save_id, **{f"{part}_s": each for part, each in seconds.items()})


def stall_from_wire(stall: save_pb2.Stall) -> dict[str, float]:
    """Read it; what is no time counts as none."""
    told = {part: getattr(stall, f"{part}_s") for part in ("waiting", "preparing", "copying", "declaring")}
    return {part: min(each, MAX_TIMEOUT_S) if math.isfinite(each) and each > 0 else 0.0 for part, each in told.items()}


def _member(peer: common_pb2.Peer, rank: int, world_size: int) -> Member:
    _number("world_size", world_size, 1, MAX_WORLD_SIZE)
    _number("rank", rank, 0, world_size - 1)
    return Member(
        rank,
        world_size,
        _identifier("incarnation", peer.incarnation),
        text_from_wire(peer.host),
        _number("pid", peer.pid, 0, 1 << 53),
    )


def _number(what: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidRequestError(f"{what} out of range", expected=f"{least} to {most}", actual=value)
    return value


def _identifier(what: str, value: str, *, empty: bool = False) -> str:
    """Check an opaque name of a peer's making: it goes into logs, records and keys of tables."""
    if not (value or empty) or (value and not _ID.fullmatch(value)):
        raise InvalidRequestError(
            f"{what} is not an identifier", expected="letters, digits and . _ -, 128 at most", actual=value[:64]
        )
    return value


def request_id_from_wire(value: str) -> str:
    """Check the id of a declaration."""
    return _identifier("request_id", value)


def text_from_wire(value: str) -> str:
    """Keep what a line of a log can show of a text that is only for people."""
    kept = value[:255]
    return kept if kept.isprintable() else "".join(letter for letter in kept if letter.isprintable())


def term_from_wire(value: int) -> int:
    """Check the number of a coordinator's term."""
    return _number("term", value, 0, MAX_TERM - 1)
