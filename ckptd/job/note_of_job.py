"""What the first node of a job notes for the others, in the directory that all see: its root, and its coordinator.

The others compare the root with theirs. A second node that takes itself for the first finds that there is one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ckptd.engine.catalog.root import read_id
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.job.waits import Wait
from ckptd.storage.locations import open_store

NAME = "job.json"
_MOST_BYTES = 64 << 10
_LOOK_S = 0.5
_MOST_ENDING_S = 40.0  # of a former first node of the same job, which ends
_MOST_CHANGING_S = 20.0  # while the note may be of a former start of the job


@dataclass(frozen=True, slots=True)
class JobNote:
    """See the module.

    Attributes:
        root: as the first node names it.
        root_id: of that root.
        coordinator: where it listens.
        by: the first node's `ckptd run`, in words.
    """

    root: str
    root_id: str
    coordinator: str
    by: str

    def write(self, directory: Path) -> None:
        """Put the note in place of a former one; raises `NotPermittedError` where that cannot be."""
        try:
            descriptor, unfinished = tempfile.mkstemp(dir=directory, prefix=NAME)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(self), file)
            Path(unfinished).replace(directory / NAME)
        except OSError as error:
            raise NotPermittedError(f"--job-dir cannot be written: {error.strerror}", key=str(directory)) from error


def read(directory: Path) -> JobNote | None:
    """Return the note; None where there is none that can be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        # A listing, as NFS may remember for seconds that a name was not there.
        if any(path.name == NAME for path in directory.iterdir()):
            with (directory / NAME).open() as file:
                said = json.loads(file.read(_MOST_BYTES))
            return JobNote(**{each.name: str(said[each.name]) for each in fields(JobNote)})
    return None


def check_only_first(
    directory: Path, answers: Callable[[str], bool], timeout_s: float, pause: Callable[[], None]
) -> None:
    """Make sure that no other first node of this job runs; one that ends is waited for. The note is taken away.

    Args:
        directory: of the job.
        answers: says whether a coordinator serves at an address.
        timeout_s: how long one may take to end.
        pause: waits for a moment; raises to end the wait.

    Raises:
        ConflictError: another one runs.
    """
    wait = Wait(min(timeout_s, _MOST_ENDING_S))
    while (note := read(directory)) is not None and answers(note.coordinator):
        if wait.is_over:
            raise ConflictError(
                f"this job has a first node already, {note.by}, whose coordinator answers at {note.coordinator}: pass "
                "--first on one node only, and give another job another --job-dir",
                key=str(directory),
            )
        wait.goes_on(f"the coordinator of another first node, {note.by}, to end")
        pause()
    with suppress(OSError):
        (directory / NAME).unlink()


def check_root(directory: Path, root: str, timeout_s: float, pause: Callable[[], None]) -> None:
    """Wait until the first node has noted its root, and make sure that `root` is the same place.

    Args:
        directory: of the job.
        root: as this node names it.
        timeout_s: how long the first node may take.
        pause: waits for a moment; raises to end the wait.

    Raises:
        UnavailableError: the first node has noted nothing in this time.
        InvalidRequestError: it is another place.
    """
    wait, differs = Wait(timeout_s), Wait(min(timeout_s, _MOST_CHANGING_S))
    store = open_store(root)
    while True:
        note = read(directory)
        if note is None:
            if wait.is_over:
                raise UnavailableError(
                    f"the first node of the job has no coordinator that serves after {timeout_s:g} s: see what its "
                    "`ckptd run` says",
                    key=str(directory),
                )
            wait.goes_on(
                lambda: f"the coordinator on the first node of the job, which has noted nothing in {directory}"
            )
        else:
            try:
                here = read_id(store)
            except CkptdError:
                return  # the agent meets it too, and says so
            if here == note.root_id:
                return
            if differs.is_over or wait.is_over:
                raise InvalidRequestError(
                    "--root is another place here than on the first node of the job: pass the same one on all",
                    expected=f"{note.root}, which {note.by} has",
                    actual=root,
                )
            differs.goes_on(f"the first node of the job, whose --root is {note.root}")
        pause()
