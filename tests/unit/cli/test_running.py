"""A user's command never outlives us after a signal."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from ckptd.cli.running import Command, Terminated, terminating
from ckptd.engine.checkpoint import Checkpoint
from tests.fakes.waiting import eventually


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_while_the_command_is_started_ends_it_too(monkeypatch, tmp_path, number, error):
    pipe = tmp_path / "held by all that is started"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def is_held():
        try:
            return os.read(reader, 1) != b""
        except BlockingIOError:
            return True

    class Interrupted(subprocess.Popen):
        """A start that a signal comes in, when the command runs already."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            eventually(is_held)
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminating(), pytest.raises(error):
            Command(f"sleep 300 3>'{pipe}' & wait").run(Checkpoint("runs/a/m-1", 1, 0, 1, 0.0))
    finally:
        signal.signal(signal.SIGINT, before)
    eventually(lambda: not is_held())
    os.close(reader)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_in_a_finalizer_of_the_command_is_not_lost(monkeypatch, number, error):
    class Freed(subprocess.Popen):
        """A command whose process has ended; a signal comes while Python frees what is known of it."""

        def __del__(self):
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Freed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminating(), pytest.raises(error):
            Command("true").run(Checkpoint("runs/a/m-1", 1, 0, 1, 0.0))
    finally:
        signal.signal(signal.SIGINT, before)
