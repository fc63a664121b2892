"""The history of a run as an object: what is damaged is left out, what is too much is forgotten, and culprits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.engine.catalog import past_saves, rest
from ckptd.engine.catalog.past_saves import PastSave
from ckptd.errors import CorruptionError
from ckptd.storage.memory import MemoryStore

PHASES = {"declare": 0.1, "plan": 0.1, "move": 1.5, "seal": 0.1, "commit": 0.1, "publish": 0.1}
SAVE = PastSave(
    "s1", 7, "committed", 1000.5, 2.0, "model.ckpt-7", 500, 4, PHASES, {"shm": 400, "grpc": 100},
    {"waiting": 0.25, "copying": 0.5}, 0.4, 3, 2,
)  # fmt: skip
FAILED = PastSave(
    "s2", None, "aborted", 1003.0, 30.0, error="SessionAbortedError", reason="rank 3 of 4 is gone\n«»\ud800"
)


@pytest.mark.parametrize("save", [SAVE, FAILED, PastSave("s3", 0, "failed", 0.0, 0.0)])
def test_a_save_and_its_line_are_one_thing(save):
    assert past_saves.decode(past_saves.encode([save, save])) == [save, save]


@given(st.binary(max_size=200), st.integers(min_value=0))
def test_whatever_the_object_holds_only_lines_that_are_whole_count(junk, at):
    good = SAVE.encode()
    assert past_saves.decode(good + junk.replace(b"\r", b"") + b"\n" + good)[0] == SAVE
    wrong = bytearray(good)
    wrong[at % (len(good) - 1)] ^= 1
    assert SAVE not in past_saves.decode(bytes(wrong))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"nan", b"null", b'{"save_id":"s","outcome":"x","began_at":1e999,"duration_s":0}']
)
def test_a_line_with_a_right_sum_and_wrong_content_is_damaged(text):
    from ckptd.format.crc32c import crc32c

    with pytest.raises(CorruptionError):
        PastSave.decode(b"%08x %s" % (crc32c(text), text))


def test_the_newest_are_kept_and_one_object_of_them_is_small():
    many = [replace(SAVE, save_id=f"{n:032x}", began_at=float(n), reason="x" * 5000) for n in range(2000)]
    kept = past_saves.merged(many, [replace(SAVE, save_id="last", began_at=1e9)])
    assert len(kept) == past_saves.MOST_SAVES
    assert kept[-1].save_id == "last"
    assert len(past_saves.encode(kept)) < past_saves.MOST_BYTES // 4


def test_of_what_two_owners_keep_each_save_counts_once():
    assert past_saves.merged([SAVE, FAILED], [replace(SAVE, size_bytes=9)]) == [replace(SAVE, size_bytes=9), FAILED]


def test_without_a_history_or_with_one_that_is_none_there_are_no_saves():
    store = MemoryStore()
    assert past_saves.read(store, "runs/r") == []
    store.put(past_saves.key_of("runs/r"), b"\xff" * (past_saves.MOST_BYTES + 1))
    assert past_saves.read(store, "runs/r") == []


def test_the_note_of_a_run_at_rest_does_not_depend_on_it():
    store = MemoryStore(has_locks=False)
    store.put("runs/r/.ckptd/epoch", b"1")
    before = rest.versions_of(store, "runs/r")
    store.put(past_saves.key_of("runs/r"), b"")
    assert rest.versions_of(store, "runs/r") == before


@pytest.mark.parametrize(
    ("save", "culprit"),
    [
        (SAVE, ""),
        (replace(SAVE, lag_s=1.2), "rank 3 was 1.2 s later than the median"),
        (replace(SAVE, phases_s={"declare": 1.5}), "rank 2 declared last, after 1.5 s"),
        (replace(SAVE, phases_s={"declare": 1.5}, last_to_declare=None), ""),
        (replace(SAVE, phases_s={"declare": 1.5}, world_size=1), ""),
        (replace(SAVE, duration_s=0.02, lag_s=0.015, phases_s={}), ""),
        (FAILED, FAILED.reason),
    ],
)
def test_a_culprit_is_who_took_a_good_part_of_the_time(save, culprit):
    assert save.culprit == culprit


def test_the_stall_of_the_rank_that_stood_longest_counts():
    assert SAVE.with_stall({"waiting": 0.1}) is SAVE
    assert SAVE.with_stall({"waiting": 3.0}).total_stall_s == 3.0
    assert FAILED.total_stall_s is None
