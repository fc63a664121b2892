"""One node of a job, from its daemons' start to their end: what `ckptd run` does, in a process of its own.

The daemons are there before the trainer, and end after it, when what it has saved is published. They are started again
if they end by themselves. Nothing that was started here is left, however the trainer ends.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ckptd.client.paths.environment import TOKEN_VARIABLE
from ckptd.daemon.roles import STARTED_BY_VARIABLE, host_name
from ckptd.engine.catalog.root import read_id
from ckptd.errors import CkptdError, ConflictError, NotPermittedError, SessionAbortedError, UnavailableError
from ckptd.job import daemons, note_of_job, secrets_of_job
from ckptd.job.daemons import JobDaemon
from ckptd.job.nodes import Node
from ckptd.job.note_of_job import JobNote
from ckptd.job.processes import Children, adopt_orphans, how_it_ended, spawn
from ckptd.job.restarts import Restarts
from ckptd.job.secrets_of_job import JobSecrets
from ckptd.job.waits import Wait
from ckptd.printable import counted
from ckptd.storage.locations import open_store
from ckptd.wire.addresses import MAX_SOCKET_PATH
from ckptd.wire.places import ADDRESS_VARIABLE

TRAINER_SHARE = 0.75
"""Of the grace time after SIGTERM, what a trainer may use; the rest is for what it has saved by then."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals for the trainer. They are blocked here."""

_LOOK_S = 0.1
_LEFTOVERS_S = 5.0  # for what a trainer has left behind
_LEAST_S = 10.0  # for saves under way, however long the trainer took to end after SIGTERM
_TAIL_S = 20.0  # for a daemon to end, after its grace time
_AT_ONCE_S = 2.0  # for one that has been told to end at once
_PAUSE_S = 0.5
_LONGEST_NAME = "/ckptd.sock.arena.4194304"

