"""Threads of our own, for work that has to go on while the interpreter ends.

When the main thread ends, Python first shuts down every `ThreadPoolExecutor` of the process, then waits for other
threads, and only then calls what was registered with `atexit`. A save that is under way needs its threads until its
end, so nothing that a save needs may run in an executor. CPython 3.12.0 and 3.12.1 start no thread at all by then;
elsewhere the limit of a container may be reached. So threads that have nothing to do are kept for a while, a save
reserves some before it returns to its caller, and what its caller can do is done there when there is no thread for it.

All of them are daemon threads: the end of the program waits for the saves (`ckptd.client.saving.end_of_process`), not
for threads. A forked child has none of them.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("ckptd")

_IDLE = "ckptd-idle"
_START = threading.Thread.start.__code__
_IDLE_S = 10.0  # after so long without work a thread ends


class _Thread:
    """A thread that does one piece of work after another."""

    def __init__(self) -> None:
        self._has_work = threading.Event()
        self._work: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name=_IDLE, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], object], name: str) -> None:
        """Do this next. Called by whatever took it from `idle`, or made it."""
        self._thread.name = name
        self._work = work
        self._has_work.set()

    def _run(self) -> None:
        while True:
            if not self._has_work.wait(_IDLE_S):
                with _lock:
                    if self in idle:
                        idle.remove(self)
                        return
                self._has_work.wait()  # taken just now: its work is on the way
            self._has_work.clear()
            assert self._work is not None
            work, self._work = self._work, None
            guarded(work)
            del work
            self._thread.name = _IDLE
            with _lock:
                idle.append(self)


_lock = threading.Lock()
idle: list[_Thread] = []
"""Threads that have nothing to do."""


def _forget_all() -> None:
    """Begin without threads: a forked child has only the one that forked."""
    global _lock
    _lock = threading.Lock()
    idle.clear()


os.register_at_fork(after_in_child=_forget_all)


def start(work: Callable[[], object], name: str) -> None:
    """Run `work` in a thread, one that is idle or a new one. It handles its own errors.

    Raises:
        RuntimeError: there is no idle thread, and no new one can be started.
    """
    with _lock:
        thread = idle.pop() if idle else None
    (thread or _Thread()).do(work, name)


def is_refusal(error: BaseException) -> bool:
    """Whether an error, of ours or of another library, comes from a thread that Python could not start.

    Python has no class of its own for that, and its text differs between versions; where it was raised does not.
    """
    if not isinstance(error, RuntimeError) or error.__traceback__ is None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code is _START


def reserve(count: int) -> None:
    """Have so many idle threads at hand.

    Raises:
        RuntimeError: they can't be started.
    """
    while True:
        with _lock:
            if len(idle) >= count:
                return
        thread = _Thread()
        with _lock:
            idle.append(thread)


def guarded(work: Callable[[], object]) -> None:
    """Do `work`; log what it raises, as its thread has no caller."""
    try:
        work()
    except BaseException:
        _log.exception("a bug in ckptd: %s raised an error in thread %s", work, threading.current_thread().name)


class Pool:
    """Runs work on at most so many threads at once, in the order of submission. Any thread may use it.

    It has threads only while there is work, and needs no closing, unless `open` is called.
    """

    def __init__(self, threads: int, name: str, prepare: Callable[[], object] | None = None) -> None:
        """Start nothing yet. With `prepare`, which a thread calls first, threads are of this pool alone."""
        self._most = threads
        self._name = name
        self._prepare = prepare
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # entered itself: Ctrl-C may come as a condition is entered, which is Python
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Callable[[], object]] = deque()
        self._num_threads = self._num_busy = 0
        self._is_open = False

    def open(self) -> None:
        """Start one thread that stays until `close`: from then on `submit` always succeeds.

        Raises:
            RuntimeError: it can't be started.
        """
        with self._lock:
            self._is_open = True
        self._add_thread()

    def close(self) -> None:
        """Let the thread of `open` end once nothing is left to do."""
        with self._lock:
            self._is_open = False
            self._changed.notify_all()

    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` soon. It handles its own errors.

        Raises:
            RuntimeError: no thread works here, and none can be started.
        """
        if self._pid != os.getpid():
            self._begin()  # what a parent had to do is not for its child
        with self._lock:
            self._waiting.append(work)
            self._changed.notify()
            if self._num_threads - self._num_busy >= len(self._waiting) or self._num_threads >= self._most:
                return
        try:
            self._add_thread()
        except RuntimeError:
            with self._lock:
                if not self._num_threads and work in self._waiting:
                    self._waiting.remove(work)
                    raise

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` soon, in this very thread if there is no other; return what it will return or raise."""
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()

        def settle() -> None:
            try:
                value = work()
            except BaseException as error:
                result.set_exception(error)
            else:
                result.set_result(value)

        try:
            self.submit(settle)
        except RuntimeError:
            settle()
        return result

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is left to do; return whether that happened within `timeout_s`."""
        if self._pid != os.getpid():
            return True
        with self._lock:
            return self._changed.wait_for(lambda: not self._waiting and not self._num_busy, timeout_s)

    def _add_thread(self) -> None:
        with self._lock:
            self._num_threads += 1
        try:
            if self._prepare is None:
                start(self._run, self._name)
            else:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except BaseException:
            with self._lock:
                self._num_threads -= 1
            raise

    def _run(self) -> None:
        if self._prepare is not None:
            guarded(self._prepare)
        while True:
            with self._lock:
                # The last thread of an open pool stays.
                while not self._waiting and self._is_open and self._num_threads == 1:
                    self._changed.wait()
                if not self._waiting:
                    self._num_threads -= 1
                    return
                work = self._waiting.popleft()
                self._num_busy += 1
            guarded(work)
            del work
            with self._lock:
                self._num_busy -= 1
                self._changed.notify_all()


new_lock = threading.Lock
"""Makes the locks of `each`; for tests."""


def each(do: Callable[[T], R], items: Iterable[T], threads: int, name: str, *, insists: bool = False) -> list[R]:
    """Return what `do` returns for each item, in their order, of up to so many threads; the caller's is one of them.

    The first error, in the order of the items, is raised once all threads are done; no item is begun after an error.
    A second Ctrl-C does not wait for that, unless `insists`.
    """
    todo = list(items)
    results: dict[int, R] = {}
    errors: dict[int, BaseException] = {}
    # Entered by itself and not by the condition: that is Python's code, in which a Ctrl-C would leave it locked.
    lock = new_lock()
    changed = threading.Condition(lock)
    position = helpers = 0

    def work() -> None:
        nonlocal position
        while True:
            with lock:
                if errors or position == len(todo):
                    return
                number = position
                position += 1
            try:
                results[number] = do(todo[number])
            except BaseException as error:
                errors[number] = error

    job = [work]  # nothing once it is over: a late helper must keep nothing alive that the caller has released

    def help_out() -> None:
        nonlocal helpers
        with lock:
            if not job:
                return  # a late one: nothing waits for it
            helpers += 1
            own = job[0]
        try:
            own()
        finally:
            del own
            with lock:
                helpers -= 1
                changed.notify_all()

    def begin() -> None:
        for _ in range(min(threads, len(todo)) - 1):
            try:
                start(help_out, name)
            except RuntimeError:  # then there are fewer
                return

    def wait() -> None:
        with lock:
            job.clear()
            changed.wait_for(lambda: not helpers)

    try:
        begin()
        work()
    except BaseException as error:  # of a signal, between two items
        errors.setdefault(len(todo), error)
    while True:
        try:
            wait()
            break
        except BaseException as error:
            is_second = any(isinstance(each, KeyboardInterrupt) for each in errors.values())
            errors.setdefault(len(todo), error)
            if is_second and not insists:
                break
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(todo))]
