from __future__ import annotations

import threading

from ckptd.client.daemon.stream_queue import QueuePlace
from ckptd.client.deadline import Deadline

BOUND_S = 60.0


def test_the_next_in_line_goes_on_when_the_first_gives_up_its_place():
    line, never = threading.Semaphore(), threading.Event()
    first, second = QueuePlace(line), QueuePlace(line)
    assert first.take(Deadline(BOUND_S), never)
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(second.take(Deadline(BOUND_S), never)))
    waiting.start()
    assert taken == []
    first.give_up()
    waiting.join(BOUND_S)
    assert taken == [True]
    first.give_up()  # again, which must not let in a third
    assert not QueuePlace(line).take(Deadline(0.01), never)


def test_a_save_that_is_given_up_leaves_the_line():
    line, stop = threading.Semaphore(), threading.Event()
    assert QueuePlace(line).take(Deadline(BOUND_S), stop)
    stop.set()
    assert not QueuePlace(line).take(Deadline(BOUND_S), stop)
