"""What a coordinator's next life waits for: a save that was noted, has no index, and whose bytes its agents hold. Pure.

The record in the store says that the save was planned, and nothing more. Its agents tell the rest again when they
attend: what was declared, and the receipts of what is sealed. The id of a save is made from what was declared, so the
next life can tell whether it has been told the very same; then the layout is the same as well, and nothing that is
sealed is sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import HostDeclaration
from ckptd.engine.wording import describe_ranks, describe_seconds

_WORD_CHARACTERS = 12  # of an id: different for each attempt; the rest is the same for the same declarations


def save_id_of(word: str, declarations: Iterable[HostDeclaration]) -> str:
    """Return the id of a save: `word` names the attempt, the rest says what was declared.

    Only an attempt at these very calls of `save`, by the same ranks with the same manifests, gets the same rest.
    """
    digest = hashlib.sha256()
    for each in sorted(declarations, key=lambda one: one.ranks):
        told = (each.run, each.step, each.request_id, each.ranks, each.world_size, each.manifest_digest.hex())
        digest.update(repr((*told, each.size_bytes)).encode())
    if len(word) != _WORD_CHARACTERS:
        raise ValueError(f"the word of an attempt has {_WORD_CHARACTERS} characters")
    return word + digest.hexdigest()[:32]


def is_attempt_at(save: str, declarations: Iterable[HostDeclaration]) -> bool:
    """Whether a save is an attempt at just these declarations."""
    return save == save_id_of(save[:_WORD_CHARACTERS], declarations) if len(save) > _WORD_CHARACTERS else False


@dataclass(slots=True)
class Revival:
    """One save that may go on. Has one owner, which passes the time.

    Attributes:
        save: its id.
        until: when it is given up.
        wait_s: how long that is in all.
    """

    save: str
    until: float
    wait_s: float
    _told: dict[str, HostDeclaration] = field(default_factory=dict)

    def tell(self, host: str, declaration: HostDeclaration) -> None:
        """Take what a host's agent has told again. The last word of a host counts."""
        self._told[host] = declaration

    @property
    def declarations(self) -> dict[str, HostDeclaration]:
        """What was told, by host."""
        return dict(self._told)

    @property
    def missing(self) -> tuple[int, ...]:
        """The ranks that no agent has told of, ascending; none before the first agent came."""
        world_size = max((each.world_size for each in self._told.values()), default=0)
        told = {rank for each in self._told.values() for rank in each.ranks}
        return tuple(rank for rank in range(world_size) if rank not in told)

    @property
    def is_complete(self) -> bool:
        """Whether all that was declared has been told again, and is the very same."""
        return bool(self._told) and not self.missing and is_attempt_at(self.save, self._told.values())

    def why_over(self, attendance: Attendance, now: float) -> str | None:
        """Return why the save is given up now, None while it may still go on."""
        if self.is_complete or (self._told and not self.missing):
            return None if self.is_complete else "its ranks have begun another save of this step since"
        if now < self.until:
            return None
        waited = f"within {describe_seconds(self.wait_s)} of the coordinator's start"
        if not self._told:
            return f"no agent that holds a part of it has come back {waited}"
        missing = self.missing
        where = attendance.whereabouts(missing, now)
        came = ", ".join(sorted(self._told))
        return (
            f"{describe_ranks(missing)} have not come back {waited}{f' ({where})' if where else ''}; agents on {came} "
            "have"
        )
