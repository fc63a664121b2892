"""What a call is about, before the journal is told of it: which checkpoint, as the engine knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptd.engine.journal import JournalEntry, Reserve
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError
from ckptd.service import audited
from ckptd.service.opening import Openings
from ckptd.service.pools import Pools
from ckptd.wire import convert, methods

if TYPE_CHECKING:
    from ckptd.engine.front import Engine


class Subjects:
    """See the module. Belongs to one event loop."""

    def __init__(self, engine: Engine, pools: Pools) -> None:
        self._engine, self._pools = engine, pools
        self._openings = Openings(engine, pools)

    async def found(self, entry: JournalEntry, method: methods.Method, request: Any) -> JournalEntry:
        """Return the entry of a call with what is known of its subject.

        A call about what does not exist comes to nothing, and its record may not use the reserve: else any
        identity with the right to delete could use it up without deleting anything.

        Raises:
            NotNowError: the run is not open yet.
        """
        try:
            if method.path in audited.NAMING:
                return await self._about_checkpoint(entry, request, deleted=entry.event == "undelete")
            if entry.event == "repair" and not await self._is_run(entry.run):
                return replace(entry, reserve=Reserve.NONE)
        except NotNowError:
            raise  # nothing has begun, and to wait for it again would take as long
        except CkptdError:  # the call itself will say so
            return replace(entry, reserve=Reserve.NONE)
        return entry

    async def _about_checkpoint(self, entry: JournalEntry, request: Any, *, deleted: bool) -> JournalEntry:
        which = convert.checkpoint_from_choice(request.name, request.step, request.series)
        run = convert.run_from_wire(request.run)
        found = await self._openings.control(
            run, self._engine.in_catalog, run, lambda stored: stored.find(which, deleted=deleted)
        )
        if found is None:
            return replace(entry, reserve=Reserve.NONE)
        named: Mapping[str, object] = {"checkpoint": found.prefix.rpartition("/")[2], "save_id": found.save_id}
        return replace(entry, step=found.step, details={**entry.details, **named})

    async def _is_run(self, run: str) -> bool:
        return await self._pools.control(run, self._engine.is_founded, convert.run_from_wire(run))
