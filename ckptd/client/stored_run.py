"""A run's checkpoints as one rank of it reads, manages and watches them: what `Checkpointer` does beside saving."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from ckptd.client import options
from ckptd.client.paths.files import files_of
from ckptd.client.paths.latest import as_text
from ckptd.client.process_rank import ProcessRank
from ckptd.client.progress import Bars
from ckptd.client.restoring.falling_back import RestoredSoFar
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.client.restoring.restoring import Array, locate_any, open_reader, read_meta_graph, restore
from ckptd.client.saving.transport import Transport
from ckptd.client.saving.under_way import UnderWay
from ckptd.client.telling import Teller
from ckptd.client.watch import Watch
from ckptd.engine.catalog.presence import read_state
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import RunOptions
from ckptd.engine.series import NamedStep, of_name
from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming
from ckptd.format.state_file import CheckpointState


class StoredRun:
    """The checkpoints of one run. Any thread may use it.

    Saves that this process has begun are waited for where their checkpoint is meant, and their errors are raised.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        place: ProcessRank,
        run_options: RunOptions,
        under_way: UnderWay,
        timeout_s: float,
        teller: Teller,
        bars: Bars | None = None,
    ) -> None:
        self.run = run
        self.rank = place.rank
        self.world_size = place.world_size
        self.timeout_s = timeout_s
        self.transport = transport
        self._options = run_options
        self._under_way = under_way
        self._restored = RestoredSoFar()
        self._teller, self._bars = teller, bars
        self._is_closed = False
        self._used_by: int | None = None  # the process that used it last

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
        began, self._restored.fell_back = time.monotonic(), None
        arrays = restore(
            self.transport.catalog,
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
            progress=None if self._bars is None else self._bars.of_restore(_label(step)),
        )
        checkpoint = self._restored.checkpoint
        if self._teller.is_on and checkpoint is not None:
            if self._restored.fell_back is not None:
                self._teller.fell_back(checkpoint.step, *self._restored.fell_back)
            self._teller.restored(checkpoint, sum(array.nbytes for array in arrays.values()), time.monotonic() - began)
        return arrays

    @property
    def restored(self) -> Checkpoint | None:
        """The checkpoint that `restore` read last; None before the first."""
        return self._restored.checkpoint

    def reader(self, which: int | str | Checkpoint | None = None, *, name: str | None = None) -> CheckpointReader:
        """Open a checkpoint to inspect it and to read single tensors, as `load_checkpoint` does for a path.

        Args:
            which: its step, its base name (``model.ckpt-1200``), or one of `checkpoints`; None for the latest.
            name: what a step, and the latest, are of, as for `restore`.

        Raises:
            NotFoundError: no such checkpoint.
            CorruptionError: its index is damaged.
        """
        self._await_own(which if isinstance(which, int) else None)
        self._under_way.raise_unseen()
        return open_reader(self.transport.catalog, self.run, self._name(name), which, by_many=self.world_size > 1)

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
        located = self.transport.catalog.latest(self._name(name))
        return None if located is None else located.checkpoint

    def checkpoints(self, *, name: str | None = None) -> list[Checkpoint]:
        """Return the checkpoints of this `Checkpointer`'s name, or of `name` as for `latest`, oldest first."""
        self._check_open()
        self._under_way.raise_unseen()
        found = [located.checkpoint for located in self.transport.catalog.checkpoints()]
        return of_name(found, self._name(name), checkpoint_of=lambda checkpoint: checkpoint)

    def pin(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Keep a step of this `Checkpointer`'s name, or of `name`, whatever retention says. May be repeated."""
        return self.transport.catalog.set_pinned(self._step(step, name), True)

    def unpin(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Leave a checkpoint to retention again. May be repeated."""
        return self.transport.catalog.set_pinned(self._step(step, name), False)

    def delete(self, step: int, *, for_good: bool = False, even_latest: bool = False, name: str | None = None) -> None:
        """Delete a checkpoint; it is durably gone on return.

        For a while (10 minutes, unless the daemon is set otherwise) `undelete` brings it back, so its space is free
        only after that; `for_good` frees it at once. The latest is refused, as readers would see time run backward;
        with `even_latest` the one before becomes the latest. The step is of this `Checkpointer`'s name, or of `name`.
        """
        self.transport.catalog.delete(self._step(step, name), for_good, even_latest)

    def undelete(self, step: int, *, name: str | None = None) -> Checkpoint:
        """Bring back what `delete` deleted lately; durable on return.

        It is listed again at its old place, or kept for good if its place in the list was taken since.

        Raises:
            NotFoundError: nothing of this step was deleted lately, or the step was saved again.
        """
        return self.transport.catalog.undelete(self._step(step, name))

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
        return read_meta_graph(self.transport.catalog, self.run, self._name(name), step, suffix)

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
        located = locate_any(self.transport.catalog, self.run, self._name(name), step)
        return files_of(self.transport.catalog.objects(located.key), located.key, as_text(copy_into))

    def state(self) -> CheckpointState | None:
        """Return what the run's state file says, its paths as they stand there; None if there is none yet."""
        self._check_open()
        key = f"{self.run}/{self._options.latest_filename}"
        return read_state(self.transport.catalog.objects(key), key)

    def prefix_of(self, step: int | None) -> str:
        """Return the prefix that a checkpoint of this step has, or will have, as `Checkpoint.prefix` tells it."""
        self._check_open()
        name = self._options.name
        key = name if step is None else naming.prefix_for(name, step, self._options.pad_step_number)
        return self.transport.catalog.objects(self.run).location(f"{self.run}/{key}")

    def watch(self, timeout_s: float | None = None, *, name: str | None = None) -> Watch:
        """Yield the newest checkpoint of this name, if there is one, then each newer one, until `close`.

        Only ever goes forward, and yields nothing twice, also across restarts of a daemon. A slow reader misses some
        in between, but never the newest. Retention may delete a checkpoint that was yielded: pin it to keep it.

        Args:
            timeout_s: end when nothing newer comes for so long; None waits for ever.
            name: of the checkpoints, as for `latest`.

        Raises:
            UnavailableError: while iterating, once the daemon or the store was away for too long.
            CorruptionError: while iterating, when the state file of a directory can't be read as one.
        """
        self._check_open()
        return self.transport.watch(self._name(name), timeout_s)

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


def _label(step: int | None) -> str:
    return "restore" if step is None else f"restore step {step}"
