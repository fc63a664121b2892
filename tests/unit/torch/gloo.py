"""Processes that have torch imported, and form process groups of any size up to their number over gloo."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from tests.starts import prepared

BOUND_S = 120.0
MEET_S = 60.0
MET = "met"
"""What a process says when it has met the others."""


class Ranks:
    """The processes, with `imports` ready. A context manager: all of them have ended afterwards."""

    def __init__(self, count=4, imports=prepared.TORCH):
        import pytest

        from tests.unit.torch.versions import has

        if not has(2, 7):
            pytest.skip("gloo of this torch may hang as a group ends")
        self._meeting_points = tempfile.TemporaryDirectory(prefix="ckptd-gloo-")
        self._met = 0
        self._count, self._imports = count, imports
        self._start()

    def _start(self):
        self._pipes, self._processes = [], []
        for _ in range(self._count):
            ours, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-m", "tests.unit.torch.gloo", str(theirs.fileno())]
            self._processes.append(prepared.Popen(command, pass_fds=(theirs.fileno(),), imports=self._imports))
            theirs.close()
            ours.send_bytes(multiprocessing.current_process().authkey)  # without it no tensor comes through a pipe
            self._pipes.append(ours)

    def each(self, world_size, job, *arguments):
        """Run ``job(rank, world_size, *arguments)`` in `world_size` processes; return what each returned.

        Now and then gloo's processes connect and wait for each other for ever, before anything of ours has begun: then
        others are started, once.
        """
        if not self._begin(world_size, job, arguments):
            self._end()
            self._start()
            assert self._begin(world_size, job, arguments), f"gloo does not connect {world_size} processes"
        answers = []
        for rank, pipe in enumerate(self._pipes[:world_size]):
            assert pipe.poll(BOUND_S), f"rank {rank} of {world_size} does not answer"
            answers.append(pipe.recv())
        failures = [f"rank {rank}:\n{failure}" for rank, (_, failure) in enumerate(answers) if failure]
        assert not failures, "\n".join(failures)
        return [result for result, _ in answers]

    def _begin(self, world_size, job, arguments):
        """Pass the job on; say whether the processes have met."""
        self._met += 1
        meeting_point = str(Path(self._meeting_points.name, str(self._met)))
        for rank, pipe in enumerate(self._pipes[:world_size]):
            pipe.send((meeting_point, rank, world_size, job, arguments))
        return all(pipe.poll(MEET_S) and pipe.recv() == MET for pipe in self._pipes[:world_size])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end(BOUND_S)
        self._meeting_points.cleanup()

    def _end(self, patience_s=0.0):
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            process.kill()
            process.wait()


def _serve(pipe):
    """Carry out jobs until the other end is closed."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            meeting_point, rank, world_size, job, arguments = pipe.recv()
            try:
                dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=world_size)
                pipe.send(MET)
                try:
                    answer = job(rank, world_size, *arguments), None
                finally:
                    dist.destroy_process_group()
            except BaseException:
                answer = None, traceback.format_exc()
            pipe.send(answer)


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as given:
        multiprocessing.current_process().authkey = given.recv_bytes()
        _serve(given)
