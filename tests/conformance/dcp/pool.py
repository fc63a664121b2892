"""Processes that form gloo groups of any size, again and again, so that torch is imported once for all tests."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings

ANSWER_S = 120.0

# Imported once by the server that the processes are forked from: torch takes seconds.
PRELOADED = [
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint.state_dict",
    "ckptd.torch.dcp_reader",
    "ckptd.torch.dcp_writer",
]


class Pool:
    """As many processes as the largest group has; the first ones form the smaller groups."""

    def __init__(self, size, directory):
        self._directory = directory
        self._count = 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pipes, self._processes = [], []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, case, world_size, *arguments):
        """Call `case` with these arguments on every rank of a group; return what each returned."""
        self._count += 1
        meeting = str(self._directory / f"meeting-{self._count}")
        for rank in range(world_size):
            self._pipes[rank].send((case, rank, world_size, meeting, arguments))
        answers = []
        for rank in range(world_size):
            assert self._pipes[rank].poll(ANSWER_S), f"rank {rank} of {case.__name__} does not answer"
            answers.append(self._pipes[rank].recv())
        wrong = [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(answers) if text]
        assert not wrong, "\n".join(wrong)
        return [value for _, value in answers]

    def close(self):
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(60.0)
            process.kill()


def _work(pipe):
    import torch
    import torch.distributed as dist

    from ckptd.torch import dcp_session

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    while True:
        try:
            case, rank, world_size, meeting, arguments = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
            torch.manual_seed(0)
            answer = "", case(*arguments)
        except BaseException:  # it is told to the test
            answer = traceback.format_exc(), None
        finally:
            dcp_session.close_all()  # a job has ended, the next one may have another number of ranks
            dist.destroy_process_group()
        pipe.send(answer)
