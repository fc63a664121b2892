"""The versions of one object in a directory that several hosts write to.

There, locks may be of one host, so comparing an object with what was seen and replacing it cannot be one step by a
lock. It is one by link(), which succeeds for one of all callers. From its first conditional change on an object
``NAME`` has a directory ``.NAME.ckptd-versions``, in which each version is a file named by its number. A change links
the file of the next number: an owner that finds it taken has lost. Only then is ``NAME`` replaced, for other programs
to read. A process that is paused between the two and wakes up late may show an older version there; the next look, its
own or another owner's, shows the newest again.

So the newest version is what counts, unless ``NAME`` is a file that is no version and newer: that was written by
another program. A deletion is a version, too. Directories are opened before each look, as this is when NFS compares
what it remembers of one with the server (close-to-open consistency). Which files are versions, `version_files` says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from ckptd.errors import ConflictError, UnavailableError
from ckptd.storage.base import ObjectStat
from ckptd.storage.keys import VERSIONS_SUFFIX, check_key
from ckptd.storage.local import unfinished
from ckptd.storage.local.disk import FileStatus
from ckptd.storage.local.local_root import LocalRoot
from ckptd.storage.local.version_files import BURIED, IsSound, VersionFiles

_log = logging.getLogger(__name__)

_KEPT = 16  # versions, for those that list them meanwhile and those that wake up late
_MOST_TRIES = 100  # at an object that others change again and again


def directory_of(name: str) -> str:
    """Return the name of the directory that holds the versions of the object `name`, beside it."""
    return f".{name}{VERSIONS_SUFFIX}"


def object_of(name: str) -> str:
    """Return the name of the object whose versions are in the directory `name`."""
    return name[1 : -len(VERSIONS_SUFFIX)]


def version_of(status: FileStatus) -> str:
    """Return what tells this content from every other. Not the time of change, which a second link changes as well."""
    return f"{status.inode:x}-{status.modified_ns:x}-{status.size_bytes:x}"


def described(key: str, status: FileStatus) -> ObjectStat:
    """Describe a file as an object."""
    return ObjectStat(key, status.size_bytes, status.modified_ns / 1e9, version_of(status))


@dataclass(frozen=True, slots=True)
class Current:
    """An object as it is now; `file` and `chain` are open for as long as the look lasts.

    Attributes:
        file: a descriptor of it; None where there is none.
        status: of that file.
        number: the highest that is taken; 0 where it has no version yet.
        version_number: of the newest version; the same, unless another program has put a file there.
        is_newest: that is the file; otherwise another program, or an unconditional change, has put it there.
        chain: a descriptor of the directory of versions; None where there is none.
    """

    file: int | None
    status: FileStatus | None
    number: int = 0
    version_number: int = 0
    is_newest: bool = False
    chain: int | None = None

    @property
    def version(self) -> str | None:
        """What tells this content from every other; None where there is no object."""
        return None if self.status is None else version_of(self.status)


class Versions:
    """See the module. Every method raises `OSError` for what the file system refuses."""

    def __init__(self, root: LocalRoot, key: str, is_sound: IsSound | None = None) -> None:
        """Look at nothing yet. Without `is_sound` any content counts."""
        self._root, self._disk, self.key = root, root.disk, key
        self._files = VersionFiles(root.disk, key, is_sound)
        *parents, self._name = check_key(key)
        self._parents = tuple(parents)

    @contextmanager
    def looked_at(self) -> Iterator[Current]:
        """Yield what the object is now, and let other programs see that too."""
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(self._root.opened(self._parents))
            except (FileNotFoundError, NotADirectoryError):
                yield Current(None, None)
                return
            yield self._look(stack, directory)

    def place(self, directory: int, temporary: str, *, is_new: bool = False, if_version: str | None = None) -> None:
        """Let the object be the synced file `temporary`, which is in its directory. Durable on return.

        With `is_new` there must be none before, with `if_version` one of that version.

        Raises:
            ConflictError: there is one, or it is another one; nothing has changed.
            UnavailableError: others change it again and again.
        """
        for _ in range(_MOST_TRIES):
            with ExitStack() as stack:
                seen = self._look(stack, directory)
                self._check(seen, is_new, if_version)
                if seen.chain is None and if_version is None:
                    place = self._disk.rename_new if is_new else self._disk.rename_over
                    place(directory, temporary, self._name)
                    self._disk.sync_directory(directory)
                    return
                if self._advance(stack, directory, temporary, seen):
                    return
        raise UnavailableError("other programs keep changing this object", key=self.key)

    def bury(self, if_version: str | None = None) -> int | None:
        """Delete the object, if it has that version; none is fine. Durable on return.

        Returns when its deletion became a version, by the clock of the file system, in nanoseconds; None if it is none.

        Raises:
            ConflictError: it is another one.
            UnavailableError: others change it again and again.
        """
        for _ in range(_MOST_TRIES):
            with ExitStack() as stack:
                try:
                    directory = stack.enter_context(self._root.opened(self._parents))
                except (FileNotFoundError, NotADirectoryError):
                    return None
                seen = self._look(stack, directory)
                if seen.status is None:
                    return None
                self._check(seen, False, if_version)
                if seen.chain is None and if_version is None:
                    with suppress(FileNotFoundError):
                        self._disk.unlink(directory, self._name)
                    self._disk.sync_directory(directory)
                    continue  # it may have got versions in this moment
                if (buried_ns := self._bury(stack, directory, seen)) is not None:
                    return buried_ns
        raise UnavailableError("other programs keep changing this object", key=self.key)

    def forget(self, before_ns: int) -> None:
        """Remove what is left of an object that was deleted before this time, by the clock of the file system.

        A process that has hung since then may find the numbers free again.
        """
        with ExitStack() as stack:
            directory = stack.enter_context(self._root.opened(self._parents))
            chain = self._open_chain(stack, directory)
            numbers = [] if chain is None else self._files.numbers(chain)
            newest = self._open(stack, chain, str(numbers[-1])) if numbers else None
            if chain is None or newest is None:
                return
            status = self._disk.status(newest)
            if status.modified_ns >= before_ns or not self._files.is_buried(newest, status):
                return
            for number in numbers:
                self._disk.unlink(chain, str(number))
            with suppress(OSError):  # it is used again since, and not empty
                self._disk.remove_directory(directory, directory_of(self._name))

    def _check(self, seen: Current, is_new: bool, if_version: str | None) -> None:
        if is_new and seen.status is not None:
            raise ConflictError("this key is taken", key=self.key)
        if if_version is not None and seen.version != if_version:
            raise ConflictError("changed since it was read", key=self.key, expected=if_version, actual=seen.version)

    # Looking

    def _look(self, stack: ExitStack, directory: int) -> Current:
        for tries in range(_MOST_TRIES):
            chain = self._open_chain(stack, directory)
            numbers = [] if chain is None else self._files.numbers(chain)
            shown = self._open(stack, None)
            status = None if shown is None else self._disk.status(shown)
            if chain is None or not numbers:
                return Current(shown, status, chain=chain)
            try:
                number, newest = self._files.newest_sound(
                    stack, chain, numbers, status, is_patient=tries < _MOST_TRIES - 1
                )
            except FileNotFoundError:
                continue
            if newest is None:
                return Current(shown, status, numbers[-1], chain=chain)
            seen = replace(self._judge(chain, numbers, shown, status, newest), version_number=number)
            if seen.is_newest or seen.status is None:
                self._show(directory, seen, status)
            return seen
        raise UnavailableError("other programs keep changing this object", key=self.key)

    def _judge(
        self, chain: int, numbers: list[int], shown: int | None, status: FileStatus | None, newest: int
    ) -> Current:
        """Decide between what is shown and the newest version."""
        number, newest_status = numbers[-1], self._disk.status(newest)
        is_buried = self._files.is_buried(newest, newest_status)
        if status is not None and status.inode != newest_status.inode:
            is_older = status.modified_ns < newest_status.modified_ns
            if not is_older and not self._is_version(chain, numbers, status):
                return Current(shown, status, number, chain=chain)
        elif status is None and newest_status.num_links == 1:
            is_buried = True  # another program has deleted what was shown
        if is_buried:
            return Current(None, None, number, chain=chain)
        return Current(newest, newest_status, number, is_newest=True, chain=chain)

    def _is_version(self, chain: int, numbers: list[int], status: FileStatus) -> bool:
        with ExitStack() as stack:
            opened = (self._open(stack, chain, str(number)) for number in numbers)
            return any(each is not None and self._disk.status(each).inode == status.inode for each in opened)

    def _open_chain(self, stack: ExitStack, directory: int) -> int | None:
        try:
            chain = self._disk.open_directory(directory, directory_of(self._name), confined=True)
        except FileNotFoundError:
            return None
        stack.callback(self._disk.close, chain)
        return chain

    def _newest(self, directory: int) -> int:
        """Return the number of the newest version, looked up anew."""
        with ExitStack() as stack:
            chain = self._open_chain(stack, directory)
            return 0 if chain is None else max(self._files.numbers(chain), default=0)

    def _open(self, stack: ExitStack, chain: int | None, name: str = "") -> int | None:
        """Open a version, or the object as other programs see it."""
        try:
            file = self._root.open_file(self.key) if chain is None else self._disk.open_file(chain, name, confined=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        stack.callback(self._disk.close, file)
        return file

    # Changing

    def _advance(self, stack: ExitStack, directory: int, temporary: str, seen: Current) -> bool:
        """Make a file the next version after what was seen; False when another process was faster."""
        chain = seen.chain if seen.chain is not None else self._make_chain(stack, directory)
        if seen.status is not None and not seen.is_newest:
            self._enrol(directory, chain, seen.number + 1)
            return False  # now what was seen is a version, and can be followed by one
        newest = self._claim(directory, temporary, chain, seen.number + 1)
        if newest is None:
            return False
        # Crash here: it is what counts, and other programs do not see it yet.
        try:
            if newest == seen.number + 1:
                self._disk.rename_over(directory, temporary, self._name)
                self._disk.sync_directory(directory)
            else:  # it counted, and another process that has seen it went on
                self._disk.unlink(directory, temporary)
        except OSError as error:
            _log.warning("%s is changed, and other programs do not see that yet: %s", self.key, error)
        self._clean(chain, seen.number + 1)
        if self._newest(directory) != seen.number + 1:
            self._look(stack, directory)  # we were late, and have hidden what came since
        return True

    def _bury(self, stack: ExitStack, directory: int, seen: Current) -> int | None:
        """Make its deletion the next version after what was seen; None when another process was faster."""
        chain = seen.chain if seen.chain is not None else self._make_chain(stack, directory)
        if not seen.is_newest:
            self._enrol(directory, chain, seen.number + 1)
            return None
        temporary, file = unfinished.new_file(self._disk, directory, self._name)
        try:
            self._disk.write(file, 0, BURIED, bulk=False)
            self._disk.sync(file)
            if self._claim(directory, temporary, chain, seen.number + 1) is None:
                return None
            buried_ns = self._disk.status(file).modified_ns
        finally:
            with suppress(OSError):
                self._disk.unlink(directory, temporary)
            self._disk.close(file)
        # Crash here: it is deleted, and other programs still see it.
        assert seen.status is not None
        self._take_away(directory, seen.status.inode)
        self._clean(chain, seen.number + 1)
        return buried_ns

    def _make_chain(self, stack: ExitStack, directory: int) -> int:
        with suppress(FileExistsError):
            self._disk.make_directory(directory, directory_of(self._name))
        self._disk.sync_directory(directory)
        chain = self._disk.open_directory(directory, directory_of(self._name), confined=True)
        stack.callback(self._disk.close, chain)
        return chain

    def _enrol(self, directory: int, chain: int, number: int) -> None:
        """Make what other programs see a version; it need not work out, as the caller looks again."""
        with suppress(FileExistsError, FileNotFoundError):
            self._disk.link(directory, self._name, chain, str(number))
            self._disk.sync_directory(chain)

    def _claim(self, directory: int, temporary: str, chain: int, number: int) -> int | None:
        """Link a file as a version, durably; return the newest one by now, None when the number was another's."""
        try:
            self._disk.link(directory, temporary, chain, str(number))
        except FileNotFoundError:
            return None  # the directory of versions was removed in this moment, see `forget`
        except FileExistsError:
            if not self._is_ours(directory, temporary, chain, number):
                return None
        self._disk.sync_directory(chain)
        # A process that slept while others went on finds the number free again, as old ones are removed.
        newest = self._newest(directory)
        return newest if newest < number + _KEPT else None

    def _is_ours(self, directory: int, temporary: str, chain: int, number: int) -> bool:
        """Whether a version is this very file: the answer to a request may be lost, and the second one refused."""
        with ExitStack() as stack:
            version = self._open(stack, chain, str(number))
            own = self._disk.open_file(directory, temporary, confined=True)
            stack.callback(self._disk.close, own)
            return version is not None and self._disk.status(version).inode == self._disk.status(own).inode

    def _clean(self, chain: int, number: int) -> None:
        with suppress(OSError):
            for old in self._files.numbers(chain):
                if old <= number - _KEPT:
                    with suppress(OSError):  # a directory, say, that another program has made there
                        self._disk.unlink(chain, str(old))

    # What other programs see

    def _show(self, directory: int, seen: Current, shown: FileStatus | None) -> None:
        """Let other programs see what counts, where they see something else; what fails is done at the next look."""
        if (None if shown is None else shown.inode) == (None if seen.status is None else seen.status.inode):
            return
        if shown is not None:
            _log.warning("%s showed other programs an older version: a former owner woke up, or has died", self.key)
        try:
            if seen.chain is not None and seen.is_newest:
                away = unfinished.temporary_name(self._name)
                self._disk.link(seen.chain, str(seen.version_number), directory, away)
                self._disk.rename_over(directory, away, self._name)
                self._disk.sync_directory(directory)
                with suppress(FileNotFoundError):  # it stays if another process has shown the same in this moment
                    self._disk.unlink(directory, away)
            elif shown is not None:
                self._take_away(directory, shown.inode)
        except OSError as error:
            _log.warning("%s is not yet what other programs see: %s", self.key, error)

    def _take_away(self, directory: int, inode: int) -> None:
        """Let other programs see this file no more. What another process has put in its place since stays."""
        away = unfinished.temporary_name(self._name)
        try:
            self._disk.rename_over(directory, self._name, away)
        except FileNotFoundError:
            return
        with ExitStack() as stack:
            file = self._disk.open_file(directory, away, confined=True)
            stack.callback(self._disk.close, file)
            if self._disk.status(file).inode != inode:
                with suppress(FileExistsError):
                    self._disk.rename_new(directory, away, self._name)
        with suppress(FileNotFoundError):
            self._disk.unlink(directory, away)
        self._disk.sync_directory(directory)
