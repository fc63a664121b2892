"""Blocks in memory: loaded once, bounded, and forgotten when they are damaged."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptd.agent.block_cache import BlockCache
from ckptd.errors import UnavailableError


def test_many_that_want_a_block_load_it_once():
    cache, loads, go_on = BlockCache(), [], threading.Event()

    def load() -> bytes:
        loads.append(1)
        assert go_on.wait(40)
        return b"block"

    with ThreadPoolExecutor(8) as readers:
        wanted = [readers.submit(cache.get, "k", load) for _ in range(8)]
        go_on.set()
        assert [each.result(40) for each in wanted] == [b"block"] * 8
    assert cache.get("k", lambda: b"other") == b"block"
    assert len(loads) == 1


def test_no_more_is_kept_than_the_limit_and_the_longest_unwanted_goes():
    cache = BlockCache(limit_bytes=10)
    for name in "abc":
        cache.get(name, lambda: b"1234")
        cache.get("a", lambda: b"lost")
    assert cache.size_bytes == 8
    assert cache.get("a", lambda: b"new") == b"1234"
    assert cache.get("b", lambda: b"new") == b"new"
    assert cache.get("large", lambda: bytes(11)) == bytes(11)
    assert cache.size_bytes <= 10


def test_a_failure_is_told_to_all_and_not_kept():
    cache = BlockCache()

    def fail() -> bytes:
        raise UnavailableError("the store is away")

    with pytest.raises(UnavailableError):
        cache.get("k", fail)
    assert cache.get("k", lambda: b"there") == b"there"
    assert cache.forget(lambda block: block == "k") == 1
    assert cache.size_bytes == 0
    assert cache.get("k", lambda: b"again") == b"again"
