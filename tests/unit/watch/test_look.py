from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError
from ckptd.storage.locations import open_store
from ckptd.watch.look import Looker
from tests import seams
from tests.fakes.directory import name_latest, publish, put, put_index, put_shards


@pytest.fixture
def looker(tmp_path):
    return Looker(open_store(str(tmp_path)), "runs/a")


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "a"


def test_nothing_is_there_before_the_state_file_names_something(looker, run):
    assert looker.look() is None
    put_shards(run, 1)
    put_index(run, 1)
    assert looker.look() is None
    name_latest(run, 1)
    assert looker.look().step == 1


def test_the_same_is_told_once_and_the_next_again(looker, run):
    publish(run, 1)
    assert looker.look().prefix == str(run / "m-1")
    assert looker.look() is None
    publish(run, 2)
    assert looker.look().step == 2


def test_what_is_named_but_not_all_there_counts_only_when_it_is(looker, run):
    """As while a directory is copied by something that begins with the state file."""
    name_latest(run, 5)
    assert looker.look() is None
    put(run / "m-5.index", b"half of an index")
    assert looker.look() is None
    put_index(run, 5, num_shards=2)
    assert looker.look() is None
    put_shards(run, 5, num_shards=2)
    found = looker.look()
    assert (found.step, found.num_shards) == (5, 2)


def test_a_step_that_is_saved_again_is_seen_though_the_state_file_is_the_same(tmp_path, run):
    looker = Looker(open_store(str(tmp_path)), "runs/a")
    with ckptd.Checkpointer(tmp_path, run="runs/a") as ckpt:
        first = ckpt.save(1, {"a": np.zeros(3)}).result(60)
        assert looker.look().save_id == first.save_id
        again = ckpt.save(1, {"a": np.ones(3)}, overwrite=True).result(60)
        assert looker.look().save_id == again.save_id
        assert again.save_id != first.save_id


def test_an_index_that_is_replaced_during_the_look_is_looked_at_anew(looker, run, monkeypatch):
    publish(run, 1)
    real, described = seams.DESCRIBE.value, []

    def describe(store, index, ours):
        found = real(store, index, ours)
        if not described:
            put_index(run, 1, saved_at=2e9)
        described.append(index)
        return found

    seams.DESCRIBE.put(monkeypatch, describe)
    assert looker.look().saved_at == 2e9
    assert len(described) == 2
    assert looker.look() is None


def test_a_state_file_that_is_none_is_an_error_and_one_that_leads_elsewhere_is_not_ours(looker, run):
    put(run / "checkpoint", b'model_checkpoint_path: "m-')
    with pytest.raises(CorruptionError):
        looker.look()
    put(run / "checkpoint", b'model_checkpoint_path: "/somewhere/else/m-1"\n')
    assert looker.look() is None


def test_records_of_longer_names_are_not_taken_for_those_of_a_prefix(tmp_path):
    from ckptd.engine.catalog import records

    with (
        ckptd.Checkpointer(tmp_path, run="r", name="m") as one,
    ):
        saved = one.save(1, {"a": np.zeros(1)}).result(60)
    with ckptd.Checkpointer(tmp_path, run="r", name="m-1.b") as other:
        other.save(1, {"a": np.zeros(1)}).result(60)
    found = records.of_prefix(open_store(str(tmp_path)), "r", "m-1")
    assert [record.save_id for record in found] == [saved.save_id]
