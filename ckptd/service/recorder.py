"""Tells the journal of calls, from threads of its own: a disk that hangs must hold up neither the loop nor the runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from ckptd.engine.journal import DONE, NO_JOURNAL, Actor, Journal, JournalEntry, Journals, Measured
from ckptd.errors import CkptdError
from ckptd.service.refusal_log import PeerBudgets, network_of

_THREADS = 4


class Recorded:
    """One call that the journal knows has begun."""

    def __init__(self, recorder: Recorder, entry: JournalEntry) -> None:
        """Not ended yet."""
        self._recorder, self.entry = recorder, entry
        self.is_ended = False

    async def done(self, **details: object) -> None:
        """Tell that it was carried out, before it is answered."""
        self.is_ended = True
        await self._recorder.tell(self.entry.ended(details=details))


class Recorder:
    """See the module. Belongs to one event loop, but `refused` and `revoked`, which any thread may call.

    Attributes:
        is_deaf: whether there is no journal.
    """

    def __init__(self, journal: Journal) -> None:
        """Start no thread yet."""
        self._journal = journal
        self.is_deaf = journal is NO_JOURNAL
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ckptd-audit")
        self._refusals = PeerBudgets()

    @property
    def complaint(self) -> str:
        """Why the last thing that happened was not recorded, in words; "" if it was."""
        return self._journal.complaint

    @asynccontextmanager
    async def recorded(self, entry: JournalEntry | None) -> AsyncIterator[Recorded | None]:
        """Tell that a call begins, and how it ended when the block does, unless `Recorded.done` has said it.

        Raises:
            CkptdError: it cannot be recorded, and must not happen.
        """
        if entry is None or self.is_deaf:
            yield None
            return
        await self._begin(entry)
        call = Recorded(self, entry)
        try:
            yield call
        except CkptdError as error:
            if not call.is_ended:
                await self.tell(entry.ended("failed", {"error": type(error).__name__, "reason": str(error)}))
            raise
        except BaseException:
            if not call.is_ended:  # it may still be carried out: it is not interrupted
                self._start(self._journal.ended, entry.ended("not answered"))
            raise
        if not call.is_ended:
            await call.done()

    async def _begin(self, entry: JournalEntry) -> None:
        """Tell that it begins; if nothing waits for it any more by then, also that it was not carried out."""
        begun = asyncio.get_running_loop().run_in_executor(self._threads, self._journal.begins, entry)
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            given_up = entry.ended("not carried out", {"reason": "its caller gave up"})

            def tell(done: asyncio.Future[None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self._start(self._journal.ended, given_up)

            begun.add_done_callback(tell)
            raise

    async def tell(self, entry: JournalEntry) -> None:
        """Tell how something ended."""
        await self._run(self._journal.ended, entry)

    def refused(self, peer: str, method: str, actor: Actor, run: str, reason: str, *, step: int | None = None) -> None:
        """Tell that a call was refused; of one network, and of all, not more often than a caller may fill a disk with.

        `peer` is as gRPC names it.
        """
        if self.is_deaf:
            return
        left_out = self._refusals.take(network_of(peer))
        if left_out is None:
            return
        told: dict[str, object] = {"method": method, "reason": reason}
        if left_out:
            told["not_recorded"] = left_out
        self._start(self._journal.ended, JournalEntry("refusal", "refused", run, step, (actor,), details=told))

    def revoked(self, method: str, actor: Actor, run: str, reason: str, *, step: int | None = None) -> None:
        """Tell that what was under way was ended because its caller may do it no longer. Each is told."""
        told = {"method": method, "reason": reason}
        self._start(self._journal.ended, JournalEntry("revoked", DONE, run, step, (actor,), details=told))

    def measured(self, event: str, run: str, measured: Measured, **details: object) -> None:
        """Tell what was measured of something that is no change, where there are figures or a history."""
        if isinstance(self._journal, Journals):
            entry = JournalEntry(event, DONE, run, details=details, is_recorded=False, measured=lambda: measured)
            self._journal.ended(entry)

    async def _run(self, call: Callable[[JournalEntry], None], entry: JournalEntry) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, call, entry)

    def _start(self, call: Callable[[JournalEntry], None], entry: JournalEntry) -> None:
        with suppress(RuntimeError):  # the daemon ends
            self._threads.submit(call, entry)

    def close(self) -> None:
        """Take nothing more; what was told is not waited for."""
        self._threads.shutdown(wait=False)
