"""Which node of a job this is: as the user says, or as what has started the job says in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptd.errors import InvalidRequestError

NUMBER_VARIABLES = ("SLURM_NODEID", "NODE_RANK", "GROUP_RANK", "JOB_COMPLETION_INDEX")
"""Of SLURM, of torchrun's users and Lightning, of torchrun itself, of an indexed Job of Kubernetes."""
COUNT_VARIABLES = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "NNODES", "GROUP_WORLD_SIZE")
_TASK_ON_NODE = "SLURM_LOCALID"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a job.

    Attributes:
        is_first: whether the coordinator runs here.
        is_alone: whether there are no others.
        said_by: what said so, for messages.
        number: of this node, from 0; None if nothing says.
    """

    is_first: bool
    is_alone: bool
    said_by: str
    number: int | None = None

    @property
    def caveat(self) -> str:
        """What the user should know of a node that is taken to be alone; "" where nothing is in doubt."""
        if not self.is_alone or self.number is None:
            return ""
        return (
            f"{self.said_by}, and nothing says how many nodes there are: this one is taken for the only one. If there "
            "are others, pass --job-dir on all of them, or set NNODES"
        )


def node_of(environ: Mapping[str, str], *, is_first: bool = False, expects_others: bool = False) -> Node:
    """Return this node.

    Args:
        environ: the environment.
        is_first: the user says that this is the first; without that, the environment says.
        expects_others: the user has passed what only a job on several nodes needs.

    Raises:
        InvalidRequestError: the environment contradicts itself, or this is a second task on the same node.
    """
    task = _number(environ, _TASK_ON_NODE)
    if task:
        raise InvalidRequestError(
            f"this is task {task} of its node ({_TASK_ON_NODE}): `ckptd run` runs once on each node, and what it runs "
            "starts the ranks there: srun --ntasks-per-node=1 ckptd run … -- torchrun …"
        )
    number_by = next((name for name in NUMBER_VARIABLES if environ.get(name)), None)
    count_by = next((name for name in COUNT_VARIABLES if environ.get(name)), None)
    number = None if number_by is None else _number(environ, number_by)
    count = None if count_by is None else _count(environ, count_by)
    if number is not None and count is not None and number >= count:
        raise InvalidRequestError(f"{number_by} and {count_by} contradict each other", actual=f"{number} of {count}")
    if is_first:
        if number:
            raise InvalidRequestError(
                f"--first is for one node, and this is another: {number_by}={number}. Where that is set, --first is "
                "not needed"
            )
        return Node(True, False, "--first", number)
    if number:
        return Node(False, False, f"{number_by}={number}", number)
    if (count is not None and count > 1) or expects_others:
        said_by = "neither --first nor a variable" if number is None else f"{number_by}={number}"
        return Node(number == 0, False, said_by, number)
    if count is not None:
        return Node(True, True, f"{count_by}={count}")
    return Node(True, True, "no variable" if number is None else f"{number_by}={number}", number)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequestError(f"{name} is no number", actual=text[:80])
    return int(text)


def _count(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if name == "NNODES" and ":" in text:
        return 2  # torchrun's MIN:MAX: several may come
    return _number(environ, name)
