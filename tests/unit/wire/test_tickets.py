from __future__ import annotations

import contextlib
import os
import socket
import threading

import grpc
import pytest

from ckptd.wire.tickets import MAX_TICKET_BYTES, TICKET_SUFFIX, NoTicketError, ticket_for


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


class Teller:
    """Tells each process that connects the same, and counts them."""

    def __init__(self, path, told):
        self.asked = 0
        self._path = f"{path}{TICKET_SUFFIX}"
        self._told = told
        self._listener = listening(self._path)
        self._thread = threading.Thread(target=self._tell)
        self._thread.start()

    def _tell(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.asked += 1
            with connection, contextlib.suppress(BrokenPipeError):
                connection.send(self._told)

    def end(self, *, leaves_socket=False):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        if not leaves_socket:
            os.unlink(self._path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


@pytest.fixture
def path(tmp_path):
    """A socket that a daemon listens on."""
    with listening(tmp_path / "s"):
        yield str(tmp_path / "s")


def test_a_ticket_is_fetched_once_in_the_life_of_a_daemon(path):
    for ticket in ("first", "second"):
        with Teller(path, ticket.encode()) as teller:
            assert [ticket_for(path) for _ in range(3)] == [ticket] * 3
            assert teller.asked == 1


def test_a_daemon_that_gives_no_tickets_needs_none(path):
    assert ticket_for(path) is None


def test_an_older_daemon_in_the_place_of_a_killed_one_needs_none(path):
    Teller(path, b"t").end(leaves_socket=True)
    assert ticket_for(path) is None


def test_no_call_goes_without_a_ticket_to_a_daemon_that_is_away(tmp_path):
    path = str(tmp_path / "s")
    with pytest.raises(NoTicketError, match="No such file") as away:
        ticket_for(path)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    listening(path).close()
    Teller(path, b"t").end(leaves_socket=True)
    with pytest.raises(NoTicketError, match="Connection refused"):
        ticket_for(path)


def test_a_stopped_daemon_is_waited_for_only_as_long_as_the_call(path):
    with listening(f"{path}{TICKET_SUFFIX}"), pytest.raises(NoTicketError, match="no answer") as stopped:
        ticket_for(path, 0.01)
    assert stopped.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("told", [b"", b"a\nb", b"\xff", b"x" * (MAX_TICKET_BYTES + 1)])
def test_what_is_no_ticket_is_not_shown(path, told):
    with Teller(path, told), pytest.raises(NoTicketError):
        ticket_for(path)


def test_no_ticket_is_shown_where_anybody_could_put_another_socket(path, tmp_path):
    tmp_path.chmod(0o777)
    with Teller(path, b"t") as teller:
        assert ticket_for(path) is None
    tmp_path.chmod(0o1777)  # as /tmp: what is there can be replaced by its owner alone
    with Teller(path, b"t") as teller:
        assert ticket_for(path) == "t"
        assert teller.asked == 1


def test_no_ticket_is_shown_by_way_of_a_link_that_others_can_change(path, tmp_path):
    (tmp_path / "open").mkdir()
    link = str(tmp_path / "open" / "link")
    with Teller(path, b"t"):
        for suffix in ("", TICKET_SUFFIX):
            os.symlink(path + suffix, link + suffix)
        assert ticket_for(link) == "t"
    (tmp_path / "open").chmod(0o777)
    with Teller(path, b"t"):
        assert ticket_for(link) is None
    (tmp_path / "open").chmod(0o755)
    if os.geteuid() == 0:
        os.lchown(link, 1001, -1)
        with Teller(path, b"t"):
            assert ticket_for(link) is None
