from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ckptd.errors import ConflictError, NotFoundError, StorageFullError
from ckptd.storage.local.disk import Disk
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.shared_directory import SharedDirectory
from ckptd.storage.local.system_disk import SystemDisk
from ckptd.storage.local.versions import directory_of
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.suites.store_contract import StoreContract

KEY = "run/checkpoint"


class TestSharedDirectory(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> SharedDirectory:
        return SharedDirectory(str(tmp_path / "not" / "there yet"))


class TestSharedDirectoryOnASimulatedDisk(StoreContract):
    @pytest.fixture
    def store(self) -> SharedDirectory:
        return SharedDirectory("/some/root", disk=SimulatedDisk())


class _Paused(SystemDisk):
    """The disk of a process that is paused once, just before an operation on a name: meanwhile something happens."""

    def __init__(self, operation: str, name: str, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.operation, self.name, self.meanwhile = operation, name, meanwhile
        self.was_paused = False

    def _pass(self, operation: str, name: str) -> None:
        if (operation, name) == (self.operation, self.name) and not self.was_paused:
            self.was_paused = True
            self.meanwhile()

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        self._pass("link", other)
        super().link(directory, name, other_directory, other)

    def rename_over(self, directory: int, old: str, new: str) -> None:
        self._pass("rename", new)
        super().rename_over(directory, old, new)


class _AnswerLost(SystemDisk):
    """A disk of which a link is made, and said to be there already, as a repeated request finds it."""

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        super().link(directory, name, other_directory, other)
        raise FileExistsError(17, "File exists", other)


def _version(store: SharedDirectory) -> str:
    return store.stat(KEY).version


def _go_on(store: SharedDirectory, *contents: bytes) -> None:
    """Change the object once for each content, as its owner does."""
    for content in contents:
        store.replace(KEY, content, if_version=_version(store))


def _shown(root: Path) -> bytes:
    """Return what other programs read, which know nothing of versions."""
    return LocalStore(str(root)).get(KEY)


def _versions(root: Path) -> Path:
    return root / "run" / directory_of("checkpoint")


@pytest.fixture
def store(tmp_path: Path) -> SharedDirectory:
    made = SharedDirectory(str(tmp_path))
    made.put(KEY, b"0")
    return made


def test_who_has_not_seen_the_newest_changes_nothing(store: SharedDirectory, tmp_path: Path) -> None:
    other = SharedDirectory(str(tmp_path))
    seen = _version(store)
    _go_on(other, b"1")
    with pytest.raises(ConflictError):
        store.replace(KEY, b"late", if_version=seen)
    with pytest.raises(ConflictError):
        store.delete([KEY], if_version=seen)
    assert (store.get(KEY), _shown(tmp_path)) == (b"1", b"1")


@pytest.mark.parametrize("changes", [1, 40])
def test_an_owner_that_is_paused_before_it_changes_something_wakes_up_without_effect(
    store: SharedDirectory, tmp_path: Path, changes: int
) -> None:
    """Also when so much has changed meanwhile that the number it is about to take is free again."""
    _go_on(store, b"1")
    following = [f"{number}".encode() for number in range(2, 2 + changes)]
    paused = _Paused("link", "3", lambda: _go_on(store, *following))
    late = SharedDirectory(str(tmp_path), disk=paused)
    with pytest.raises(ConflictError):
        late.replace(KEY, b"late", if_version=_version(late))
    assert paused.was_paused
    assert (store.get(KEY), _shown(tmp_path)) == (following[-1], following[-1])
    _go_on(store, b"goes on")
    assert store.get(KEY) == b"goes on"


def test_an_owner_that_is_paused_before_it_shows_its_change_hides_nothing_that_came_since(
    store: SharedDirectory, tmp_path: Path
) -> None:
    _go_on(store, b"1")
    paused = _Paused("rename", "checkpoint", lambda: _go_on(store, b"2", b"3"))
    late = SharedDirectory(str(tmp_path), disk=paused)
    late.replace(KEY, b"was first", if_version=_version(late))
    assert (_shown(tmp_path), store.get(KEY)) == (b"3", b"3")


@pytest.mark.parametrize("changes", [1, 40])
def test_what_a_former_owner_has_left_for_others_to_see_is_replaced_at_the_next_look(
    store: SharedDirectory, tmp_path: Path, changes: int
) -> None:
    _go_on(store, b"1")
    (tmp_path / "run" / "old").hardlink_to(_versions(tmp_path) / "2")
    _go_on(store, *(f"{number}".encode() for number in range(2, 2 + changes)))
    newest = store.get(KEY)
    (tmp_path / "run" / "old").rename(tmp_path / KEY)
    assert _shown(tmp_path) == b"1"
    assert store.get(KEY) == newest
    assert _shown(tmp_path) == newest


def test_a_change_that_nobody_shows_is_shown_at_the_next_look(store: SharedDirectory, tmp_path: Path) -> None:
    def die() -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        _go_on(SharedDirectory(str(tmp_path), disk=_Paused("rename", "checkpoint", die)), b"1")
    assert _shown(tmp_path) == b"0"
    assert store.stat(KEY).size_bytes == 1
    assert _shown(tmp_path) == b"1"


def test_what_another_program_writes_counts_and_is_noticed(store: SharedDirectory, tmp_path: Path) -> None:
    _go_on(store, b"1")
    seen = _version(store)
    LocalStore(str(tmp_path)).replace(KEY, b"by another program")
    assert store.get(KEY) == b"by another program"
    with pytest.raises(ConflictError):
        store.replace(KEY, b"2", if_version=seen)
    _go_on(store, b"2")
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")


def _stray(kind: str, path: Path) -> None:
    match kind:
        case "a copy":
            path.write_bytes(b"stray")
        case "a directory":
            path.mkdir()
        case "a link to nothing":
            path.symlink_to("nothing")
        case "a link that leads out":
            path.symlink_to("/etc/passwd")
        case "a pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("number", ["3", "7", "20261201"])
@pytest.mark.parametrize("kind", ["a copy", "a directory", "a link to nothing", "a link that leads out", "a pipe"])
def test_what_another_program_puts_among_the_versions_is_none(
    kind: str, number: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SharedDirectory(str(tmp_path), is_sound=lambda _key, read: read() != b"stray")
    store.put(KEY, b"0")
    _go_on(store, b"1")
    seen = _version(store)
    assert [path.name for path in sorted(_versions(tmp_path).iterdir())] == ["1", "2"]
    _stray(kind, _versions(tmp_path) / number)
    assert (store.get(KEY), _shown(tmp_path)) == (b"1", b"1")
    assert f"{number} among the versions of {KEY} is none of them" in caplog.text
    store.replace(KEY, b"2", if_version=seen)
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")
    if number == "3":  # a version that other programs do not see is shown, past what follows it
        (tmp_path / "run" / "old").hardlink_to(_versions(tmp_path) / "2")
        _stray(kind, _versions(tmp_path) / "9")
        (tmp_path / "run" / "old").rename(tmp_path / KEY)
        assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")
    _go_on(store, *(b"%d" % number for number in range(3, 40)))
    assert (store.get(KEY), _shown(tmp_path)) == (b"39", b"39")
    if number != "20261201":  # what is far above stays until so many changes have come
        caplog.clear()
        assert store.get(KEY) == b"39"
        assert caplog.text == ""


@pytest.mark.parametrize("name", ["007", "0", "9" * 18, "9" * 200, "\u0663", "1~"])
def test_a_name_that_is_no_number_of_ours_is_left_alone(store: SharedDirectory, tmp_path: Path, name: str) -> None:
    _go_on(store, b"1")
    (_versions(tmp_path) / name).write_bytes(b"stray")
    _go_on(store, b"2")
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")
    assert (_versions(tmp_path) / name).exists()


def test_what_another_program_deletes_is_gone(store: SharedDirectory, tmp_path: Path) -> None:
    _go_on(store, b"1")
    (tmp_path / KEY).unlink()
    with pytest.raises(NotFoundError):
        store.get(KEY)
    store.put(KEY, b"2")
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")


@pytest.mark.parametrize("if_version", [True, False])
def test_a_deletion_is_a_version(store: SharedDirectory, tmp_path: Path, if_version: bool) -> None:
    _go_on(store, b"1")
    seen = _version(store)
    store.delete([KEY], if_version=seen if if_version else None)
    with pytest.raises(NotFoundError):
        store.stat(KEY)
    assert [each.key for each in store.list("")] == []
    with pytest.raises(ConflictError):
        store.replace(KEY, b"late", if_version=seen)
    store.put(KEY, b"2")
    with pytest.raises(ConflictError):
        store.put(KEY, b"3")
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")


def test_a_deletion_meets_a_change_that_another_owner_begins_at_that_moment(
    store: SharedDirectory, tmp_path: Path
) -> None:
    """The first conditional change of an object gives it versions; a deletion must not miss that."""
    paused = _Paused("link", "2", lambda: store.delete([KEY]))
    late = SharedDirectory(str(tmp_path), disk=paused)
    with pytest.raises(ConflictError):
        late.replace(KEY, b"late", if_version=_version(late))
    assert paused.was_paused
    with pytest.raises(NotFoundError):
        store.get(KEY)
    assert not (tmp_path / KEY).exists()


def test_an_owner_that_is_paused_as_it_deletes_takes_nothing_away_that_came_since(
    store: SharedDirectory, tmp_path: Path
) -> None:
    _go_on(store, b"1")
    away: list[str] = []

    class _Deleting(_Paused):
        def rename_over(self, directory: int, old: str, new: str) -> None:
            if old == "checkpoint":
                away.append(new)
                self.meanwhile()
            super().rename_over(directory, old, new)

    late = SharedDirectory(str(tmp_path), disk=_Deleting("", "", lambda: store.put(KEY, b"2")))
    late.delete([KEY], if_version=_version(late))
    assert away
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")


def test_an_answer_that_was_lost_is_no_conflict(store: SharedDirectory, tmp_path: Path) -> None:
    answerless = SharedDirectory(str(tmp_path), disk=_AnswerLost())
    _go_on(answerless, b"1", b"2")
    assert (store.get(KEY), _shown(tmp_path)) == (b"2", b"2")


def test_old_versions_are_removed_and_never_the_newest(store: SharedDirectory, tmp_path: Path) -> None:
    _go_on(store, *(str(number).encode() for number in range(100)))
    numbers = sorted(int(path.name) for path in _versions(tmp_path).iterdir())
    assert len(numbers) <= 17
    assert numbers[-1] == 101
    assert store.get(KEY) == b"99"


def test_what_is_left_of_a_deleted_object_goes_after_a_day(store: SharedDirectory, tmp_path: Path) -> None:
    for key in ("run/old", "run/new", "run/back"):
        seen = store.put(key, b"1")
        store.replace(key, b"2", if_version=seen.version)
        store.delete([key])
    store.put("run/back", b"3")
    left = {name: tmp_path / "run" / directory_of(name) for name in ("old", "new", "back")}
    for name in ("old", "back"):
        os.utime(max(left[name].iterdir(), key=lambda path: int(path.name)), (0, 0))
    _go_on(store, b"1")
    store.delete([KEY])
    assert {name: path.exists() for name, path in left.items()} == {"old": False, "new": True, "back": True}
    store.put("run/old", b"4")
    assert (store.get("run/old"), store.get("run/back")) == (b"4", b"3")


def test_on_a_full_disk_the_reserve_is_used_and_versions_are_compared(store: SharedDirectory, tmp_path: Path) -> None:
    for number in range(2):
        store.create(f"run/reserve-{number}", 100).finish()
    seen = _version(store)
    store.replace_within("run/reserve-0", KEY, b"1", if_version=seen)
    with pytest.raises(ConflictError):
        store.replace_within("run/reserve-1", KEY, b"late", if_version=seen)
    assert (store.get(KEY), _shown(tmp_path)) == (b"1", b"1")
    assert store.stat(KEY).version != seen
    with pytest.raises((NotFoundError, StorageFullError)):
        store.replace_within("run/reserve-0", KEY, b"2")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".ckptd-tmp") == []


class _Stopping:
    """A disk of a process that is stopped once, before any one of its calls: meanwhile something happens."""

    def __init__(self, disk: SimulatedDisk, at: int, meanwhile: Callable[[], object]) -> None:
        self._disk, self._at, self._meanwhile, self.calls = disk, at, meanwhile, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._disk, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                self._meanwhile()
            return found(*arguments, **more)

        return call


def _change(store: SharedDirectory) -> None:
    store.replace(KEY, b"late", if_version=_version(store))


def _delete(store: SharedDirectory) -> None:
    store.delete([KEY], if_version=_version(store))


def _create(store: SharedDirectory) -> None:
    store.put(KEY, b"late")


def _follow(store: SharedDirectory, contents: Sequence[bytes | None]) -> list[bytes | None]:
    """Let another owner put each content in place of what it finds, None being none; return what it found."""
    found: list[bytes | None] = []
    for content in contents:
        found.append(_read(store))
        if found[-1] is None:
            if content is not None:
                store.put(KEY, content)
        elif content is None:
            store.delete([KEY], if_version=_version(store))
        else:
            _go_on(store, content)
    return found


@pytest.mark.parametrize(
    "contents",
    [
        (b"a",),
        (b"a", b"b", b"c"),
        (None,),
        (None, b"a"),
        (b"a", None, b"b"),
        [bytes([number]) for number in range(20)],
    ],
)
@pytest.mark.parametrize(("act", "is_there"), [(_change, True), (_delete, True), (_create, False)])
def test_an_owner_that_is_stopped_at_any_call_changes_what_it_has_seen_or_nothing(
    act: Callable[[SharedDirectory], None], is_there: bool, contents: Sequence[bytes | None]
) -> None:
    made, before = None if act is _delete else b"late", b"1" if is_there else None
    for at in itertools.count(1):
        disk = SimulatedDisk()
        found: list[bytes | None] = []
        other = SharedDirectory("/root", disk=disk)
        other.put(KEY, b"0")
        _go_on(other, b"1")
        if not is_there:
            other.delete([KEY])
        stopping = _Stopping(disk, at, lambda: found.extend(_follow(other, contents)))  # noqa: B023
        late = SharedDirectory("/root", disk=cast("Disk", stopping))
        try:
            act(late)
            has_acted = True
        except (ConflictError, NotFoundError):
            has_acted = False
        if stopping.calls < at:
            return
        now = _read(LocalStore("/root", disk=disk))
        assert now == _read(other), at
        if found[0] != before:  # it acted before it was stopped, and the other followed
            assert (found[0], now) == (made, contents[-1]), at
            assert has_acted or len(found) >= 16, at
        else:  # it acted on what the other had left, or has lost
            assert now == (made if has_acted else contents[-1]), at


def _read(store: LocalStore) -> bytes | None:
    try:
        return store.get(KEY)
    except NotFoundError:
        return None


def _lives_through(change: Callable[[SharedDirectory], None], before: bytes, after: bytes | None) -> None:
    """Cut the power at every operation of a change: what is there then is one or the other, and stays so."""
    for number in itertools.count(1):
        disk = SimulatedDisk()
        store = SharedDirectory("/root", disk=disk)
        store.put(KEY, b"0")
        _go_on(store, before)
        disk.dies_at = len(disk.operations) + number
        finished = False
        try:
            change(store)
            finished = True
        except PowerCut:
            pass
        for crash in [None, *disk.crashes(seed=number)]:
            again = SharedDirectory("/root", disk=disk.reboot(crash))
            try:
                found: bytes | None = again.get(KEY)
            except NotFoundError:
                found = None
            assert found in ((after,) if finished else (before, after)), (number, crash)
            if found is not None:
                _go_on(again, b"goes on")
                assert again.get(KEY) == b"goes on"
        if finished:
            return


def test_power_may_fail_at_any_operation_of_a_change() -> None:
    _lives_through(lambda store: _go_on(store, b"new"), b"old", b"new")


def test_power_may_fail_at_any_operation_of_a_deletion() -> None:
    _lives_through(lambda store: store.delete([KEY], if_version=_version(store)), b"old", None)


def test_a_lock_says_since_when_it_is_held(store: SharedDirectory) -> None:
    with store.lock("run/lock", holder="first") as lock:
        assert lock.taken_at is not None
        later = store.put("run/after", b"").modified_at
        assert lock.taken_at <= later
        with pytest.raises(ConflictError) as caught:
            store.lock("run/lock", holder="second")
    assert caught.value.actual == "first"
    assert not store.has_locks


def test_what_it_rests_on_is_tried_and_nothing_of_that_stays(store: SharedDirectory, tmp_path: Path) -> None:
    assert list(store.broken_promises()) == []
    assert os.listdir(tmp_path / ".ckptd") == []


class _Replacing(SystemDisk):
    """A file system whose links replace what is there."""

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        try:
            super().link(directory, name, other_directory, other)
        except FileExistsError:
            super().unlink(other_directory, other)
            super().link(directory, name, other_directory, other)


class _Linkless(SystemDisk):
    """A file system without hard links."""

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        raise PermissionError(1, "Operation not permitted", other)


def test_a_directory_without_links_is_refused_in_words(tmp_path: Path) -> None:
    [doubt] = SharedDirectory(str(tmp_path), disk=_Linkless()).broken_promises()
    assert "hard links cannot be made" in doubt


def test_a_directory_whose_links_replace_what_is_there_is_refused_in_words(tmp_path: Path) -> None:
    doubts = SharedDirectory(str(tmp_path), disk=_Replacing()).broken_promises()
    assert "replaces what is there" in "; ".join(doubts)
