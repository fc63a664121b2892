"""Which rank this process is, of how many: from the arguments, `RANK` and `WORLD_SIZE`, or what launched it.

Each of the two numbers comes from the first source that has it:

1. the arguments `rank` and `world_size`;
2. ``RANK`` and ``WORLD_SIZE``, as torchrun and most others set them;
3. Open MPI's ``OMPI_COMM_WORLD_RANK`` and ``OMPI_COMM_WORLD_SIZE``;
4. ``PMI_RANK`` and ``PMI_SIZE``, of MPICH, Intel MPI and ``srun --mpi=pmi2``;
5. SLURM's ``SLURM_PROCID`` and ``SLURM_STEP_NUM_TASKS`` (or ``SLURM_NTASKS``), inside a step that ``srun`` has started.

Batch scripts, ``salloc`` and notebooks of a SLURM job have the last ones too, and are one process all the same: only
``srun`` sets ``SLURM_STEP_ID`` to a number of its own. Open MPI and PMI come before SLURM, because ``mpirun`` starts
its daemons, and not the processes, by ``srun``.

If they name several processes but not which one this is, that is refused: each would act as rank 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptd.errors import InvalidRequestError

# SLURM numbers the steps that are not srun's from the top of 32 bits: batch, interactive, extern, pending.
_FIRST_RESERVED_STEP = 0xFFFFFFF0


@dataclass(frozen=True, slots=True)
class _Launcher:
    """Names of the variables that tell the rank, and the number of processes: the first that is set counts."""

    rank: str
    world_size: tuple[str, ...]


_PLAIN = _Launcher("RANK", ("WORLD_SIZE",))
_OPEN_MPI = _Launcher("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",))
_PMI = _Launcher("PMI_RANK", ("PMI_SIZE",))
_SLURM = _Launcher("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))


@dataclass(frozen=True, slots=True)
class ProcessRank:
    """The rank of this process, the number of processes, and what told them, for messages."""

    rank: int
    world_size: int
    source: str


def place(rank: int | None, world_size: int | None, environ: Mapping[str, str]) -> ProcessRank:
    """Return the place of this process: as given, else as the environment has it, else 0 of 1.

    Raises:
        InvalidRequestError: a variable is no number, the rank is none of these, or there are several processes and
            nothing tells which one this is.
    """
    launchers = [_PLAIN, _OPEN_MPI, _PMI, *([_SLURM] if _is_in_step(environ) else [])]
    sources = []
    number_said_by = "world_size"
    is_told = world_size is not None or rank is not None
    if world_size is None:
        world_size, name = _first(environ, [name for each in launchers for name in each.world_size])
        if name:
            sources.append(name)
            number_said_by = name
    if rank is None:
        rank, name = _first(environ, [each.rank for each in launchers])
        if name:
            sources.append(name)
    if rank is None and not is_told and (world_size or 1) > 1:
        raise InvalidRequestError(
            f"{number_said_by} says that {world_size} processes save together, and nothing says which one this is: "
            "set RANK and WORLD_SIZE, or pass rank= and world_size= (0 and 1 if this process saves alone)"
        )
    rank = 0 if rank is None else rank
    world_size = 1 if world_size is None else world_size
    source = f"according to {' and '.join(sources)}" if sources else ""
    if not 0 <= rank < world_size:
        raise InvalidRequestError(
            f"rank out of range{', ' if source else ''}{source}", expected=f"0 to {world_size - 1}", actual=rank
        )
    return ProcessRank(rank, world_size, source)


def _first(environ: Mapping[str, str], names: list[str]) -> tuple[int | None, str]:
    """Return the first number that is set, and its variable's name."""
    for name in names:
        text = environ.get(name, "").strip()
        if text:
            try:
                return int(text), name
            except ValueError as error:
                raise InvalidRequestError(f"the environment's {name} is no number", actual=text) from error
    return None, ""


def _is_in_step(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", "").strip() or environ.get("SLURM_STEPID", "").strip()
    return step.isascii() and step.isdigit() and int(step) < _FIRST_RESERVED_STEP
