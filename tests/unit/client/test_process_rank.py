"""Which rank a process is, by its arguments and by what launched it."""

from __future__ import annotations

import pytest

import ckptd
from ckptd.client.process_rank import place
from ckptd.errors import InvalidRequestError

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}
HYDRA = {"PMI_RANK": "5", "PMI_SIZE": "6"}
BATCH = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
SRUN = BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}

CASES = [
    ({}, (0, 1)),
    (TORCHRUN, (2, 4)),
    (MPIRUN, (1, 3)),
    (HYDRA, (5, 6)),
    (SRUN, (1, 2)),
    (BATCH, (0, 1)),  # a batch script, or a notebook in it, is one process
    (BATCH | {"SLURM_STEP_ID": "4294967290"}, (0, 1)),  # salloc's interactive step
    (SRUN | MPIRUN, (1, 3)),  # srun started mpirun's daemons
    (SRUN | HYDRA, (5, 6)),
    (SRUN | MPIRUN | TORCHRUN, (2, 4)),
    (SRUN | {"WORLD_SIZE": "8"}, (1, 8)),  # as many scripts for SLURM set it
    (TORCHRUN | {"RANK": " "}, None),
    ({"RANK": "0"}, (0, 1)),
    ({"RANK": "3"}, None),
    ({"WORLD_SIZE": "4"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, None),
    ({"PMI_SIZE": "2"}, None),
    (SRUN | {"SLURM_PROCID": ""}, None),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": ""}, (0, 1)),
    (MPIRUN | {"OMPI_COMM_WORLD_RANK": "one"}, None),
]


@pytest.mark.parametrize(("environ", "expected"), CASES)
def test_the_launcher_tells_the_rank_in_a_fixed_order(environ, expected, monkeypatch):
    for name in (*TORCHRUN, *MPIRUN, *HYDRA, *SRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(InvalidRequestError, match="RANK|WORLD_SIZE|processes"):
            ckptd.Checkpointer("127.0.0.1:1", "r")
    else:
        made = ckptd.Checkpointer("127.0.0.1:1", "r")
        assert (made.rank, made.world_size) == expected
    alone = ckptd.Checkpointer("127.0.0.1:1", "r", rank=0, world_size=1)
    assert (alone.rank, alone.world_size) == (0, 1)


def test_arguments_come_first_each_by_itself():
    assert (place(0, None, TORCHRUN).rank, place(0, None, TORCHRUN).world_size) == (0, 4)
    assert (place(None, 3, TORCHRUN).rank, place(None, 3, TORCHRUN).world_size) == (2, 3)
    assert place(None, 4, {}).rank == 0


def test_tasks_of_srun_without_a_daemon_are_refused_with_what_told_that_there_are_several(tmp_path, monkeypatch):
    for name in (*TORCHRUN, *MPIRUN, *HYDRA):
        monkeypatch.delenv(name, raising=False)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequestError, match=r"rank 1 of 2.*SLURM_STEP_NUM_TASKS and SLURM_PROCID.*world_size=1"):
        ckptd.Checkpointer(str(tmp_path), "r")
