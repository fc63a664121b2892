"""What the `Checkpointer`s of one process share: its one place in a run, however many of them save into it.

A process is one member of a run. In direct mode it holds the lock of the directory once, beside a daemon it has one
lease. So what has that place is made for the first `Checkpointer` that needs it, found again by the others, and given
up when the last one has closed. Those that save have to agree about the options of the run: which of them counted would
be chance. One that only reads says nothing about options.

A `Checkpointer` that was dropped and not closed releases the place once its saves have ended, see `dropping`; one with
other options waits for that. A forked child shares nothing with its parent.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Generic, Protocol, TypeVar

from ckptd.client import dropping
from ckptd.client.deadline import Deadline
from ckptd.engine.identity import RunOptions
from ckptd.errors import InvalidRequestError

_LOOK_S = 0.1  # how often to check for dropped `Checkpointer`s: the collector can't notify a lock


class Common(Protocol):
    """What is shared."""

    @property
    def is_spent(self) -> bool:
        """Whether it has lost the place for good: the next user needs another."""

    def leave(self) -> None:
        """Nothing saves any more: release the place, if others need it. It may be taken again."""

    def close(self, *, is_dropped: bool) -> None:
        """It is not used any more. If the last one was dropped, what reads may go on without it."""


C = TypeVar("C", bound=Common)


class _Entry(Generic[C]):
    def __init__(self, common: C) -> None:
        self.common = common
        self.lock = threading.RLock()  # entered itself: Ctrl-C may come as a condition is entered, which is Python
        self.changed = threading.Condition(self.lock)
        self.holds: list[SharedHold[C]] = []
        self.is_closed = False
        self.was_dropped = False  # by any: objects that it returned may still read


class SharedHold(Generic[C]):
    """The part that one `Checkpointer` has in it. Any thread may use it.

    Attributes:
        common: what is shared.
        is_dropped: set when the `Checkpointer` was collected; it is released soon.
    """

    def __init__(self, commons: Commons[C], key: Hashable, entry: _Entry[C]) -> None:
        self.common = entry.common
        self.is_dropped = False
        self._commons = commons
        self._key = key
        self.entry = entry
        self._pid = os.getpid()
        self._options: RunOptions | None = None

    @property
    def has_joined(self) -> bool:
        """Whether it saves."""
        return self._options is not None

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child, and all of it its parent's."""
        return self._pid != os.getpid()

    def join(self, run: str, options: RunOptions, timeout_s: float) -> None:
        """Say that this one saves, with these options. May be repeated.

        Raises:
            InvalidRequestError: another one of this process saves into the run with other options; both are named.
        """
        if self.has_joined:
            return
        deadline, is_collected = Deadline(timeout_s), False
        while True:
            with self.entry.lock:
                clash = self._clash(options)
                if clash is None:
                    self._options = options
                    return
                other, what = clash
                if is_collected and other.is_dropped and not deadline.has_passed:
                    self.entry.changed.wait(min(_LOOK_S, deadline.remaining_s))
                elif is_collected:
                    raise InvalidRequestError(
                        f"another Checkpointer of this process saves into {run!r} with another {what}: give both the "
                        "same, or close() that one first",
                        expected=repr(getattr(other._options, what)),
                        actual=repr(getattr(options, what)),
                    )
            if not is_collected:
                gc.collect()  # it may have been dropped already, in a cycle
                is_collected = True

    def _clash(self, options: RunOptions) -> tuple[SharedHold[C], str] | None:
        for other in self.entry.holds:
            if other is self or other._options is None:
                continue
            for each in fields(options):
                # The name belongs to each checkpoint.
                if (
                    each.compare
                    and each.name != "name"
                    and getattr(options, each.name) != getattr(other._options, each.name)
                ):
                    return other, each.name
        return None

    def release(self, *, is_dropped: bool = False) -> None:
        """Release this share; the last one closes what is shared. May be repeated."""
        if self.is_inherited:
            return
        entry = self.entry
        with entry.lock:
            if self not in entry.holds:
                return
            entry.holds.remove(self)
            had_joined, self._options = self.has_joined, None
            entry.was_dropped |= is_dropped
            try:
                if not entry.holds:
                    entry.is_closed = True
                    entry.common.close(is_dropped=entry.was_dropped)
                elif had_joined and not any(other.has_joined for other in entry.holds):
                    entry.common.leave()
            finally:
                if entry.is_closed:
                    self._commons.forget_entry(self._key, entry)
                entry.changed.notify_all()


class Commons(Generic[C]):
    """What is shared in this process, of one kind, by what it is about. Any thread may use it."""

    def __init__(self) -> None:
        """Begin empty, in a forked child too."""
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Share nothing that exists now with later users."""
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[C]] = {}

    def hold(self, key: Hashable, make: Callable[[], C]) -> SharedHold[C]:
        """Return a share of what has this key; `make` creates it, without waiting, if there is none.

        While its last user closes it, this waits for that.
        """
        dropping.begin()
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is None or entry.common.is_spent:
                    entry = self._entries[key] = _Entry(make())
            with entry.lock:
                if not entry.is_closed:
                    hold = SharedHold(self, key, entry)
                    entry.holds.append(hold)
                    return hold
                self.forget_entry(key, entry)

    def forget_entry(self, key: Hashable, entry: _Entry[C]) -> None:
        """Return this one to no further caller."""
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]
