"""The checkpoints of a source, opened to be looked at.

What an index says is kept in memory for the few that were looked at last, and read anew when the index has changed. A
checkpoint is held, so that nothing deletes it, only while values are read from it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading import indexes
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.tensor_list import TensorLine, TensorList
from ckptd.engine.saves.session import Phase
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format.index import Index
from ckptd.format.names import index_key
from ckptd.printable import printable
from ckptd.storage.holds import hold
from ckptd.web import wording
from ckptd.web.source import PageSource

MOST_INDEX_BYTES = 64 << 20
"""An index that is longer is not shown."""

_MOST_KEPT = 8
_MOST_KEPT_BYTES = 16 << 20  # of indexes, as they are stored
_HANGS_S = 5.0


@dataclass(frozen=True, slots=True)
class Shelved:
    """One checkpoint of a run, whole or not.

    Attributes:
        run: whose it is.
        label: its name, ``model.ckpt-1200``.
        key: what the keys of its files begin with.
        prefix: the same as people open it.
        checkpoint: what is known of it; None of one in quarantine.
        problem: why it is not to be used; "" where nothing is known against it.
    """

    run: str
    label: str
    key: str
    prefix: str
    checkpoint: Checkpoint | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    version: str
    size_bytes: int
    index: Index
    tensors: TensorList


class Shelf:
    """See the module. Any thread may use it; every method blocks."""

    def __init__(self, source: PageSource) -> None:
        """Open nothing yet."""
        self._source = source
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of_run(self, run: str) -> list[Shelved]:
        """Return the checkpoints of a run, oldest first.

        Raises:
            NotFoundError: there is no such run.
        """
        view, source = self._source.run(run), self._source
        found: list[tuple[float, Shelved]] = []
        for each in view.checkpoints:
            label = wording.last_part(each.prefix)
            found.append((each.saved_at, Shelved(run, label, source.key(run, label), each.prefix, each)))
        for record in view.damaged:
            key = source.key(run, record.prefix)
            where = source.objects.location(key)
            found.append((record.saved_at, Shelved(run, record.prefix, key, where, None, record.quarantine)))
        found.sort(key=lambda each: each[0])
        return [each for _, each in found]

    def find(self, run: str, label: str) -> Shelved:
        """Return one checkpoint of a run.

        Raises:
            NotFoundError: there is none of this name, or it is gone.
        """
        return self.find_in(self.of_run(run), label)

    def find_in(self, found: list[Shelved], label: str) -> Shelved:
        """Return the one of this name; see `find`."""
        for each in found:
            if each.label == label:
                return each
        name = printable(label, limit=200)
        raise NotFoundError(f"there is no checkpoint {name!r} in this run: retention may have deleted it meanwhile")

    def tensors(self, shelved: Shelved) -> TensorList:
        """Return the list of its tensors.

        Raises:
            NotFoundError: it is gone.
            InvalidRequestError: its index is too long for a page.
            CorruptionError: its index is damaged.
        """
        return self._look(shelved).tensors

    def tensor(self, shelved: Shelved, *, name: str | None, number: int | None) -> TensorLine:
        """Return one tensor, by its name or else by its number in the index.

        Raises:
            NotFoundError: there is none.
            CkptdError: as `tensors`.
        """
        found = self.tensors(shelved)
        if name is not None and name in found.by_name:
            return found.by_name[name]
        if name is None and number is not None and number < len(found.rows):
            return found.rows[number]
        said = f"number {number}" if name is None else repr(printable(name, limit=200))
        raise NotFoundError(f"{shelved.label} has no tensor {said}")

    def index(self, shelved: Shelved) -> Index:
        """Return its index; see `tensors`."""
        return self._look(shelved).index

    @contextmanager
    def opened(self, shelved: Shelved) -> Iterator[Bundle]:
        """Open it for reading; it is not deleted before the end of the block.

        Raises:
            CkptdError: as `tensors`.
        """
        objects = self._source.objects
        held = hold(objects, index_key(shelved.key))
        bundle = Bundle(objects, shelved.key, self._look(shelved).index).holding(held)
        try:
            yield bundle
        finally:
            bundle.close()

    def why_not_now(self) -> str:
        """Return why no values are read now, in words; "" while they may be: what is saved goes first."""
        for view in self._source.runs() if self._source.is_live else ():
            for save in view.saves:
                is_writing = save.phase in _WRITING and any(
                    each.received_bytes < each.size_bytes and each.idle_s < _HANGS_S for each in save.ranks
                )
                if is_writing or save.phase in _FINISHING:
                    return "a save is being written, and it needs the disk; the values are read when it is done"
        return ""

    def _look(self, shelved: Shelved) -> _Kept:
        objects, key = self._source.objects, index_key(shelved.key)
        stat = objects.stat(key)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.version == stat.version:
                self._kept.move_to_end(key)
                return kept
        if stat.size_bytes > MOST_INDEX_BYTES:
            size = wording.size(stat.size_bytes)
            raise InvalidRequestError(f"its index is {size} long, too long for a page: `ckptd show` lists it")
        index = indexes.decode(objects.get(key, limit_bytes=MOST_INDEX_BYTES), key)
        made = _Kept(stat.version, stat.size_bytes, index, TensorList.of(index))
        with self._lock:
            self._kept[key] = made
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and (
                len(self._kept) > _MOST_KEPT or sum(each.size_bytes for each in self._kept.values()) > _MOST_KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        return made


_WRITING = (Phase.FILLING,)
_FINISHING = (Phase.SEALED,)
