"""Checkpoints in quarantine: damaged, so that no state file names them; their files stay, and they may come back."""

from __future__ import annotations

from dataclasses import replace

from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.listing import Listing
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy


def quarantined(ledger: Ledger) -> list[Record]:
    """Return the saves that are in quarantine, in the order in which they began."""
    found = (each for each in ledger.records.values() if each.quarantine and each.published and not each.dropped)
    return sorted(found, key=lambda record: record.sequence)


def put(ledger: Ledger, record: Record, reason: str, by: str) -> None:
    """Mark a checkpoint as damaged, durably, and let the state file name the newest that is whole.

    If no other is listed here, the state file stays as it is: a history must not become empty.
    """
    at = ledger.clock.wall_s()
    ledger.on_step("quarantine.record")
    marked = ledger.note(record, quarantine=reason, quarantined_at=at, quarantined_by=by)
    ledger.records[marked.save_id] = marked
    # Crash here: marked, and still named by the state file: `recovery` does what follows.
    leave_out(ledger, ledger.listing.without(marked.prefix))


def leave_out(ledger: Ledger, rest: Listing) -> None:
    """Let the state file say `rest`, which leaves out what is in quarantine, unless that is empty. Safe to repeat."""
    if rest.here:
        ledger.on_step("quarantine.state")
        ledger.write_state(rest, ledger.style)
    else:
        ledger.listing = rest


def end(ledger: Ledger, record: Record, policy: RetentionPolicy) -> Record:
    """Take the mark back, durably: list it again where it was, if there is room, else keep it for good."""
    back = replace(record, quarantine="", quarantined_at=None, quarantined_by="", verified_at=ledger.clock.wall_s())
    if not back.preserved and ledger.listing.has_room(policy):
        ledger.remember(ledger.note(back))
        # Crash here: whole, not listed: `recovery` keeps it for good.
        ledger.write_state(ledger.listing.with_adopted(ledger.entry(back)), ledger.style)
    else:
        back = ledger.remember(ledger.note(replace(back, preserved=True)))
    return back
