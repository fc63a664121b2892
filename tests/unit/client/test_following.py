from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.errors import InvalidRequestError
from tests.fakes.directory import publish


def test_a_directory_that_somebody_else_writes_is_followed(tmp_path):
    run = tmp_path / "run"
    with_timeout = ckptd.follow(run, timeout_s=0)
    assert list(with_timeout) == []
    publish(run, 1, saved_at=10)
    news = ckptd.follow(run)
    first = next(news)
    assert (first.prefix, first.step, first.save_id) == (str(run / "m-1"), 1, "")
    assert np.array_equal(ckptd.load_variable(first.prefix, "w0"), np.float32([1, 0, 1000]))
    publish(run, 2, saved_at=20)
    assert next(news).step == 2
    news.close()


def test_the_run_may_be_named_apart_and_the_state_file_have_another_name(tmp_path):
    with ckptd.Checkpointer(tmp_path, run="runs/a", latest_filename="newest") as ckpt:
        done = ckpt.save(3, {"a": np.zeros(2)}).result(60)
    for place, run in ((tmp_path, "runs/a"), (tmp_path / "runs" / "a", None)):
        found = list(ckptd.follow(place, run, latest_filename="newest", timeout_s=0))
        assert [checkpoint.save_id for checkpoint in found] == [done.save_id]
        assert list(ckptd.follow(place, run, timeout_s=0)) == []


def test_what_cannot_be_followed_is_refused_before_anybody_waits(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for arguments, options in [
        ((tmp_path / "file",), {}),
        ((tmp_path, "../outside"), {}),
        ((tmp_path,), {"latest_filename": "a/b"}),
        ((tmp_path,), {"timeout_s": -1}),
        ((tmp_path,), {"poll_s": 0}),
        (("127.0.0.1:7070",), {}),
        (("grpc://:bad", "runs/a"), {}),
        (("nothing://bucket/run",), {}),
    ]:
        with pytest.raises(InvalidRequestError):
            ckptd.follow(*arguments, **options)


def test_two_watches_of_one_checkpointer_in_direct_mode_end_with_it(tmp_path):
    with ckptd.Checkpointer(tmp_path, run="runs/a") as ckpt:
        watches = [ckpt.watch(), ckpt.watch()]
        ckpt.save(1, {"a": np.zeros(2)}).result(60)
        assert [next(watch).step for watch in watches] == [1, 1]
    assert [list(watch) for watch in watches] == [[], []]
