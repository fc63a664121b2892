"""How many large bodies are sent at once."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from ckptd.storage.bucket.at_once import AtOnce


def test_half_as_many_after_one_that_stopped_and_one_more_after_each_that_arrived() -> None:
    bodies = AtOnce(8)
    with ExitStack() as sending:
        for _ in range(6):
            sending.enter_context(bodies.one())
        bodies.stopped("slow")
        assert bodies.limit == 3
        bodies.stopped("slow")
        bodies.stopped("slow")
        assert bodies.limit == 1
    bodies.arrived()
    assert bodies.limit == 2
    for _ in range(20):
        bodies.arrived()
    assert bodies.limit == 8


def test_one_that_may_not_be_sent_waits_for_another_to_end() -> None:
    bodies, is_sending = AtOnce(1), threading.Event()

    def send() -> None:
        with bodies.one():
            is_sending.set()

    other = threading.Thread(target=send)
    with bodies.one():
        other.start()
        assert not is_sending.is_set()
    other.join(60)
    assert is_sending.is_set()
