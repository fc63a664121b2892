"""`Checkpointer`: save, restore, latest. The public face of ckptd in a training program."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from ckptd.client import options, process_rank
from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.preparing import Preparation
from ckptd.client.daemon.connection import Connection, this_member
from ckptd.client.daemon.remote_transport import RemoteTransport
from ckptd.client.direct.direct_transport import DirectTransport, direct_mode_is_for_one
from ckptd.client.paths import environment
from ckptd.client.paths.files import files_of, read_state
from ckptd.client.paths.latest import as_text
from ckptd.client.replicas import check_policy
from ckptd.client.restoring.falling_back import Restored
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.client.restoring.restoring import Array, locate_any, open_reader, read_meta_graph, restore
from ckptd.client.saving import dropping
from ckptd.client.saving.launching import Launcher
from ckptd.client.saving.pending import PendingSave
from ckptd.client.saving.transport import SaveRequest, Transport
from ckptd.client.saving.under_way import UnderWay
from ckptd.client.watch import Watch
from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import RunOptions
from ckptd.engine.series import NamedStep, of_name
from ckptd.errors import CkptdError, InvalidRequestError
from ckptd.format import names as naming
from ckptd.format.state_file import CheckpointState
from ckptd.wire import addresses

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


class Checkpointer:
    """Saves and restores the checkpoints of one run, as one rank of it. Any thread may use it.

    Nothing is opened before the first call that needs it: a program may create a `Checkpointer`, fork, and use it in
    the child. The program ends once its saves under way have, or their deadlines. A forked child owes nothing.

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
    ) -> None:
        """Describe the run; nothing is connected yet.

        Args:
            address: a daemon's (``grpc://host:port``, ``grpcs://host:port``, ``unix:///path``, ``host:port``), or the
                path or URL of a store for direct mode, which is for one rank. None is the environment's
                ``CKPTD_ADDRESS``, or else a daemon of this host, at the user's own socket or at
                ``/run/ckptd/ckptd.sock``.
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
            retention: whose rule the last two numbers follow: "saver", that of ``tf.compat.v1.train.Saver``, or
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

        Raises:
            InvalidRequestError: for anything above that can't be right.
        """
        if run is None:
            raise InvalidRequestError("pass a run, the directory below the root: run='runs/mnist'")
        place = process_rank.place(rank, world_size, os.environ)
        rank, world_size = place.rank, place.world_size
        if not (isinstance(timeout_s, (int, float)) and timeout_s > 0):
            raise InvalidRequestError("timeout_s is a number of seconds above zero", actual=timeout_s)
        if write_meta_graph not in ("each", "first"):
            raise InvalidRequestError("write_meta_graph", expected="each or first", actual=repr(write_meta_graph))
        RetentionPolicy(max_to_keep, keep_checkpoint_every_n_hours, Rule.named(retention))  # raises for nonsense
        self.run = naming.check_run_name(run)
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._options = RunOptions(
            name=naming.check_checkpoint_name(name),
            max_to_keep=max_to_keep or None,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
            pad_step_number=pad_step_number,
            latest_filename=options.check_latest_filename(latest_filename),
            retention=retention,
            save_relative_paths=save_relative_paths,
            hours_since=time.time() if retention == "manager" else None,
        )
        address = environment.address_or_local(address)
        member = this_member(rank, world_size)
        self._transport: Transport
        if addresses.is_daemon(address):
            connection = Connection(
                address,
                run,
                member,
                self._options,
                timeout_s=timeout_s,
                token=environment.given_token(token),
                ca=environment.given_ca(ca, address),
            )
            self._transport = RemoteTransport(connection)
        else:
            if world_size > 1:
                raise direct_mode_is_for_one(address, member, place.source)
            self._transport = DirectTransport(address, run, member, self._options, timeout_s=timeout_s)
        self._lock = threading.Lock()
        self._under_way = UnderWay(timeout_s, f"{run} at {address}", self._transport.place)
        self._preparation = Preparation(self._transport)
        self._launcher = Launcher(self._transport, self._preparation, self._under_way)
        self._keep = dropping.follow(self, self._transport, self._under_way.wait_for_all)
        self._is_closed = False
        self._restored = Restored()
        self._used_by: int | None = None  # the process that used it last
        self._wants_meta_graph = True
        self._only_first_meta_graph = write_meta_graph == "first"
        self._replicas = check_policy(replicas)

    def save(
        self,
        step: int | None,
        arrays: Mapping[str, Any],
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
                ``__dlpack__``; `Slice` for a part of a larger tensor, or a list of them.
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
        self._check_open()
        self._under_way.raise_unseen()
        step = None if step is None else options.check_step(step)
        if meta_graph is not None and not isinstance(meta_graph, bytes):
            raise InvalidRequestError("meta_graph is the bytes of a file", actual=type(meta_graph).__name__)
        suffix = naming.check_meta_suffix(meta_graph_suffix)
        self._under_way.wait_for_room()
        request = SaveRequest(
            step,
            uuid.uuid4().hex,
            meta_graph if self._wants_meta_graph else None,
            overwrite,
            self.timeout_s,
            suffix,
            write_state=write_state,
            name=self._options.name if name is None else naming.check_checkpoint_name(name),
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
        if isinstance(self._transport, DirectTransport):
            self._transport.share_rooms(pool)

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

    def restore(
        self,
        step: int | None = None,
        names: Sequence[str] | Mapping[str, str] | None = None,
        slices: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None = None,
        into: Mapping[str, Array] | None = None,
        *,
        name: str | None = None,
        fallback: bool | str = True,
    ) -> dict[str, Array]:
        """Read a checkpoint, however many ranks wrote it and however it was sliced.

        Saves of it that this process has begun are waited for, within `timeout_s`, so the latest is the one begun last.

        If the latest turns out to be damaged, the owner of the run reads those bytes again; damage that it confirms
        puts the checkpoint in quarantine, and the newest that verifies is restored. Both steps and the reason are
        printed on stderr, and `restored` tells which checkpoint it was.

        Bytes come straight from disk where this host sees the daemon's directory, else through the daemon; every
        stored piece that is read whole is verified. One of which at least a quarter is wanted is read whole.

        Args:
            step: which one; None for the latest.
            names: the tensors wanted, or a mapping of stored names to the names wanted here; None for all.
            slices: wanted name → (start, shape) of the box to read instead of the whole tensor.
            into: wanted name → array to fill; it is what is returned then. Shape and dtype have to agree.
            name: of the checkpoint, if not this `Checkpointer`'s; ``"*"`` is any.
            fallback: whether to go back to an older checkpoint where the latest is damaged; never with a `step`, nor
                once a part of the damaged one has been restored by another call. With several ranks the step of the
                first rank's restore holds for all of this start: a rank that meets damage raises, and the restarted job
                takes the older step. "together" waits for all ranks, for `timeout_s`, and agrees in one call.

        Returns:
            Wanted name → array, owned by the caller; strings as object arrays of `bytes`.

        Raises:
            NotFoundError: no such checkpoint, or tensor, with the names that come near.
            InvalidRequestError: a box leaves its tensor, or an array of `into` does not fit; both shapes are told.
            CorruptionError: the bytes are wrong, and there is nothing to go back to. What `into` gave is as it was, or
                a note of the error says that it is not.
        """
        self._await_own(step)
        self._under_way.raise_unseen()
        if fallback not in (True, False, "together"):
            raise InvalidRequestError("fallback", expected="True, False or 'together'", actual=repr(fallback))
        # Ranks that read everything read the same; with names or boxes each has probably a part of its own.
        by_many = self.world_size > 1 and names is None and slices is None
        return restore(
            self._transport,
            self.run,
            self._name(name),
            step,
            names,
            slices,
            into,
            restored=self._restored,
            falls_back=bool(fallback),
            together_s=self.timeout_s if fallback == "together" else None,
            by_many=by_many,
        )

    @property
    def restored(self) -> Checkpoint | None:
        """The checkpoint that `restore` read last; None before the first."""
        return self._restored.checkpoint

    def reader(self, which: int | str | Checkpoint | None = None, *, name: str | None = None) -> CheckpointReader:
        """Open a checkpoint to look into it and to read from it bit by bit, as `load_checkpoint` does of a path.

        Args:
            which: its step, its base name (``model.ckpt-1200``), or one of `checkpoints`; None for the latest.
            name: what a step, and the latest, are of, as for `restore`.

        Raises:
            NotFoundError: no such checkpoint.
            CorruptionError: its index is damaged.
        """
        self._await_own(which if isinstance(which, int) else None)
        self._under_way.raise_unseen()
        return open_reader(self._transport, self.run, self._name(name), which, by_many=self.world_size > 1)

    def latest(self, *, name: str | None = None) -> Checkpoint | None:
        """Return the newest complete checkpoint, None if there is none yet.

        Args:
            name: of the checkpoint, if not this `Checkpointer`'s; ``"*"`` is any. The usual name, ``model.ckpt``, means
                whatever is there in a run that holds nothing of that name.

        Raises:
            CorruptionError: there are some, and all of them are damaged and in quarantine.
        """
        self._check_open()
        self._under_way.raise_unseen()
        located = self._transport.latest(self._name(name))
        return None if located is None else located.checkpoint

    def checkpoints(self, *, name: str | None = None) -> list[Checkpoint]:
        """Return the checkpoints of this `Checkpointer`'s name, or of `name` as for `latest`, oldest first."""
        self._check_open()
        self._under_way.raise_unseen()
        found = [located.checkpoint for located in self._transport.checkpoints()]
        return of_name(found, self._name(name), checkpoint_of=lambda checkpoint: checkpoint)

    def pin(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Keep a step of this `Checkpointer`'s name, or of `name`, whatever retention says. May be repeated."""
        return self._transport.set_pinned(self._step(step, name), True)

    def unpin(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Leave a checkpoint to retention again. May be repeated."""
        return self._transport.set_pinned(self._step(step, name), False)

    def delete(self, step: int, *, for_good: bool = False, even_latest: bool = False, name: str | None = None) -> None:
        """Delete a checkpoint; it is durably gone on return.

        For a while (10 minutes, unless the daemon is set otherwise) `undelete` brings it back, so its space is free
        only after that; `for_good` frees it at once. The latest is refused, as readers would see time run backward;
        with `even_latest` the one before becomes the latest. The step is of this `Checkpointer`'s name, or of `name`.
        """
        self._transport.delete(self._step(step, name), for_good, even_latest)

    def undelete(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Bring back what `delete` deleted lately; durable on return.

        It is listed again at its old place, or kept for good if its place in the list was taken since.

        Raises:
            NotFoundError: nothing of this step was deleted lately, or the step was saved again.
        """
        return self._transport.undelete(self._step(step, name))

    def meta_graph(
        self, step: int | str | Checkpoint | None = None, *, suffix: str = "meta", name: str | None = None
    ) -> bytes | None:
        """Return the bytes that `save` was given as `meta_graph`, None if the checkpoint has none.

        Args:
            step: of the checkpoint; None for the latest; also a base name or a `Checkpoint`, as for `reader`.
            suffix: what the file's name ends in.
            name: of the checkpoint, as for `restore`.

        Raises:
            NotFoundError: no such checkpoint.
        """
        suffix = naming.check_checkpoint_name(suffix)
        self._await_own(step)
        return read_meta_graph(self._transport, self.run, self._name(name), step, suffix)

    def files(
        self, step: int | str | Checkpoint | None = None, *, copy_into: str | os.PathLike[str], name: str | None = None
    ) -> str:
        """Return the prefix by which other programs of this host, such as TensorFlow, open a checkpoint's files.

        Files that this host has not, in a bucket or on the host of a daemon, are copied into `copy_into` first.

        Args:
            step: of the checkpoint; None for the latest; also a base name or a `Checkpoint`, as for `reader`.
            copy_into: a directory of the caller's, which the caller deletes.
            name: of the checkpoint, as for `restore`.

        Raises:
            NotFoundError: no such checkpoint.
            CorruptionError: what was to be copied is damaged.
        """
        self._await_own(step)
        located = locate_any(self._transport, self.run, self._name(name), step)
        return files_of(self._transport.objects(located.key), located.key, as_text(copy_into))

    def state(self) -> CheckpointState | None:
        """Return what the run's state file says, its paths as they stand there; None if there is none yet."""
        self._check_open()
        key = f"{self.run}/{self._options.latest_filename}"
        return read_state(self._transport.objects(key), key)

    def prefix_of(self, step: int | None) -> str:
        """Return the prefix that a checkpoint of this step has, or will have, as `Checkpoint.prefix` tells it."""
        self._check_open()
        name = self._options.name
        key = name if step is None else naming.prefix_for(name, step, self._options.pad_step_number)
        return self._transport.objects(self.run).location(f"{self.run}/{key}")

    def watch(self, timeout_s: float | None = None, *, name: str | None = None) -> Watch:
        """Yield the newest checkpoint of this name, if there is one, then each newer one, until `close`.

        Only ever goes forward, and tells nothing twice, also across restarts of a daemon. A slow reader misses some
        in between, and never the newest. A checkpoint that was told may be deleted by retention: pin it to keep it.

        Args:
            timeout_s: end when nothing newer comes for so long; None waits for ever.
            name: of the checkpoints, as for `latest`.

        Raises:
            UnavailableError: while iterating, once the daemon or the store was away for too long.
            CorruptionError: while iterating, when the state file of a directory can't be read as one.
        """
        self._check_open()
        return self._transport.watch(self._name(name), timeout_s)

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
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The error that ends the block says more than the save that ended with it. What is only noted counts as seen by
        # nobody: the error may be caught, or be a SystemExit, and then the end of the program tells of the save.
        failure: CkptdError | None = None
        try:
            self._finish()
            failure = self._under_way.unseen()
        except CkptdError as late:
            failure = late
        if failure is not None and hasattr(error, "add_note"):
            error.add_note(f"while closing the Checkpointer: {failure}")

    def _name(self, name: str | None) -> str:
        if name is None:
            return self._options.name
        return name if name == naming.ANY_NAME else naming.check_checkpoint_name(name)

    def _step(self, step: int, name: str | None) -> NamedStep:
        """Return what a step means, once the saves of it that this process has begun have ended."""
        named = NamedStep(self._name(name), options.check_step(step))
        self._await_own(named.step)
        return named

    def _await_own(self, which: int | str | Checkpoint | None) -> None:
        self._check_open()
        self._under_way.await_ends(which if isinstance(which, int) else None)

    def _check_open(self) -> None:
        self._used_by = os.getpid()
        if self._is_closed:
            raise InvalidRequestError("the Checkpointer was closed")
