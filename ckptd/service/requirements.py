"""Which right each method needs, and on which run: one row a method. A method without a row is refused.

The run is read off the first request. A row without a run (``None``) needs the right on any run at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ckptd.access.roles import Right
from ckptd.wire import convert, methods


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one call needs: a right, on `run`, or on any run where that is None. `or_right` serves as well.

    So does the right of an agent where `relayed`: it makes the call for ranks of its host, whom it has judged itself.
    """

    right: Right
    run: str | None
    or_right: Right | None = None
    relayed: bool = False


Row = Callable[[Any], Requirement]
"""Reads the requirement off a method's first request."""


def _on_run(right: Right) -> Row:
    return lambda request: Requirement(right, convert.run_from_wire(request.run))


def _on_save(right: Right) -> Row:
    return lambda request: Requirement(right, convert.run_from_wire(request.save.run))


def _anywhere(right: Right) -> Row:
    return lambda _request: Requirement(right, None)


def _relayed(row: Row) -> Row:
    return lambda request: replace(row(request), relayed=True)


def _write(request: Any) -> Requirement:
    # What is no `open` names no run, and the service refuses it.
    opens = hasattr(request, "open") and request.WhichOneof("kind") == "open"
    # An agent passes on what ranks of its host have for the shard of another host.
    run = convert.run_from_wire(request.open.save.run) if opens else None
    return Requirement(Right.SAVE, run, or_right=Right.AGENT)


def _place(request: Any) -> Requirement:
    return Requirement(Right.AGENT, convert.run_from_wire(request.join.run))


def _depart(request: Any) -> Requirement:
    return Requirement(Right.AGENT, convert.run_from_wire(request.leave.run))


def _read(request: Any) -> Requirement:
    # Agents read together what is wanted on several hosts.
    return Requirement(Right.READ, convert.key_from_wire(request.key).rpartition("/")[0], or_right=Right.AGENT)


def _where(request: Any) -> Requirement:
    return Requirement(Right.AGENT, convert.key_from_wire(request.key).rpartition("/")[0])


def _pin(request: Any) -> Requirement:
    return _of_checkpoint(not request.pinned, request)


def _delete(request: Any) -> Requirement:
    return _of_checkpoint(request.for_good or request.even_latest, request)


def _of_checkpoint(is_for_managers: bool, request: Any) -> Requirement:
    """Return what a call needs that managers may make, and those that may only save if it takes nothing away."""
    run = convert.run_from_wire(request.run)
    if is_for_managers:
        return Requirement(Right.MANAGE, run)
    return Requirement(Right.SAVE, run, or_right=Right.MANAGE, relayed=True)


def _paths(service: dict[str, methods.Method], rows: dict[str, Row]) -> dict[str, Row]:
    return {service[name].path: row for name, row in rows.items()}


ROWS: dict[str, Row] = {
    **_paths(
        methods.SAVE,
        {
            "Join": _on_run(Right.SAVE),
            "Leave": _on_run(Right.SAVE),
            "PutManifest": _relayed(_anywhere(Right.SAVE)),
            "Declare": _on_save(Right.SAVE),
            "AwaitPlan": _on_save(Right.SAVE),
            "Write": _write,
            "Await": _relayed(_on_save(Right.READ)),
            "Abort": _on_save(Right.SAVE),
        },
    ),
    **_paths(
        methods.READ,
        {
            "Latest": _relayed(_on_run(Right.READ)),
            "List": _relayed(_on_run(Right.READ)),
            "Read": _read,
            "CheckDamage": _relayed(_on_run(Right.READ)),
            "Restored": _on_run(Right.READ),
            "Agree": _relayed(_on_run(Right.READ)),  # readers among themselves: see `engine.saves.restores`
        },
    ),
    **_paths(methods.WATCH, {"Watch": _relayed(_on_run(Right.READ))}),
    **_paths(
        methods.ADMIN,
        {
            "Status": _anywhere(Right.READ),
            "Pin": _pin,
            "Delete": _delete,
            "Undelete": _on_run(Right.MANAGE),
            "Repair": _on_run(Right.MANAGE),
            "Evict": _on_run(Right.ADMIN),
            "History": _on_run(Right.READ),
            "OpenPage": _anywhere(Right.READ),
        },
    ),
    **_paths(
        methods.AGENT,
        {
            # What is said of saves needs the right on each of their runs: the service looks.
            "Attend": _anywhere(Right.AGENT),
            "Tell": _anywhere(Right.AGENT),
            "Place": _place,
            "Neighbours": _anywhere(Right.AGENT),
            "Depart": _depart,
            "Offer": _anywhere(Right.AGENT),
            "Where": _where,
        },
    ),
}


def of(method: methods.Method, request: Any) -> Requirement:
    """Return what a call needs; `KeyError` for a method that has no row, which is a bug."""
    return ROWS[method.path](request)
