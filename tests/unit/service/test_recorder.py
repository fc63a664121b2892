"""What a caller that gives up leaves in the journal."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ckptd.engine.journal import BEGUN, JournalEntry
from ckptd.service.recorder import Recorder

WAIT_S = 60


class Slow:
    """A journal that takes what begins only when it is told to go on."""

    complaint = ""

    def __init__(self):
        self.entries, self.is_asked = [], threading.Event()
        self.may_go_on, self.is_over = threading.Event(), threading.Event()

    def begins(self, entry):
        self.is_asked.set()
        assert self.may_go_on.wait(WAIT_S)
        self.entries.append(entry)

    def ended(self, entry):
        self.entries.append(entry)
        self.is_over.set()


def test_a_call_whose_caller_gives_up_while_its_beginning_is_recorded_was_not_carried_out():
    journal, calls = Slow(), []

    async def call(recorder):
        async with recorder.recorded(JournalEntry("delete", run="r", step=1)):
            calls.append("carried out")

    async def give_up():
        recorder = Recorder(journal)
        calling = asyncio.ensure_future(call(recorder))
        assert await asyncio.to_thread(journal.is_asked.wait, WAIT_S)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        journal.may_go_on.set()
        assert await asyncio.to_thread(journal.is_over.wait, WAIT_S)
        recorder.close()

    asyncio.run(give_up())
    begun, ended = journal.entries
    assert (begun.outcome, ended.outcome, begun.act == ended.act) == (BEGUN, "not carried out", True)
    assert not calls
