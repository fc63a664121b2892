"""How the audit log writes an entry: as a line of its file, and as one of the daemon's log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone

from ckptd.daemon.audit_numbers import MOST_LINE_BYTES
from ckptd.engine.journal import BEGUN, JournalEntry
from ckptd.printable import printable, printable_json

_MOST_CHARACTERS = 1000  # of one text
_FEWEST_CHARACTERS = 200
_ALWAYS = ("number", "time", "event", "outcome", "identity", "peer", "run", "step")
_MOST_NAMED = 16  # identities, or texts of a list
_HAVE_LINES = frozenset({"save", "quarantine", "recovery", "refusal"})
"""What the engine or the service writes a line about, too: these are in the log at the level DEBUG only."""

_log = logging.getLogger("ckptd.audit")


def line(number: int, at: float, entry: JournalEntry, unrecorded: int = 0, most_bytes: int = MOST_LINE_BYTES) -> bytes:
    """Return the record of an entry: one line of printable ASCII.

    What is longer than `most_bytes` has shorter texts, and is marked as cut; at the shortest it has the fields that
    every record has.
    """
    moment = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    first, *others = entry.actors
    told: dict[str, object] = {
        "number": number,
        "time": moment,
        "event": entry.event,
        "outcome": entry.outcome,
        "identity": first.identity,
        "peer": first.peer,
        "run": entry.run,
        "step": entry.step,
        **entry.details,
    }
    if others:
        told["others"] = [[each.identity, each.peer] for each in others[:_MOST_NAMED]]
        told["num_others"] = len(others)
    if unrecorded:
        told["unrecorded_before"] = unrecorded
    for most, names in ((_MOST_CHARACTERS, told), (_FEWEST_CHARACTERS, told), (_FEWEST_CHARACTERS, _ALWAYS)):
        kept = {name: _bounded(told[name], most) for name in names}
        encoded = _encoded(kept if most == _MOST_CHARACTERS else {**kept, "cut": True})
        if len(encoded) <= most_bytes:  # only names that are made for it are so long
            break
    return encoded


def _as_one_word(name: str) -> str:
    """Quote a name that could be read as more of the line."""
    return repr(name) if set(name) & set(" ,") else name


def _encoded(told: Mapping[str, object]) -> bytes:
    return printable_json(json.dumps(told)).encode("ascii") + b"\n"


def _bounded(value: object, most: int) -> object:
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]} ({len(value)} characters)"
    if isinstance(value, list | tuple):
        more = [f"({len(value)} in all)"] if len(value) > _MOST_NAMED else []
        return [_bounded(each, most) for each in value[:_MOST_NAMED]] + more
    if isinstance(value, Mapping):
        return {str(name): _bounded(each, most) for name, each in value.items()}
    return value


def tell(entry: JournalEntry, number: int | None) -> None:
    """Write an entry to the log, for people and for what collects logs."""
    is_quiet = entry.outcome == BEGUN or entry.event in _HAVE_LINES
    level = logging.DEBUG if is_quiet else logging.INFO
    if not _log.isEnabledFor(level):
        return
    first = entry.actors[0]
    about = "" if entry.step is None else f" of step {entry.step}"
    about += f" of {_as_one_word(entry.run)}" if entry.run else ""
    where = f" at {first.peer}" if first.peer else ""
    more = "".join(f", {name} {value}" for name, value in entry.details.items() if value not in ("", None, False, []))
    text = f"{entry.event}{about} by {_as_one_word(first.identity)}{where}: {entry.outcome}{more}"
    fields = {
        "event": "audit",
        "what": entry.event,
        "outcome": entry.outcome,
        "identity": first.identity,
        "peer": first.peer,
        "run": entry.run,
        "step": entry.step,
        "number": number,
    }
    _log.log(level, "%s", printable(text, limit=_MOST_CHARACTERS), extra={"ckptd": fields})
