"""Where DCP's ``checkpoint_id`` points: which daemon or store, which run, which checkpoint of it.

A checkpoint is named by its prefix, ``DIRECTORY/NAME-STEP``; a last part of digits only is a step of the usual name.

| checkpoint_id | with a daemon, or a store and a run | else |
|---|---|---|
| ``1200`` | step 1200 of the run | step 1200 in the working directory |
| ``model-1200`` | step 1200 of the run, named ``model`` | the same in the working directory |
| ``runs/a/model-1200`` | of the run ``runs/a`` below the root | of the directory ``runs/a`` |
| ``/d/a/model-1200``, ``s3://b/a/model-1200`` | refused: the root is the daemon's | of that directory |
| ``grpc://host:port/runs/a/1200`` | step 1200 of the run ``runs/a`` of that daemon | the same |
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ckptd.client.paths.environment import address_or_local, given_address, or_local
from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming
from ckptd.storage.locations import is_url
from ckptd.wire import addresses

Id = str | os.PathLike[str] | int
"""What DCP may pass as ``checkpoint_id``."""

_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_DAEMON_URL = re.compile(r"(grpcs?://[^/]+)/(.+)")


@dataclass(frozen=True, slots=True)
class DcpPath:
    """One checkpoint to be written or read.

    Attributes:
        address: of a daemon, or a store's path or URL.
        run: the directory below the root.
        name: base name of the checkpoint.
        step: None for one without a step.
    """

    address: str
    run: str
    name: str
    step: int | None

    @property
    def is_at_daemon(self) -> bool:
        """Whether a daemon has it."""
        return addresses.is_daemon(self.address)

    @property
    def base(self) -> str:
        """The last part of the prefix."""
        return self.name if self.step is None else naming.prefix_for(self.name, self.step)

    @property
    def prefix(self) -> str:
        """The whole prefix; at a daemon, below its root."""
        below = f"{self.run}/{self.base}"
        return below if self.is_at_daemon else f"{self.address.rstrip('/')}/{below}"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a ``checkpoint_id`` is relative to.

    Attributes:
        address: of a daemon, or of a store that contains `run`; None if ids are complete paths.
        run: for ids that name no run.
        name: for ids that are only a step.
    """

    address: str | None
    run: str | None
    name: str

    def find(self, checkpoint_id: Id) -> DcpPath:
        """Return where the checkpoint of this id is.

        Raises:
            InvalidRequestError: for an invalid id.
        """
        text = as_text(checkpoint_id)
        at_daemon = _DAEMON_URL.fullmatch(text)
        if at_daemon is not None:
            return Origin(at_daemon[1], None, self.name).find(at_daemon[2])
        if self.address is None:
            return self._of_path(text)
        where, _, base = text.rpartition("/")
        if is_url(text) or text.startswith("/"):
            if not addresses.is_daemon(self.address):
                return self._of_path(text)
            raise InvalidRequestError(
                f"checkpoint_id {text!r} is a path, and the daemon at {self.address} has its own root: "
                "write RUN/NAME-STEP, relative to that root"
            )
        run = where or self.run
        if run is None:
            raise InvalidRequestError(f"checkpoint_id {text!r} names no run, and no run= was given")
        return self._place(self.address, run, base)

    def _of_path(self, text: str) -> DcpPath:
        path = text if is_url(text) else os.path.abspath(text)  # noqa: PTH100  # links stay: it is the requested name
        directory, _, base = path.rpartition("/")
        root, _, run = directory.rpartition("/")
        if not run or not root or root.endswith((":/", ":")) or text.endswith("/"):
            raise InvalidRequestError(
                f"checkpoint_id {text!r} is no checkpoint's prefix: DIRECTORY/NAME-STEP, the directory below a root"
            )
        return self._place(root, run, base)

    def _place(self, address: str, run: str, base: str) -> DcpPath:
        naming.check_run_name(run)
        naming.check_checkpoint_name(base)
        if _DIGITS.fullmatch(base):
            return DcpPath(address, run, self.name, int(base))
        step = naming.step_of(base)
        if step is None or naming.prefix_for(base.rpartition("-")[0], step) != base:
            return DcpPath(address, run, base, None)  # no step, or an unusual spelling of one
        return DcpPath(address, run, base.rpartition("-")[0], step)


def origin(
    address_or_path: str | os.PathLike[str] | None, run: str | None, step: int | None, name: str
) -> tuple[Origin, Id | None]:
    """Return what ids are relative to, and the id that these arguments name, if any.

    Args:
        address_or_path: a daemon's address; with `run`, a store's path or URL; else a checkpoint's id. None is the
            environment's CKPTD_ADDRESS, if there is one; with `run`, else the daemon of this host.
        run: for ids that name no run.
        step: of the checkpoint, in `run`.
        name: for ids that are only a step.

    Raises:
        InvalidRequestError: the arguments contradict each other.
    """
    if address_or_path is None:
        text = given_address(None) or None if run is None else address_or_local(None)
    else:
        text = or_local(as_text(address_or_path))
    is_daemon = text is not None and addresses.is_daemon(text) and not _DAEMON_URL.fullmatch(text)
    if run is None and step is not None:
        raise InvalidRequestError("step= needs run=; without run=, a checkpoint_id names both", actual=step)
    if run is not None or is_daemon or address_or_path is None:
        return Origin(text, run, name), step
    return Origin(None, None, name), text


def is_id(checkpoint_id: Id) -> bool:
    """Return whether this can be a checkpoint's id, given where to begin."""
    try:
        text = as_text(checkpoint_id)
        is_whole = is_url(text) or text.startswith("/")
        Origin(None if is_whole else "grpc://any", None if is_whole else "any", "any").find(text)
    except InvalidRequestError:
        return False
    return True


def is_step(checkpoint_id: Id) -> bool:
    """Return whether this id ends in a step of the run's usual name."""
    return _DIGITS.fullmatch(as_text(checkpoint_id).rpartition("/")[2]) is not None


def as_text(checkpoint_id: Id) -> str:
    """Return an id as text."""
    text = str(checkpoint_id) if type(checkpoint_id) is int else checkpoint_id
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(text, str) or not text:
        raise InvalidRequestError("a checkpoint_id is a path, a URL or a step", actual=repr(checkpoint_id))
    return text
