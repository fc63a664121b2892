"""A save whose arrays are copied while training goes on.

JAX's arrays never change. As long as somebody looks at their memory it stays as it is, too, also when they are deleted
or donated: the step that they are donated to gets other memory then. So nobody has to wait for the copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ckptd.client.pending import PendingSave
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError


class BackgroundSave:
    """One save, from the moment on that its arrays are held.

    Attributes:
        step: which one is saved.
    """

    def __init__(self, step: int, begin: Callable[[], PendingSave]) -> None:
        """Call `begin`, which holds the arrays and returns once they are copied, in a thread of its own."""
        self.step = step
        self._pending: PendingSave | None = None
        self._error: CkptdError | None = None
        # Not a daemon thread: the interpreter waits for it, so that a program's last save is not lost by its end.
        self._thread = threading.Thread(target=self._run, args=(begin,), name=f"ckptd-jax-{step}")
        self._thread.start()

    def wait_for_copy(self) -> None:
        """Return when the arrays are no longer held."""
        self._thread.join()

    def done(self) -> bool:
        """Say whether it has ended, well or badly."""
        return not self._thread.is_alive() and (self._pending is None or self._pending.done())

    def wait(self) -> None:
        """Wait for the end, without asking how it was."""
        self._thread.join()
        if self._pending is not None:
            self._pending.wait()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint once it is durable, else None."""
        return None if self._pending is None else self._pending.checkpoint

    def raise_error(self) -> None:
        """Raise what went wrong, once: after `wait_for_copy` what that found, after the end all else."""
        error, self._error = self._error, None
        if error is None and self._pending is not None and self._pending.done():
            error = self._pending.take_unseen_error()
        if error is not None:
            raise error

    def _run(self, begin: Callable[[], PendingSave]) -> None:
        try:
            self._pending = begin()
        except CkptdError as error:
            self._error = error
        except Exception as error:  # it has to reach the caller, who is in another thread
            self._error = CkptdError(f"a bug in ckptd ended the save of step {self.step}: {error!r}")
            self._error.__cause__ = error
