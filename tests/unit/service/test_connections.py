"""Connections that show no identity, or are more than a host's share, are closed; the others go on."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

import pytest

from ckptd.service.connections import UNKNOWN_S, Connections
from ckptd.service.peer_sockets import Endpoints, place_of
from tests.fakes.descriptors import num_open

ALLOWED = 32


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.settimeout(60)
        yield listening


@pytest.fixture
def connect(listener):
    """Make connections: both ends of each, ours and the daemon's."""
    with contextlib.ExitStack() as opened:

        def make(number):
            pairs = []
            for _ in range(number):
                ours = opened.enter_context(socket.create_connection(listener.getsockname(), timeout=120))
                pairs.append((ours, opened.enter_context(listener.accept()[0])))
            return pairs

        yield make


@pytest.fixture
def watched(listener):
    time_s = [100.0]
    ports = frozenset([listener.getsockname()[1]])
    connections = Connections(Endpoints(ports, ports), allowed=ALLOWED, now=lambda: time_s[0])
    return connections, time_s


def name_of(ours):
    return "ipv4:{}:{}".format(*ours.getsockname())


def are_open(pairs):
    found = []
    for ours, _ in pairs:
        ours.setblocking(False)
        try:
            told = ours.recv(1000)
            found.append(told != b"" and b"were closed" not in told)
        except BlockingIOError:
            found.append(True)
    return found


def test_one_that_shows_no_identity_in_time_is_closed_and_one_that_does_stays(connect, watched):
    connections, time_s = watched
    pairs = connect(2)
    connections.look()
    assert are_open(pairs) == [True, True]
    connections.note(name_of(pairs[0][0]), "token:a")
    time_s[0] += UNKNOWN_S
    late = connect(1)
    connections.look()
    assert are_open(pairs + late) == [True, False, True]


def test_of_those_without_identity_a_host_has_an_eighth_of_the_descriptors_the_first(connect, watched):
    connections, time_s = watched
    known, first = connect(6), connect(4)
    for ours, _ in known:
        connections.note(name_of(ours), "token:a")
    connections.look()
    time_s[0] += 1.0
    more = connect(3)
    connections.look()
    assert are_open(known + first) == [True] * 10
    assert are_open(more) == [False] * 3


def test_a_host_has_three_quarters_of_the_descriptors_with_identities_too(connect, watched):
    connections, time_s = watched
    first = connect(24)
    for ours, _ in first:
        connections.note(name_of(ours), "token:a")
    connections.look()
    time_s[0] += 1.0
    more = connect(2)
    for ours, _ in more:
        connections.note(name_of(ours), "token:a")
    connections.look()
    assert are_open(first) == [True] * 24
    assert are_open(more) == [False] * 2


def test_what_is_expelled_is_closed_at_the_next_look(connect, watched):
    connections, _ = watched
    pairs = connect(2)
    connections.note(name_of(pairs[0][0]), "token:a")
    connections.expel(name_of(pairs[0][0]))
    connections.look()
    assert are_open(pairs) == [False, True]


def test_other_sockets_and_files_are_left_alone_and_no_descriptor_is_lost(connect, watched):
    connections, time_s = watched
    with socket.create_server(("127.0.0.1", 0)) as other:
        ours = socket.create_connection(other.getsockname())
        theirs, _ = other.accept()
        before = num_open(ours, theirs, other)
        for _ in range(3):
            connections.look()
            time_s[0] += UNKNOWN_S
        assert num_open(ours, theirs, other) == before
        assert are_open([(ours, theirs)]) == [True]
        ours.close()
        theirs.close()


def test_a_look_needs_no_descriptor(connect, watched):
    connections, time_s = watched
    pairs = connect(3)
    connections.look()
    time_s[0] += UNKNOWN_S
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        connections = Connections(connections.endpoints, allowed=before[0], now=lambda: time_s[0])
        connections.look()
        time_s[0] += UNKNOWN_S
        connections.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert are_open(pairs) == [False] * 3


def test_an_identity_has_seven_eighths_from_however_many_hosts(listener):
    with contextlib.ExitStack() as opened:
        bound = Endpoints(frozenset([listener.getsockname()[1]]))
        connections = Connections(bound, allowed=ALLOWED, now=lambda: 0.0)
        pairs = []
        for number in range(30):
            ours = opened.enter_context(
                socket.create_connection(listener.getsockname(), source_address=(f"127.0.0.{2 + number % 2}", 0))
            )
            pairs.append((ours, opened.enter_context(listener.accept()[0])))
            connections.note(name_of(ours), "token:a")
        connections.look()
        assert are_open(pairs).count(False) == 2


@pytest.fixture
def at_unix_socket(tmp_path):
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as opened:
        listening.bind(path)
        listening.listen(64)

        def connect(number):
            pairs = []
            for _ in range(number):
                ours = opened.enter_context(socket.socket(socket.AF_UNIX))
                ours.connect(path)
                pairs.append((ours, opened.enter_context(listening.accept()[0])))
            return pairs

        yield path, connect


def test_a_user_of_a_unix_socket_has_three_quarters_and_the_rest_hear_so(at_unix_socket):
    path, connect = at_unix_socket
    time_s = [100.0]
    told = []
    bound = Endpoints(paths=frozenset([path]))
    connections = Connections(bound, allowed=ALLOWED, now=lambda: time_s[0], tell=lambda *said: told.append(said))
    first = connect(24)
    connections.look()
    time_s[0] += UNKNOWN_S  # the kernel has said whose they are: they may be silent
    late = connect(2)
    connections.look()
    assert are_open(first) == [True] * 24
    goodbye = late[0][0].recv(1000)
    why = "there are 26, and one host or user may have 24: raise the limit of open files"
    assert f"connections from uid:{os.geteuid()} were closed: {why}".encode() in goodbye
    assert told == [(f"uid:{os.geteuid()}", f"2 connections from uid:{os.geteuid()} were closed: {why}", 2)]


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("ipv4:10.0.0.1:5000", ("10.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", ("::1", 5000)),
        ("ipv6:[::ffff:10.0.0.1]:5000", ("10.0.0.1", 5000)),
        ("unix:", None),
        ("unix:/run/x.sock", None),
        ("ipv4:nonsense", None),
    ],
)
def test_a_peer_is_found_by_its_name(peer, place):
    assert place_of(peer) == place
