"""The term of a root: it only rises, one coordinator holds it, and a lost answer is neither a loss nor a win."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog import term
from ckptd.engine.catalog.term import Term, TermNote
from ckptd.errors import ConflictError, CorruptionError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore


def bucket() -> MemoryStore:
    return MemoryStore(has_locks=False, verifies_writes=True)


def test_each_coordinator_takes_a_higher_term_and_fences_the_former_off():
    store, clock = bucket(), HandClock(wall_s=100.0)
    first = Term(store, clock, holder="first", addresses=["10.0.0.1:7070", "192.168.0.1:7070"])
    assert first.take() == 100  # above any that was lost with the object
    first.confirm()
    assert term.look(store).addresses == ("10.0.0.1:7070", "192.168.0.1:7070")
    clock.jump(-50)
    second = Term(store, clock, holder="second")
    assert second.take() == 101
    with pytest.raises(ConflictError, match="second"):
        first.confirm()
    with pytest.raises(ConflictError):
        first.take()  # that is final
    second.confirm()
    assert Term(store, clock).take(above=500) == 501


@pytest.mark.parametrize("error", [UnavailableError, ConflictError])
@pytest.mark.parametrize("earlier", [False, True], ids=["first", "replacing"])
def test_an_answer_that_was_lost_after_the_write_took_effect_is_told_apart(error, earlier):
    inner = bucket()
    if earlier:
        Term(inner, HandClock()).take()

    def lose(number: int, what: str) -> None:
        raise error("the answer was lost, or the client tried again and was refused")

    mine = Term(HookedStore(inner, after=lose), HandClock())
    taken = mine.take()
    assert term.look(inner).term == taken
    mine.confirm()


def test_a_write_that_had_no_effect_is_no_win():
    inner = bucket()
    rival = Term(inner, HandClock(), holder="rival")

    def fail(number: int, what: str) -> None:
        raise UnavailableError("503")

    with pytest.raises(UnavailableError):
        Term(HookedStore(inner, before=fail), HandClock()).take()

    def overtake(number: int, what: str) -> None:
        if number == 1:
            rival.take()

    mine = Term(HookedStore(inner, before=overtake), HandClock())
    assert mine.take() > rival.number
    with pytest.raises(ConflictError):
        rival.confirm()


def test_what_was_confirmed_lately_is_looked_up_again_only_where_that_is_wanted():
    store, clock = bucket(), HandClock()
    former = Term(store, clock, holder="former")
    former.take()
    Term(store, HandClock(), holder="later").take()
    former.confirm(5.0)
    clock.advance(5.0)
    with pytest.raises(ConflictError, match="later"):
        former.confirm(5.0)
    assert (former.is_fenced, former.other_owner) == (True, "later")
    with pytest.raises(ConflictError, match="later"):
        former.confirm(1000.0)  # that is final


def test_a_deleted_object_fences_and_a_damaged_one_is_named():
    store = bucket()
    mine = Term(store, HandClock())
    mine.take()
    store.delete([term.KEY])
    with pytest.raises(ConflictError, match="nothing says whose it is"):
        mine.confirm()
    for data in (b"", b"{", b"[]", b'{"term": 0, "owner": "", "holder": "", "addresses": []}'):
        store.replace(term.KEY, data)
        with pytest.raises(CorruptionError, match=r"\.ckptd/coordinator"):
            Term(store, HandClock()).take()


def test_a_note_and_its_bytes_are_one_thing():
    note = TermNote(7, "word", "ckptd serve, pid 1 on a", ("a:1", "b:2"))
    assert TermNote.decode(note.encode()) == note


def test_where_a_coordinator_is_may_be_told_later_but_not_by_one_that_is_fenced_off():
    store, clock = bucket(), HandClock()
    first = Term(store, clock, holder="first")
    number = first.take()
    first.advertise(["10.0.0.1:7070"])
    first.confirm()
    assert (term.look(store).term, term.look(store).addresses) == (number, ("10.0.0.1:7070",))
    second = Term(store, clock, holder="second")
    second.take()
    with pytest.raises(ConflictError, match="second"):
        first.advertise(["10.0.0.9:7070"])
    assert term.look(store).addresses == ()


def test_one_that_is_taken_over_while_it_tells_where_it_is_does_not_take_the_root_back():
    inner, clock = bucket(), HandClock()

    class Overtaken(HookedStore):
        """Lets another coordinator take the root as soon as the object was looked at once."""

        def get(self, key, **options):
            data = self._inner.get(key, **options)
            if not later.number:
                later.take()
            return data

    later = Term(inner, clock, holder="later")
    first = Term(Overtaken(inner), clock, holder="first")
    first.take()
    with pytest.raises(ConflictError, match="later"):
        first.advertise(["10.0.0.1:7070"])
    later.confirm()
