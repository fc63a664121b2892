"""Which calls change something, and what the journal is told of each: one row a method.

Saves are not here: the engine tells of them itself, as a save is many calls of many ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ckptd.engine.journal import Actor, JournalEntry, Reserve
from ckptd.format import names
from ckptd.wire import methods

Row = Callable[[Any], JournalEntry]
"""Reads what is to be told off a request; the caller is added."""


def _join(request: Any) -> JournalEntry:
    told = {"rank": request.rank, "world_size": request.world_size, "host": request.peer.host, "pid": request.peer.pid}
    return JournalEntry("join", run=request.run, details=told)


def _leave(request: Any) -> JournalEntry:
    told = {"rank": request.rank, "epoch": request.epoch, "host": request.peer.host, "pid": request.peer.pid}
    return JournalEntry("leave", run=request.run, details=told)


def _place(request: Any) -> JournalEntry:
    entry = _join(request.join)
    return replace(entry, details={**entry.details, "agent": request.host})


def _depart(request: Any) -> JournalEntry:
    entry = _leave(request.leave)
    return replace(entry, details={**entry.details, "agent": request.host, "for_good": request.for_good})


def _abort(request: Any) -> JournalEntry:
    save = request.save
    told = {"rank": save.rank, "save_id": save.save_id, "reason": request.reason}
    return JournalEntry("abort", run=save.run, step=step_of(request), details=told)


def _pin(request: Any) -> JournalEntry:
    # Unpinning comes before removing.
    return _of_checkpoint(
        "pin" if request.pinned else "unpin", request, reserve=Reserve.NONE if request.pinned else Reserve.HALF
    )


def _delete(request: Any) -> JournalEntry:
    told: dict[str, object] = {"for_good": request.for_good, "even_latest": request.even_latest}
    if request.pruned_because:
        told["reason"] = request.pruned_because
    event, reserve = "prune" if request.pruned_because else "delete", Reserve.ALL if request.for_good else Reserve.HALF
    return _of_checkpoint(event, request, reserve=reserve, **told)


def _undelete(request: Any) -> JournalEntry:
    return _of_checkpoint("undelete", request)


def _repair(request: Any) -> JournalEntry:
    # It is what opens a run again, so that something can be removed there.
    return JournalEntry("repair", run=request.run, reserve=Reserve.HALF)


def _evict(request: Any) -> JournalEntry:
    told = {"rank": request.rank if request.HasField("rank") else "all"}
    return JournalEntry("evict", run=request.run, reserve=Reserve.ALL, details=told)


def _of_checkpoint(event: str, request: Any, *, reserve: Reserve = Reserve.NONE, **told: object) -> JournalEntry:
    is_by_name = request.name and not request.series
    named = {"checkpoint": request.name} if is_by_name else {"series": request.series} if request.series else {}
    return JournalEntry(event, run=request.run, step=step_of(request), reserve=reserve, details={**named, **told})


def step_of(request: Any) -> int | None:
    """Return the step that a request names, alone, of a save, or in a checkpoint's name; None if it names none."""
    if not hasattr(request, "DESCRIPTOR"):  # a chunk
        return None
    fields = request.DESCRIPTOR.fields_by_name
    if "open" in fields:
        return step_of(request.open) if request.HasField("open") else None
    if "save" in fields:
        return int(request.save.step) if request.HasField("save") else None
    if "step" not in fields:
        return None
    if "name" in fields and request.name and not request.series:
        return names.step_of(request.name)
    return int(request.step)


ROWS: dict[str, Row] = {
    methods.SAVE["Join"].path: _join,
    methods.SAVE["Leave"].path: _leave,
    methods.SAVE["Abort"].path: _abort,
    methods.ADMIN["Pin"].path: _pin,
    methods.ADMIN["Delete"].path: _delete,
    methods.ADMIN["Undelete"].path: _undelete,
    methods.ADMIN["Repair"].path: _repair,
    methods.ADMIN["Evict"].path: _evict,
    methods.AGENT["Place"].path: _place,
    methods.AGENT["Depart"].path: _depart,
}

NAMING = frozenset(methods.ADMIN[name].path for name in ("Pin", "Delete", "Undelete"))
"""What is about one checkpoint, which the engine knows better than the request."""


def _changed(reply: Any) -> Mapping[str, object]:
    return {"save_id": reply.checkpoint.save_id}


def _evicted(reply: Any) -> Mapping[str, object]:
    return {
        "evicted": [{"rank": each.rank, "host": each.host, "pid": each.pid} for each in reply.evicted],
        "ended_steps": [each.step for each in reply.ended],
    }


def _repaired(reply: Any) -> Mapping[str, object]:
    return {
        "changed": reply.changed,
        "reason": reply.reason,
        "num_checkpoints": reply.num_prefixes,
        "left_out": [f"{each.prefix}: {each.reason}" for each in reply.left_out],
        "mended": list(reply.mended),
    }


RESULTS: dict[str, Callable[[Any], Mapping[str, object]]] = {
    methods.ADMIN["Pin"].path: _changed,
    methods.ADMIN["Undelete"].path: _changed,
    methods.ADMIN["Repair"].path: _repaired,
    methods.ADMIN["Evict"].path: _evicted,
}
"""Reads what only the answer tells off it."""

OF_SAVES = frozenset(
    (
        *(methods.SAVE[name].path for name in ("PutManifest", "Declare", "AwaitPlan", "Write")),
        *(methods.AGENT[name].path for name in ("Attend", "Tell", "Neighbours", "Offer", "Where")),
    )
)
"""What a save is made of: the engine tells of it when it begins to write, and when it has ended."""


def entry_of(method: methods.Method, request: Any, actor: Actor) -> JournalEntry | None:
    """Return what to tell before a call is carried out; None for one that changes nothing, or is part of a save."""
    row = ROWS.get(method.path)
    if row is None:
        return None
    return replace(row(request), actors=(actor,))


def result_of(method: methods.Method, reply: Any) -> Mapping[str, object]:
    """Return what a call's answer adds to what was told before."""
    row = RESULTS.get(method.path)
    return {} if row is None else row(reply)
