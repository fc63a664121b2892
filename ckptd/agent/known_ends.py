"""The saves that an agent knows to be over: in which term it heard so, and whether the coordinator knows that it did.

Until then the coordinator keeps the keys of such a save from others. So it is told again until it answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptd.engine.hosts.messages import HeardEnd, SaveEnded

MOST_ENDED = 256  # saves, remembered for retries of ranks and late messages

TELL_AGAIN_S = 3.0
"""After this time ends are told at the latest, where leases are so long that the next `Beat` is far."""


@dataclass(slots=True)
class KnownEnds:
    """See the module. Belongs to the agent's machine."""

    _over: OrderedDict[str, int] = field(default_factory=OrderedDict)  # by save: in which term that was heard
    _stopping: dict[str, str] = field(default_factory=dict)  # saves whose writers are being ended: the request
    _untold: OrderedDict[str, HeardEnd] = field(default_factory=OrderedDict)  # by save

    def heard(self, ended: SaveEnded) -> None:
        """Hear of an end; the writers of that save are still to be ended."""
        self._over[ended.save] = ended.term
        if len(self._over) > MOST_ENDED:
            self._over.popitem(last=False)
        self._stopping[ended.save] = ended.request_id

    def is_over(self, save: str, term: int) -> bool:
        """Whether a save had ended for the coordinator of this term, or a later one."""
        return self._over.get(save, -1) >= term

    def stopped(self, save: str) -> str | None:
        """Return for which request a save whose writers have ended now was ended; None if it goes on, or is told."""
        return self._stopping.pop(save, None)

    def goes_on(self, save: str) -> None:
        """Hear that a later coordinator goes on with a save after all."""
        self._stopping.pop(save, None)
        self._untold.pop(save, None)

    def tell(self, save: str, request_id: str) -> None:
        """Let the coordinator be told, by every `Beat` until it answers."""
        self._untold[save] = HeardEnd(save, request_id)
        if len(self._untold) > MOST_ENDED:
            self._untold.popitem(last=False)

    def answered(self, saves: Iterable[str]) -> None:
        """Hear what the coordinator has taken notice of."""
        for save in saves:
            self._untold.pop(save, None)

    def untold(self) -> tuple[HeardEnd, ...]:
        """Return those that the coordinator has not taken notice of, as far as is known here."""
        return tuple(self._untold.values())
