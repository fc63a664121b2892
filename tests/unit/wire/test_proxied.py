from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from ckptd.wire import proxied


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages_and_the_end_arrive_as_they_were_sent(ends):
    ours, theirs = ends
    sent = [(proxied.MESSAGE, os.urandom(4 << 20)), (proxied.MESSAGE, b""), (proxied.END, b"why"), (proxied.END, b"")]
    sender = threading.Thread(target=lambda: [proxied.send(ours, kind, payload) for kind, payload in sent])
    sender.start()
    received = [proxied.receive(theirs) for _ in sent]
    sender.join(60)
    assert [(kind, bytes(payload)) for kind, payload in received] == sent


@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"\0\5\0\0\0", b"\0\5\0\0\0hel", b"\3\0\0\0\0", b"\0\xff\xff\xff\xff", b"\1\1\0\x40\0"]
)
def test_what_ends_early_or_is_no_message_is_a_peer_that_is_gone(ends, raw):
    ours, theirs = ends
    ours.sendall(raw)
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        proxied.receive(theirs)


def test_keys_and_tokens_are_in_what_is_told_and_not_in_what_is_shown():
    setup = proxied.Setup((("127.0.0.1", True),), 7071, "cert", "s3cret", "ca")
    assert proxied.Setup(**json.loads(proxied.to_json(setup))).key == "s3cret"
    opening = proxied.Opening("/m", "ipv4:1.2.3.4:5", "Bearer s3cret")
    assert proxied.Opening(**json.loads(proxied.to_json(opening))) == opening
    assert "s3cret" not in f"{setup}{opening}"
