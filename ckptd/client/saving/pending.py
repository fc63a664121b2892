"""A save in progress: wait for it, inspect it, be notified of its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from ckptd.client.saving.completion import Completion
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError, UnavailableError


class PendingSave:
    """One call of `Checkpointer.save`, from its snapshot to its end. Any thread may use it.

    An error that was not seen through `result` or `exception` is raised at the next call of the `Checkpointer`.
    If there is none, the program says so on stderr when it ends, and its exit code is not 0.

    A forked child never waits for a save of its parent, as it would not learn of the end.

    Attributes:
        step: which step is saved.
    """

    def __init__(self, completion: Completion) -> None:
        self.step = completion.step
        self._completion = completion

    def done(self) -> bool:
        """Say whether it has ended, well or badly."""
        return self._completion.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end without raising its error; return whether it has come. This does not count as seeing it."""
        return self._completion.wait(timeout)

    def result(self, timeout: float | None = None) -> Checkpoint:
        """Wait for the end and return the checkpoint, which is durable then.

        Args:
            timeout: seconds; None waits until the save's own deadline has passed.

        Raises:
            UnavailableError: after `timeout`; the save goes on.
            SessionAbortedError, StorageFullError, …: what ended the save.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        checkpoint = self.checkpoint
        assert checkpoint is not None  # ended without an error
        return checkpoint

    def exception(self, timeout: float | None = None) -> CkptdError | None:
        """Wait for the end as `result` does; return what went wrong, None if nothing did."""
        if not self.wait(timeout):
            if self._completion.is_inherited:
                raise UnavailableError(f"{self} was begun before this process was forked: only its parent sees the end")
            raise UnavailableError(f"{self} is still under way after {timeout:g} s; it goes on")
        return self._completion.see_error()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if it has succeeded. Reading this does not count as seeing the error."""
        return self._completion.checkpoint

    def add_done_callback(self, callback: Callable[[PendingSave], object]) -> None:
        """Call `callback` with this object at the end, in the thread that ends it; at once if it has ended.

        What it raises goes to the log.
        """
        self._completion.add_done_callback(callback, self)

    def __await__(self) -> Generator[Any, None, Checkpoint]:
        """Wait as `result` does, in a coroutine. If the task is cancelled meanwhile, the save goes on."""
        return self._ended().__await__()

    async def _ended(self) -> Checkpoint:
        import asyncio  # a program that does not use it does not wait for it either

        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: PendingSave) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                loop.call_soon_threadsafe(ended.set)

        self.add_done_callback(tell)
        await ended.wait()
        return self.result(0)

    def __str__(self) -> str:
        return str(self._completion)


def completion_of(pending: PendingSave) -> Completion:
    """Return the package's own record of the end of a save, for adapters."""
    return pending._completion