_log = logging.getLogger("ckptd.run")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the user has passed to `ckptd run`.

    Attributes:
        root: where checkpoints are kept.
        command: the trainer's program and arguments.
        node: which node this is.
        job_dir: where the nodes share their secrets; None on one node, or with `coordinator`.
        advertise: the host name or address at which the other nodes reach this one; None for the one that leads out.
        port: the coordinator's; 0 for any that is free.
        coordinator: addresses of one that runs already.
        ca: the authority that signed its certificate, a path.
        token_file: with the token that it requires, a path.
        name: of this host; None for what the agent finds.
        shared_directory: the root is a directory that all nodes mount.
        log_dir: of the daemons' logs; None: warnings go to standard error.
        grace_s: how long saves under way are waited for at the end.
        start_s: how long the daemons may take to serve.
    """

    root: str
    command: Sequence[str]
    node: Node
    job_dir: Path | None = None
    advertise: str | None = None
    port: int = 0
    coordinator: Sequence[str] = ()
    ca: str | None = None
    token_file: str | None = None
    name: str | None = None
    shared_directory: bool = False
    log_dir: Path | None = None
    grace_s: float = 20.0
    start_s: float = 120.0


class Told(Exception):  # noqa: N818 - it is no error
    """The user, or the system, has ended the job before the trainer was started."""


class Job:
    """See the module. `orders` returns the signals that came since the last call, or raises `Told` at the end."""

    def __init__(
        self,
        options: JobOptions,
        environ: Mapping[str, str],
        orders: Callable[[int], Sequence[int]],
        *,
        mask: Collection[int],
        note: Callable[[int], None],
    ) -> None:
        """Start nothing yet.

        Args:
            options: the user's.
            environ: for all that is started.
            orders: returns the signals for the trainer, whose pid it gets (0: there is none yet), since its last call.
            mask: the signals that the trainer blocks.
            note: is told the pid of each daemon.
        """
        self._options, self._environ, self._orders, self._mask, self._note = options, environ, orders, mask, note
        self._children = Children()
        self._daemons: list[JobDaemon] = []
        self._agent: JobDaemon | None = None
        self._coordinator: JobDaemon | None = None
        self._own = Path()
        self._host, self._trainer = "", 0
        self._name = f"`ckptd run` {secrets.token_hex(3)} on {os.uname().nodename}"
        self._root_id = ""
        self._told_at: float | None = None
        self._restarts = Restarts()

    def run(self) -> int:
        """Run the node to its end, and return the exit code.

        Raises:
            CkptdError: the daemons or the trainer could not be started; nothing runs any more.
        """
        adopt_orphans()
        self._own = Path(tempfile.mkdtemp(prefix="ckptd-run-", dir=_short_directory()))
        try:
            self._start()
            while signal.sigtimedwait(FORWARDED, 0) is not None:
                pass  # what came before there was a trainer did not come to it
            self._trainer = spawn(
                self._options.command,
                self._of_trainer(),
                mask=self._mask,
            )
            code = self._attend()
            return self._end(code)
        except Told:
            return 128 + signal.SIGTERM
        finally:
            self._end_all()
            shutil.rmtree(self._own, ignore_errors=True)

    # The start

    def _of_trainer(self) -> dict[str, str]:
        agent = self._serving()
        token = agent.credentials.token
        shown = {} if token is None else {TOKEN_VARIABLE: token}
        return {**self._environ, ADDRESS_VARIABLE: agent.address(), **shown}

    def _start(self) -> None:
        options = self._options
        if options.node.is_alone and not options.coordinator:
            log = self._log_of("daemon")
            self._agent = self._begun(daemons.whole(options.root, self._own, log, options.grace_s))
        elif options.coordinator:
            self._agent = self._begun(self._agent_of(self._towards_given()))
        else:
            host_name(options.name, self._environ)  # before anything is started
            host = options.advertise or daemons.reached_at()
            job = self._find_secrets(host)
            towards = ["--ca", job.ca, "--coordinator-token-file", job.token]
            self._agent = self._begun(daemons.for_peers(self._agent_of(towards), host, job))
        self._wait(self._agent, self._agent.serves)
        self._host = self._agent.host()

    def _agent_of(self, towards: Sequence[str]) -> JobDaemon:
        options = self._options
        return daemons.agent(
            options.root, self._own, self._log_of("agent"), options.grace_s, name=options.name, towards=towards
        )

    def _find_secrets(self, host: str) -> JobSecrets:
        """Return the job's secrets; on the first node they are made, and the coordinator is started."""
        options, own = self._options, self._own
        assert options.job_dir is not None, "the command line requires it"
        if not options.node.is_first:
            job = secrets_of_job.wait_for(options.job_dir, (host,), own, options.start_s, self._pause)
            note_of_job.check_root(options.job_dir, options.root, options.start_s, self._pause)
            return job
        job = secrets_of_job.make(options.job_dir, (host,), own)
        note_of_job.check_only_first(
            options.job_dir, lambda at: daemons.serves(at, job.credentials()), options.start_s, self._pause
        )
        listen, log = daemons.secure(host, options.port), self._log_of("coordinator")
        self._coordinator = self._begun(
            daemons.coordinator(
                options.root,
                own,
                log,
                options.grace_s,
                listen=listen,
                job=job,
                is_shared=options.shared_directory,
            )
        )
        self._wait(self._coordinator, self._coordinator.serves)
        self._root_id = read_id(open_store(options.root)) or ""
        self._note_job(self._coordinator.address())
        return job

    def _note_job(self, coordinator: str) -> None:
        """Tell the other nodes, and whichever takes itself for the first, where the coordinator of the job is."""
        assert self._options.job_dir is not None, "the command line requires it"
        JobNote(self._options.root, self._root_id, coordinator, self._name).write(self._options.job_dir)

    def _pause(self) -> None:
        self._hear(0)
        signal.sigtimedwait({signal.SIGCHLD}, _PAUSE_S)

    def _towards_given(self) -> list[str]:
        options = self._options
        towards = [text for address in options.coordinator for text in ("--coordinator", address)]
        towards += [] if options.ca is None else ["--ca", options.ca]
        return towards + ([] if options.token_file is None else ["--coordinator-token-file", options.token_file])

    def _start_daemon(self, daemon: JobDaemon) -> None:
        daemon.start({**self._environ, STARTED_BY_VARIABLE: self._name})
        self._note(daemon.pid)

    def _begun(self, daemon: JobDaemon) -> JobDaemon:
        self._start_daemon(daemon)
        self._daemons.append(daemon)
        return daemon

    def _log_of(self, what: str) -> Path | None:
        if self._options.log_dir is None:
            return None
        try:
            self._options.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotPermittedError(
                f"the directory for logs cannot be made: {error.strerror}", key=str(self._options.log_dir)
            ) from error
        named = [host_name(self._options.name, self._environ)]
        named += [] if self._options.name is None else [os.uname().nodename]  # in case two nodes were given one
        named += [] if self._options.node.number is None else [str(self._options.node.number)]
        return self._options.log_dir / f"{'.'.join(named)}-{what}.log"

    def _wait(self, daemon: JobDaemon, is_there: Callable[[], bool]) -> None:
        wait = Wait(self._options.start_s)
        while not is_there():
            self._hear(0)
            if (code := self._children.code(daemon.pid)) is not None:
                _tell_last_words(daemon)
                if code == ConflictError.exit_code and daemon.has_served:
                    raise ConflictError(f"the {daemon.what} ended at its start: {self._whose_place()}")
                raise UnavailableError(
                    f"the {daemon.what} ended at its start, {how_it_ended(code)}", key=self._options.root
                )
            if wait.is_over:
                _tell_last_words(daemon)
                raise UnavailableError(
                    f"the {daemon.what} takes no saves {self._options.start_s:g} s after its start: {self._why(daemon)}"
                )
            wait.goes_on(lambda: f"the {daemon.what}: {self._why(daemon)}")
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)

    def _whose_place(self) -> str:
        name = host_name(self._options.name, self._environ)
        return f"another one of the name {name} attends. Give each node a --name of its own"

    def _why(self, daemon: JobDaemon) -> str:
        if daemon is self._agent and (known := daemon.why_not()):
            return known
        if daemon is self._agent and self._options.coordinator:
            return f"it has no coordinator: none lets it attend at {', '.join(self._options.coordinator)}"
        if daemon is self._agent and not self._options.node.is_first:
            return (
                "it has no coordinator; does the first node's `ckptd run` run, on the same --root, and can this node "
                "reach the address that its --advertise names?"
            )
        return "it does not answer, or not yet"

    def _serving(self) -> JobDaemon:
        assert self._agent is not None, "it is started first"
        return self._agent

    # While the trainer runs

    def _hear(self, trainer: int) -> None:
        for number in self._orders(trainer):
            if number == signal.SIGTERM and self._told_at is None:
                self._told_at = time.monotonic()
            if trainer:
                with suppress(ProcessLookupError):
                    os.kill(trainer, number)
            elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                raise Told

    def _attend(self) -> int:
        """Return the exit code of the trainer, once it has ended; it is killed if it takes too long after SIGTERM."""
        while (code := self._children.code(self._trainer)) is None:
            self._hear(self._trainer)
            self._restart_what_ended()
            if self._told_at is not None and time.monotonic() - self._told_at >= TRAINER_SHARE * self._options.grace_s:
                _log.warning(
                    "the trainer is killed: it has not ended %g s after SIGTERM", TRAINER_SHARE * self._options.grace_s
                )
                with suppress(ProcessLookupError):
                    os.kill(self._trainer, signal.SIGKILL)
                self._children.wait([self._trainer], time.monotonic() + _LEFTOVERS_S)
                return self._children.code(self._trainer) or -signal.SIGKILL
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)
        return code

    def _restart_what_ended(self) -> None:
        for daemon in self._daemons:
            if (code := self._children.code(daemon.pid)) is None:
                self._look_at(daemon)
            elif self._restarts.is_due(daemon, code):
                self._start_daemon(daemon)

    def _look_at(self, daemon: JobDaemon) -> None:
        """See when one that was started again serves."""
        if not daemon.has_served and (address := daemon.address()) and daemon is self._coordinator:
            with suppress(CkptdError):
                self._note_job(address)

    # The end

    def _end(self, code: int) -> int:
        """End the daemons in order, once saves under way are published; return the exit code of the node."""
        left = self._children.end_descendants([daemon.pid for daemon in self._daemons], _LEFTOVERS_S)
        if left:
            _log.warning("the trainer left %s behind; ended", counted(left, "process", "processes"))
        began = time.monotonic() if self._told_at is None else self._told_at
        until = max(began + self._options.grace_s, time.monotonic() + _LEAST_S)
        is_lost = self._finish(self._serving(), until)
        if self._coordinator is not None:
            self._wait_for_other_nodes(self._coordinator, until)
            is_lost = self._finish(self._coordinator, until) or is_lost
        if is_lost:
            _log.error("a save that was accepted was not published")
            return SessionAbortedError.exit_code
        return code if code >= 0 else 128 - code

    def _wait_for_other_nodes(self, coordinator: JobDaemon, until: float) -> None:
        while time.monotonic() < until and self._children.code(coordinator.pid) is None:
            with suppress(CkptdError):
                if coordinator.is_idle(self._host):
                    return
            self._orders(0)
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)
        _log.warning("other nodes still have ranks after the grace time of %g s; ending", self._options.grace_s)

    def _finish(self, daemon: JobDaemon, until: float) -> bool:
        """Have a daemon end; return whether it has lost a save.

        It gives up what is under way after its grace time, and removes what that has written. After SIGTERM there may
        be less time: then it ends at once at `until`, and the next start removes that.
        """
        daemon.release()
        if not self._children.wait([daemon.pid], until + (_TAIL_S if self._told_at is None else 0.0)):
            for number, wait_s in ((signal.SIGTERM, _AT_ONCE_S), (signal.SIGKILL, _TAIL_S)):
                with suppress(ProcessLookupError):
                    os.kill(daemon.pid, number)
                if self._children.wait([daemon.pid], time.monotonic() + wait_s):
                    break
            return True
        code = self._children.code(daemon.pid)
        if code not in (0, SessionAbortedError.exit_code):
            _log.warning("the %s ended, %s%s", daemon.what, how_it_ended(code or 0), daemon.last_words())
        return code == SessionAbortedError.exit_code

    def _end_all(self) -> None:
        """End what is left, in whatever way this came about."""
        for daemon in self._daemons:
            daemon.release()
        self._children.end_descendants([daemon.pid for daemon in self._daemons], _LEFTOVERS_S)
        self._children.wait(
            [daemon.pid for daemon in self._daemons], time.monotonic() + self._options.grace_s + _TAIL_S
        )
        self._children.end_descendants((), 0.0)


def _tell_last_words(daemon: JobDaemon) -> None:
    """Log them: an error's message is one line."""
    if words := daemon.last_words():
        _log.warning("the log of the %s ends:%s", daemon.what, words)


def _short_directory() -> str:
    """Return a directory for sockets, whose paths are bounded."""
    usual = tempfile.gettempdir()
    room = MAX_SOCKET_PATH - len("/ckptd-run-xxxxxxxx") - len(_LONGEST_NAME)
    return usual if len(os.fsencode(usual)) <= room else "/tmp"  # noqa: S108 - mkdtemp makes the name
