"""A `ckptd` command that ends, in good order, when its standard input is closed, and by no signal meant for others.

    python -m ckptd.job.attached serve --root …

A pipe tells it that the process that started it has ended, however that ended. SLURM sends a signal to every process of
a job: this one does not hear of it, because the trainer, which does, may want to save once more.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading

BLOCKED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    while signal.sigtimedwait(BLOCKED, 0) is not None:
        pass  # what has come so far was for others; a daemon takes a second signal for an order to end at once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Event().wait()  # the handler runs in the main thread; the next signal needs one that takes it


def main() -> None:
    """Run the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # before any thread: each takes it over
    threading.Thread(target=_end_with_stdin, name="ckptd-stdin", daemon=True).start()
    runpy.run_module("ckptd", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
