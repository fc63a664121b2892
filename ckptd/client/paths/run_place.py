"""Where the checkpoints of a directory go: to a daemon, or into that directory through the engine in this process.

Frameworks know paths, not addresses. So their adapters take the path that a program has, and the address comes from an
argument or from the environment. Both together give the arguments of a `Checkpointer`.
"""

from __future__ import annotations

import os
import pathlib
import posixpath
from dataclasses import dataclass

from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import Path, as_text, join
from ckptd.errors import InvalidRequestError
from ckptd.storage.local.os_errors import from_os_error
from ckptd.storage.locations import is_url


@dataclass(frozen=True, slots=True)
class RunPlace:
    """What a `Checkpointer` takes for a directory as a framework's users give it.

    Attributes:
        address: of a daemon or a store.
        run: the directory below its root.
        directory: as it was given, if the checkpoints lie just there; None if it is a run of an address.
    """

    address: str
    run: str
    directory: str | None

    @classmethod
    def of(cls, directory: Path, address: Path | None = None) -> RunPlace:
        """Find the place.

        Args:
            directory: without an address, the path or URL itself. With one, the run below the root of that daemon or
                store; a leading ``/`` is dropped.
            address: see `given_address`.

        Raises:
            InvalidRequestError: when the directory is a root itself, or none below the address.
        """
        given = as_text(directory)
        if not given:
            raise InvalidRequestError("checkpoints need a directory of their own, and none is named")
        address = given_address(address)
        if address:
            if is_url(given):
                raise InvalidRequestError(
                    f"with the address {address} a directory is a path below its root", actual=given
                )
            return cls(address, posixpath.normpath(given.lstrip("/")), None)
        # A Path would not survive every byte of a name.
        whole = given if is_url(given) else os.path.abspath(given)  # noqa: PTH100 (text, as users gave it)
        parent, _, run = whole.rstrip("/").rpartition("/")
        if not run or parent.endswith(":/"):
            raise InvalidRequestError("checkpoints need a directory of their own, not a root", actual=given)
        if not is_url(given):
            check_no_file_in_the_way(whole)
        return cls(parent or "/", run, given)

    def prefix(self, told: str) -> str:
        """Return a prefix as users expect it: beside a directory as it was given, else as the engine told it."""
        if self.directory is None:
            return told
        return join(self.directory, told.rpartition("/")[2])


def check_no_file_in_the_way(directory: str) -> None:
    """Refuse a directory that is a file, or lies below one."""
    above = pathlib.Path(os.path.abspath(directory))  # noqa: PTH100
    try:
        while not above.exists() and above != above.parent:
            above = above.parent
        is_in_the_way = above.exists() and not above.is_dir()
    except OSError as error:  # a name that is too long, or a directory that may not be searched
        raise from_os_error(error, directory) from error
    if is_in_the_way:
        raise InvalidRequestError(f"{above} is a file: checkpoints need a directory", actual=directory)
