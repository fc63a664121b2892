"""What the first node notes for the others: that there is one first node, and which root the job has."""

from __future__ import annotations

import logging
import threading

import pytest

from ckptd.engine.catalog.root import read_or_make_id
from ckptd.errors import ConflictError, InvalidRequestError, UnavailableError
from ckptd.job import note_of_job
from ckptd.job.note_of_job import JobNote
from ckptd.storage.locations import open_store
from tests.fakes.waiting import eventually


def pause():
    """Wait for a moment."""
    threading.Event().wait(0.01)


def noted(directory, root, by="`ckptd run` on a"):
    made = JobNote(str(root), read_or_make_id(open_store(str(root))), "grpcs://127.0.0.1:7070", by)
    made.write(directory)
    return made


def test_a_note_is_read_as_it_was_written_and_a_damaged_one_is_none(tmp_path):
    assert note_of_job.read(tmp_path) is None
    made = noted(tmp_path, tmp_path / "root")
    assert note_of_job.read(tmp_path) == made
    for damaged in ("", "[]", '{"root": 1}', "\0"):
        (tmp_path / note_of_job.NAME).write_text(damaged)
        assert note_of_job.read(tmp_path) is None


def test_a_second_first_node_is_refused_while_the_coordinator_of_the_first_answers(tmp_path):
    noted(tmp_path, tmp_path / "root", "`ckptd run` 1a2b on a")
    with pytest.raises(
        ConflictError, match=r"has a first node already, `ckptd run` 1a2b on a, .* at grpcs://127"
    ) as told:
        note_of_job.check_only_first(tmp_path, lambda address: True, 0.1, pause)
    assert "--first on one node only" in str(told.value)


def test_a_first_node_that_ends_is_waited_for_and_its_note_goes(tmp_path):
    noted(tmp_path, tmp_path / "root")
    answers = iter([True, True, False])
    note_of_job.check_only_first(tmp_path, lambda address: next(answers), 60.0, pause)
    assert note_of_job.read(tmp_path) is None


def test_a_node_with_the_same_root_goes_on_once_the_first_has_noted_it(tmp_path):
    done = threading.Event()

    def other():
        note_of_job.check_root(tmp_path, f"{tmp_path}/./root/", 60.0, pause)
        done.set()

    waiting = threading.Thread(target=other)
    waiting.start()
    noted(tmp_path, tmp_path / "root")
    eventually(done.is_set, "the root to be compared")
    waiting.join()


def test_a_node_with_another_root_is_told_both(tmp_path, caplog):
    noted(tmp_path, tmp_path / "root", "`ckptd run` on a")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(InvalidRequestError, match="--root is another place here than on the first node") as told,
    ):
        note_of_job.check_root(tmp_path, str(tmp_path / "other"), 0.1, pause)
    assert f"{tmp_path}/root, which `ckptd run` on a has" in str(told.value)
    assert f"{tmp_path}/other" in str(told.value)
    assert not (tmp_path / "other").exists()


def test_a_first_node_that_notes_nothing_is_named(tmp_path):
    with pytest.raises(UnavailableError, match="has no coordinator that serves after 0.1 s"):
        note_of_job.check_root(tmp_path, str(tmp_path / "root"), 0.1, pause)
