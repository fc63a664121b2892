"""What is tried at every start where hosts share a directory: does each see in time what the other writes and locks?

The coordinator locks a trial, and notes a random word beside the lock. Each agent that attends reads the word, tries
the lock, and notes the word under a name of its own, for the coordinator to read. A lock that both get is one of one
host: commands and trainers that open the directory themselves rest on locks, so such a host is refused. So is one that
does not see the word, or whose own note is not seen, within ten seconds: it would read and write another directory, or
an old state of this one.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace

from ckptd.engine.catalog import records
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import AgentLife, Hello, TrialReport
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError
from ckptd.storage.base import Lock, Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.locations import open_store

KEY = f"{records.DIRECTORY}/shared-trial"
"""Where the word is, and the name of its lock; an agent's note has its incarnation after a dot."""

SEEN_WITHIN_S = 10.0
_MOST_BYTES = 256
_MOST_LIVES = 4096  # that were refused, remembered
_MOST_TRIES, _AGAIN_S = 50, 0.1  # at the lock, which agents try for moments


class SharedTrial:
    """The coordinator's side. `begin` comes first; any thread may call the rest."""

    def __init__(self, store: Store, clock: Clock, holder: str) -> None:
        """Write nothing yet. `holder` names this coordinator in the lock."""
        self._store, self._clock, self._holder = store, clock, holder
        self._word = secrets.token_hex(16)
        self._guard = threading.Lock()
        self._first_at: OrderedDict[str, float] = OrderedDict()  # by incarnation: since when its trial fails
        self._lock: Lock | None = None

    def begin(self) -> None:
        """Take the lock, and note the word. May block.

        Raises:
            ConflictError: another coordinator has the lock.
        """
        self._lock = self._take_lock()
        self._store.delete(list(self._store.keys(records.DIRECTORY, KEY.rpartition("/")[2] + ".")))
        self._store.replace(KEY, self._word.encode())

    def _take_lock(self) -> Lock:
        wait = threading.Event()
        for _ in range(_MOST_TRIES):
            with suppress(ConflictError):
                return self._store.lock(KEY, holder=self._holder)
            wait.wait(_AGAIN_S)
        return self._store.lock(KEY, holder=self._holder)

    def end(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def check(self, hello: Hello) -> None:
        """Let an agent pass whose host shares this directory. Reads a file.

        Raises:
            NotNowError: it may turn out so yet.
            InvalidRequestError: it does not: why, and what helps.
        """
        agent, report = hello.agent, hello.trial
        late = "" if report is None else self._not_seen(agent, report)
        if report is not None and not late:
            problem = self._problem(report)
            if problem:
                raise InvalidRequestError(f"the {agent} cannot share {self._store.url} with its coordinator: {problem}")
            with self._guard:
                self._first_at.pop(agent.incarnation, None)
            with suppress(CkptdError):
                self._store.delete([note_of(agent)])
            return
        if report is None:
            late = "it has not tried that: is its --root the same directory, and its version the coordinator's?"
        now = self._clock.boot_s()
        with self._guard:
            since = self._first_at.setdefault(agent.incarnation, now)
            if len(self._first_at) > _MOST_LIVES:
                self._first_at.popitem(last=False)
        if now - since < SEEN_WITHIN_S:
            raise NotNowError(f"the {agent} and its coordinator try whether they share {self._store.url}: {late} yet")
        raise InvalidRequestError(
            f"the {agent} does not share {self._store.url} with its coordinator: for {SEEN_WITHIN_S:.0f} s {late}. "
            "Mount the same directory on both, so that each sees in time what the other writes; or keep the "
            "checkpoints in a bucket"
        )

    def _not_seen(self, agent: AgentLife, report: TrialReport) -> str:
        if report.word != self._word:
            return f"it does not see at {report.place} what was written here at {self._store.location(KEY)}"
        try:
            found = self._store.get(note_of(agent), limit_bytes=_MOST_BYTES)
        except NotFoundError:
            found = b""
        if found != self._word.encode():
            return f"what it wrote at {report.place} is not seen here at {self._store.location(note_of(agent))}"
        return ""

    def _problem(self, report: TrialReport) -> str:
        if report.problem:
            return report.problem
        if report.got_lock:
            return (
                f"it gets a lock in {report.place} that the coordinator holds here, so locks are of one host each, and "
                "nothing keeps commands and trainers there from changing what is in use here. Mount NFS without "
                "local_lock, and Lustre with -o flock; or keep the checkpoints in a bucket"
            )
        return ""


def note_of(agent: AgentLife) -> str:
    """Return the key of the note that an agent leaves for its coordinator."""
    return f"{KEY}.{agent.incarnation}"


def tried(store: Store, hello: Hello) -> Hello:
    """Return what an agent says as it attends, with what it has found out about its directory. May block.

    Nothing is tried in a bucket, and where no coordinator that shares a directory has left a word.
    """
    path = local_path(store)
    if path is None:
        return hello
    word = ""
    try:
        shared = open_store(path, shared=True)
        word = shared.get(KEY, limit_bytes=_MOST_BYTES).decode("ascii", "replace")
        got_lock = _gets_lock(shared)
        shared.replace(note_of(hello.agent), word.encode())
        problem = "; ".join(shared.broken_promises())
    except NotFoundError:
        return hello
    except CkptdError as error:
        return replace(hello, trial=TrialReport(word, path, problem=str(error)))
    return replace(hello, trial=TrialReport(word, path, got_lock, problem))


def _gets_lock(store: Store) -> bool:
    try:
        store.lock(KEY, holder="the trial of an agent", shared=True).release()
    except ConflictError:
        return False
    return True
