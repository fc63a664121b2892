"""The bounds that the engine keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptd.engine.priority import Priority
from ckptd.storage.limited import RateLimit


@dataclass(frozen=True, slots=True)
class Settings:
    """How long the engine waits, and how much it does at once.

    Attributes:
        declare_timeout_s: from the first rank's declaration to the last's.
        stall_timeout_s: how long a rank that owes bytes may send none.
        lease_s: how long a lost connection may stay lost before its rank counts as gone.
        notice_s: how often a line in the log says what a save waits for.
        shards: data shards per save; None for one per rank, at most `MAX_SHARDS`.
        open_runs: runs that may be open at once; there may be any number of others.
        idle_s: a run that is not needed for so long is closed.
        live_saves: saves of one run that may be under way at once.
        undo_s: how long a checkpoint that its owner deleted can be brought back; its space is free only then.
        allow_unfenced: go on in a store that cannot keep a second owner out.
        takes_back: in a store without locks, take a run back after another owner has taken it over.
        write_limit: of all writers together; None for as fast as the store can.
        threads: threads of one run that seal, commit and clean up; all runs together have four times as many.
        feeders: threads of one run that write lanes from captured memory; the same.
        priority: of those threads.
    """

    declare_timeout_s: float = 30.0
    stall_timeout_s: float = 30.0
    lease_s: float = 5.0
    notice_s: float = 30.0
    shards: int | None = None
    open_runs: int = 4096
    idle_s: float = 60.0
    live_saves: int = 16
    undo_s: float = 600.0
    allow_unfenced: bool = False
    takes_back: bool = False
    write_limit: RateLimit | None = None
    threads: int = 16
    feeders: int = 32
    priority: Priority = field(default_factory=Priority)


MAX_SHARDS = 32  # by default; a save may request more
