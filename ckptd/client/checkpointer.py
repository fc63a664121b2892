"""`Checkpointer`: save, restore, latest. The public face of ckptd in a training program."""

from __future__ import annotations

import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from ckptd.client import dropping, options, process_rank
from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.preparing import Preparation
from ckptd.client.paths import environment
from ckptd.client.progress import bars
from ckptd.client.replicas import check_policy
from ckptd.client.restoring.restoring import Array
from ckptd.client.saving.call_count import CallCount
from ckptd.client.saving.launching import Launcher
from ckptd.client.saving.pending import PendingSave
from ckptd.client.saving.stall import Stall
from ckptd.client.saving.transport import SaveRequest
from ckptd.client.saving.under_way import UnderWay
from ckptd.client.stored_run import StoredRun
from ckptd.client.telling import Teller, receivers
from ckptd.client.transports import open_transport
from ckptd.errors import CkptdError, InvalidRequestError, UnavailableError
from ckptd.events import delivery
from ckptd.events.delivery import Receiver
from ckptd.format import names as naming

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_log = logging.getLogger("ckptd.client")


class Checkpointer(StoredRun):
    """Saves and restores the checkpoints of one run, as one rank of it. Any thread may use it.

    Nothing is opened before the first call that needs it: a program may create a `Checkpointer`, fork, and use it in
    the child. The interpreter waits for pending saves, at most until their deadlines. A forked child waits for none.

    Several of one process may save into one run, as the same rank and with the same options, except `name`. The run is
    left when the last of them is closed, or was collected and its saves have ended.

    An error of a save that was not seen through its `PendingSave` is raised by the next call. If there is
    none, the end of the program prints it to stderr, and the exit code is not 0.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        run: str | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        name: str = "model.ckpt",
        max_to_keep: int | None = 5,
        keep_checkpoint_every_n_hours: float | None = 10000.0,
        pad_step_number: bool = False,
        latest_filename: str = "checkpoint",
        retention: str = "saver",
        save_relative_paths: bool = True,
        write_meta_graph: str = "each",
        replicas: str = "warn",
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
        on_event: Receiver | Iterable[Receiver] | None = None,
        progress: bool = False,
    ) -> None:
        """Describe the run; nothing is connected yet.

        Args:
            address: a daemon's (``grpc://host:port``, ``grpcs://host:port``, ``unix:///path``, ``host:port``), or the
                path or URL of a store for direct mode, which is for one rank. None is the environment's
                ``CKPTD_ADDRESS``, or else ``unix://``: the daemon of this host, at the user's own socket or at
                ``/run/ckptd/ckptd.sock``. The log says which it is (logger ``ckptd.client``).
            run: the run's directory below the daemon's root or below the store: ``runs/mnist``.
            rank: of this process; default: what the environment's ``RANK`` says, or what launched it (Open MPI, PMI,
                SLURM's ``srun``), else 0.
            world_size: number of processes that save together; default: ``WORLD_SIZE`` or the launcher's, else 1.
            name: base name of the checkpoints. A step belongs to its name: what takes a step, or looks for the latest,
                means this one unless it is told another.
            max_to_keep: how many of the newest are kept; None or 0 keeps all.
            keep_checkpoint_every_n_hours: beyond that, one per so many hours stays for good; None: none.
            pad_step_number: write steps with eight digits.
            latest_filename: the state file's name.
            retention: the rule that the last two numbers follow: "saver", that of ``tf.compat.v1.train.Saver``, or
                "manager", that of ``tf.train.CheckpointManager``, which also writes times into the state file.
            save_relative_paths: the state file names checkpoints relative to itself; otherwise by their full paths.
            write_meta_graph: save `meta_graph` with "each" checkpoint that brings one, or only with the "first".
            replicas: what to do when ranks have other values under one name, of which one is stored, as far as they are
                compared (64 KiB each): "warn", and store the lowest rank's; "refuse" the save; store the "first"
                that comes, and compare nothing.
            timeout_s: the bound of every wait, and of a whole save from its first declaration.
            token: shown to the daemon; default: the environment's ``CKPTD_TOKEN``.
            ca: the authority that signed the daemon's certificate: PEM, or the path of a file with it; default: the
                environment's ``CKPTD_CA``.
            cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file
                with it; default: the environment's ``CKPTD_CERT``.
            key: the private key of `cert`, likewise; default: the environment's ``CKPTD_KEY``.
            on_event: called with each `ckptd.events.Event` of this process: a save is durable, has failed or is slow, a
                checkpoint is restored, or an older one than the latest. One function, or several. Each is called in a
                thread of its own, one event at a time; it may take long, and what it raises goes to the log. `close`
                and the end of the program wait up to 10 s for it.
            progress: draw a bar on stderr for each save and restore that takes long, with tqdm
                (``pip install 'ckptd[progress]'``): one for all ranks, by rank 0, which names the rank that is furthest
                behind. Where stderr is no terminal, and this no notebook, it is a line every 30 s.

        Raises:
            InvalidRequestError: for anything above that can't be right.
        """
        if run is None:
            raise InvalidRequestError("pass a run, the directory below the root: run='runs/mnist'")
        place = process_rank.place(rank, world_size, os.environ)
        heard_by = receivers(on_event, os.environ, place.rank)
        drawn_by = bars(progress, place.rank)
        options.check_timeout(timeout_s)
        self._only_first_meta_graph = options.is_for_first_only(write_meta_graph)
        self._wants_meta_graph = True
        self._replicas = check_policy(replicas)
        run = naming.check_run_name(run)
        run_options = options.run_options(
            name=name,
            max_to_keep=max_to_keep,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
            pad_step_number=pad_step_number,
            latest_filename=latest_filename,
            retention=retention,
            save_relative_paths=save_relative_paths,
        )
        if address is None:
            address = environment.address_or_local(None)
            _log.info("run %s is at %s: %s", run, address, environment.origin_of(address))
        address = environment.given_address(address)
        transport = open_transport(
            address, run, place, run_options, timeout_s=timeout_s, token=token, ca=ca, cert=cert, key=key
        )
        under_way = UnderWay(timeout_s, f"{run} at {address}", transport.place)
        teller = Teller(heard_by, run, place)
        super().__init__(transport, run, place, run_options, under_way, timeout_s, teller, drawn_by)
        self._lock = threading.Lock()
        self._preparation = Preparation(transport.rooms)
        self._calls = CallCount()
        self._launcher = Launcher(transport.saves, self._preparation, under_way, teller, drawn_by)
        self._keep = dropping.follow(self, transport.connection, under_way.wait_for_all)

    def save(
        self,
        step: int | None,
        arrays: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        *,
        meta_graph: bytes | None = None,
        meta_graph_suffix: str = "meta",
        write_state: bool = True,
        overwrite: bool = False,
        immutable: bool = False,
        name: str | None = None,
        may_differ: Collection[str] = (),
    ) -> PendingSave:
        """Begin to save `arrays` as checkpoint `step`; return once they may be changed again.

        Every rank calls this with the same step and the parts that it holds; a tensor that several ranks hold whole is
        written once. At most two saves are under way at a time: a third waits for the first, because each holds a copy.

        Args:
            step: the training step; None for a checkpoint without one.
            arrays: name → numpy array, number, string(s), torch tensor, jax array or anything with ``__array__`` or
                ``__dlpack__``; `Slice` for a part of a larger tensor, or a list of them. Or a function that returns all
                this: if it raises, the other ranks are told and need not wait for this one.
            meta_graph: bytes for a ``.meta`` file beside the checkpoint, see `meta_graph`; rank 0's count.
            meta_graph_suffix: what that file's name ends in, instead of ``meta``.
            write_state: let the state file name the checkpoint as the latest. Otherwise it is found by its step only,
                is never deleted by retention, and watchers get no news of it.
            overwrite: replace a checkpoint of this step, which is refused otherwise.
            immutable: the arrays never change, as those of JAX: return before they are copied. What changes all the
                same is saved as it was or as it is, and a trainer that dies before they are copied loses this save.
            name: base name of this checkpoint, if it is to have another than the run's others.
            may_differ: names whose values need not be the same on all ranks: any one of them will do.

        Returns:
            The save under way; its `result` is durable.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
            UnavailableError: the save before the last has not ended within `timeout_s`.
        """
        stall = Stall()
        self._check_open()
        self._under_way.raise_unseen()
        step = None if step is None else options.check_step(step)
        if meta_graph is not None and not isinstance(meta_graph, bytes):
            raise InvalidRequestError("meta_graph is the bytes of a file", actual=type(meta_graph).__name__)
        suffix = naming.check_meta_suffix(meta_graph_suffix)
        try:
            self._under_way.wait_for_room()
        except UnavailableError as error:
            self._teller.refused(step, stall, error)
            raise
        name = self._options.name if name is None else naming.check_checkpoint_name(name)
        request = SaveRequest(
            step,
            uuid.uuid4().hex,
            meta_graph if self._wants_meta_graph else None,
            overwrite,
            self.timeout_s,
            suffix,
            write_state=write_state,
            name=name,
            stall=stall,
            call=self._calls.next(name, step),
        )
        pending = self._launcher.launch(
            request, arrays, immutable=immutable, replicas=self._replicas, may_differ=may_differ
        )
        if request.meta_graph is not None:
            self._wants_meta_graph = not self._only_first_meta_graph
        return pending

    def staging(self, name: str, shape: Sequence[int], dtype: Any) -> Array:
        """Return an array to produce the bytes of the next save in: `save` does not copy what lies there.

        It belongs to the caller until the save that it is given to; then its bytes must not be changed any more, and
        `staging` returns another array for the save after it. Calling it again before the save returns the same array.

        `save` sums what lies there before it returns, which takes about half as long as a copy. What is changed later
        is never saved: the bytes have been written already, or the change aborts that save, or a later one that uses
        this memory again, with `CorruptionError`. With `immutable` it is the caller's promise, and `save` returns at
        once.

        Args:
            name: of the tensor; any that is unique among those requested.
            shape: in elements.
            dtype: whatever ``np.dtype`` takes; no strings.

        Raises:
            InvalidRequestError: arrays of this dtype can't be staged.
            UnavailableError: saves are under way and hold all memory, for longer than `timeout_s`.
        """
        self._check_open()
        self._under_way.wait_for_room()
        return self._preparation.staging(name, shape, dtype)

    def prepare(self, arrays: Mapping[str, Any]) -> None:
        """Make the first save as fast as the next ones: join the run, and have memory made ready in the background.

        `arrays` is what will be saved; only names, shapes and dtypes count. Returns soon, and may be left out.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
        """
        self._check_open()
        self._preparation.ahead(arrays)

    def share_rooms(self, pool: RoomPool) -> None:
        """Capture into memory of `pool`, which others use before and after; with a daemon it has its own.

        For adapters that need a `Checkpointer` for each checkpoint. Called before anything is saved.
        """
        self.transport.rooms.share(pool)

    def wait(self) -> None:
        """Wait for all saves of this object; raise the first error that was not seen yet.

        Raises:
            UnavailableError: when one has not ended within `timeout_s`; it goes on.
        """
        self._under_way.wait_for_all()
        self._under_way.raise_unseen()

    def settle(self, step: int | None = None, *, name: str | None = None) -> None:
        """Wait until the saves that this process has begun in this run are over: `latest` and `checkpoints` do not.

        Over means that a save has ended, and that what `max_to_keep` deletes because of it is gone from lists and from
        the disk or bucket. An older daemon does not tell that: then only the end is waited for. A failure of a save is
        raised by the next call, as ever.

        Args:
            step: wait only for the saves of this step; None waits for all.
            name: wait only for the saves of this name.

        Raises:
            UnavailableError: that has not come to pass within `timeout_s`; it goes on.
        """
        self._check_open()
        step = None if step is None else options.check_step(step)
        self._under_way.settle(step, None if name in (None, naming.ANY_NAME) else self._name(name))

    def close(self) -> None:
        """Wait for the saves under way, leave the run, free everything. May be repeated.

        Raises:
            CkptdError: what ended a save, if that was not seen yet; everything is freed all the same.
        """
        self._finish()
        self._under_way.raise_unseen()

    def _finish(self) -> None:
        """Do what `close` does, but raise no error of a save."""
        if self._used_by not in (None, os.getpid()):
            self._is_closed = True  # a forked child: all of it is its parent's
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._keep()
        try:
            self._under_way.wait_for_all()
        finally:
            self._preparation.close()
            self.transport.close()
            if self._teller.is_on:
                delivery.drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The error that ends the block says more than the save that ended with it. A save's error in a note does not
        # count as seen: the block's error may be caught, or be a SystemExit; the end of the program reports the save.
        failure: CkptdError | None = None
        try:
            self._finish()
            failure = self._under_way.unseen()
        except CkptdError as late:
            failure = late
        if failure is not None and hasattr(error, "add_note"):
            error.add_note(f"while closing the Checkpointer: {failure}")
