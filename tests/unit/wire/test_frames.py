"""Messages and descriptors cross a Unix socket whole."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

import pytest

from ckptd.errors import InvalidRequestError
from ckptd.wire import frames
from tests.fakes.descriptors import num_open


@pytest.fixture
def pair():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        one.settimeout(60)
        other.settimeout(60)
        yield one, other


def test_messages_come_as_they_were_sent(pair):
    for message in (b"", b"abc", b"x" * 100_000):
        frames.send_frame(pair[0], message)
        assert frames.receive_frame(pair[1]) == (message, [])


def test_descriptors_come_with_their_message(pair, tmp_path):
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    frames.send_frame(pair[0], b"first")
    frames.send_frame(pair[0], b"second", files)
    assert frames.receive_frame(pair[1]) == (b"first", [])
    message, received = frames.receive_frame(pair[1])
    assert message == b"second"
    assert [os.fstat(got).st_ino for got in received] == [os.fstat(sent).st_ino for sent in files]
    assert not any(os.get_inheritable(got) for got in received)
    frames.close_all([*files, *received])


def test_descriptors_that_are_not_wanted_never_enter_the_process(pair, tmp_path):
    lent = [os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)] * 100
    before = num_open(tmp_path / "a")
    for _ in range(5):
        frames.send_frame(pair[0], b"none of yours", lent)
    for _ in range(5):
        assert frames.receive_frame(pair[1], is_lent=False) == (b"none of yours", [])
        assert num_open(tmp_path / "a") == before
    os.close(lent[0])


def test_a_message_is_not_waited_for_longer_than_it_may_take(pair):
    pair[0].sendall(struct.pack("<I", 100) + b"not all of it")
    with pytest.raises(TimeoutError):
        frames.receive_frame(pair[1], until=time.monotonic() + 0.05)


def test_what_was_said_before_death_still_comes(pair):
    frames.send_frame(pair[0], b"last words")
    pair[0].close()
    assert frames.receive_frame(pair[1]) == (b"last words", [])
    assert frames.receive_frame(pair[1]) is None


@pytest.mark.parametrize("sent", [b"\5\0", b"\5\0\0\0abc"])
def test_a_message_that_ends_early_is_refused(pair, sent):
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(InvalidRequestError, match="ends early"):
        frames.receive_frame(pair[1])


def test_a_message_that_is_too_large_is_refused_before_it_is_read(pair):
    pair[0].sendall(struct.pack("<I", frames.MAX_FRAME_BYTES + 1))
    with pytest.raises(InvalidRequestError, match="too large"):
        frames.receive_frame(pair[1])


def test_a_message_that_nobody_takes_is_given_up_in_time():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other, pytest.raises(TimeoutError):
        frames.send_frame(one, b"x" * (4 << 20), timeout_s=0.2)


def test_a_message_that_is_taken_slowly_arrives_whole():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        other.settimeout(60)
        got = []
        reader = threading.Thread(target=lambda: got.append(frames.receive_frame(other)))
        reader.start()
        frames.send_frame(one, b"x" * (8 << 20))
        reader.join(60)
        assert got == [(b"x" * (8 << 20), [])]
