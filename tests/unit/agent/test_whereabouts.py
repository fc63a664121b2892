"""Where an agent looks for its coordinator, and that a note which anyone may have written gets no token."""

from __future__ import annotations

import os
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
import trustme

from ckptd.agent.whereabouts import PATIENCE_S, Whereabouts, channel_to
from ckptd.engine.catalog.term import Term
from ckptd.engine.refusals import NotNowError
from ckptd.storage.memory import MemoryStore
from ckptd.wire import methods
from ckptd.wire.credentials import NO_CREDENTIALS, Credentials
from ckptd.wire.v1 import agent_pb2
from tests import seams
from tests.fakes.clock import HandClock

WAIT_S = 60
TOKEN = "ckptd_a-secret"
OURS, THEIRS = trustme.CA(), trustme.CA()
SHOWN = Credentials(token=TOKEN, ca=OURS.cert_pem.bytes())


class Listener:
    """Takes every call, and keeps what it was shown."""

    def __init__(self, authority: trustme.CA | None = None, *, path: str = "") -> None:
        self.shown: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[_Everything(self.shown)])
        if path:
            self._server.add_insecure_port(f"unix:{path}")
            self.address = f"unix://{path}"
        elif authority is None:
            self.address = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            made = authority.issue_cert("127.0.0.1")
            key, chain = made.private_key_pem.bytes(), b"".join(each.bytes() for each in made.cert_chain_pems)
            credentials = grpc.ssl_server_credentials([(key, chain)])
            self.address = f"grpcs://127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait(WAIT_S)


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, shown: list[str]) -> None:
        self._shown = shown

    def service(self, details):
        self._shown += [value for name, value in details.invocation_metadata if name == "authorization"]
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


def noted(*addresses):
    store = MemoryStore(has_locks=False, verifies_writes=True)
    Term(store, HandClock(), addresses=addresses).take()
    return store


def call(where):
    """Make the call that an agent would make; return what was found."""
    address, shown = where.find()
    with channel_to(address, shown) as channel:
        methods.Stub(channel, methods.AGENT).Place(agent_pb2.PlaceRequest(), timeout=WAIT_S)
    return str(address), shown


@pytest.fixture
def short():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as place:
        yield Path(place)


def test_the_operators_authority_and_a_socket_of_ones_own_are_trusted(short):
    for listener in (Listener(OURS), Listener(path=f"{short}/c.sock")):
        with closing(listener):
            call(Whereabouts(noted(listener.address), (), lambda: SHOWN))
            assert listener.shown == [f"Bearer {TOKEN}"]


def test_a_listener_that_a_hostile_note_names_sees_no_token():
    with closing(Listener(THEIRS)) as hostile:
        where = Whereabouts(noted(hostile.address), (), lambda: SHOWN)
        with pytest.raises(NotNowError, match="is not trusted"):
            where.find()
        # Without --ca there is no authority that only the operator has: any that the system knows signs for strangers.
        with pytest.raises(NotNowError, match="only with --ca"):
            Whereabouts(noted(hostile.address), (), lambda: Credentials(token=TOKEN)).find()
        assert hostile.shown == []
    with closing(Listener()) as hostile:
        _, shown = call(Whereabouts(noted(hostile.address), (), lambda: SHOWN))
        assert (shown, hostile.shown) == (NO_CREDENTIALS, [])


def test_another_host_without_tls_is_not_even_called(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it was called"))
    where = Whereabouts(noted("grpc://h9.example:7070", "h9.example:7070"), (), lambda: SHOWN)
    with pytest.raises(NotNowError, match=r"without TLS: that is not trusted unless --coordinator names it; .*"):
        where.find()


def test_a_socket_of_another_user_is_not_trusted(short, monkeypatch):
    with closing(Listener(path=f"{short}/c.sock")) as hostile:
        if os.geteuid() == 0:
            os.chown(f"{short}/c.sock", 4242, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 4242)
        with pytest.raises(NotNowError, match="is of user"):
            Whereabouts(noted(hostile.address), (), lambda: SHOWN).find()
        assert hostile.shown == []


def test_what_the_operator_names_is_tried_in_order_whatever_the_note_says():
    store = noted("grpc://127.0.0.1:9")
    with closing(Listener()) as first, closing(Listener()) as second:
        clock = HandClock()
        where = Whereabouts(store, ("127.0.0.1:9", first.address, second.address), now=clock.boot_s)
        assert call(where)[0] == first.address
        clock.advance(PATIENCE_S - 1)
        assert call(where)[0] == first.address
        clock.advance(2)  # it takes calls, and does not let us attend: it may hang
        assert call(where)[0] == second.address
        clock.advance(PATIENCE_S - 1)
        where.attended()
        clock.advance(PATIENCE_S - 1)
        assert call(where)[0] == second.address
        second.close()
        assert call(where)[0] == first.address


def test_the_note_is_read_again_less_and_less_often_and_not_by_all_at_one_moment():
    reads: list[str] = []

    class Counting(MemoryStore):
        def stat(self, key):
            reads.append(key)
            return super().stat(key)

    store = Counting(has_locks=False, verifies_writes=True)
    times = {}
    for vary in (0.0, 1.0):
        clock = HandClock()
        where, at = Whereabouts(store, now=clock.boot_s, vary=lambda vary=vary: vary), []
        for _ in range(1200):  # two minutes
            before = len(reads)
            with pytest.raises(NotNowError, match="no coordinator yet"):
                where.find()
            if len(reads) > before:
                at.append(clock.boot_s())
            clock.advance(0.1)
        times[vary] = [later - former for former, later in pairwise(at)]
    assert max(times[0.0]) == pytest.approx(2.5, abs=0.2)
    assert max(times[1.0]) == pytest.approx(7.5, abs=0.2)
    assert times[0.0][0] < times[0.0][-1]


def test_a_token_that_was_replaced_is_shown_from_then_on():
    with closing(Listener()) as listener:
        shown = [Credentials(token="one")]
        where = Whereabouts(MemoryStore(), (listener.address,), lambda: shown[0])
        call(where)
        shown[0] = Credentials(token="two")
        call(where)
        assert listener.shown == ["Bearer one", "Bearer two"]


def test_the_wait_for_an_address_is_bounded(monkeypatch):
    seams.COORDINATOR_TRY_S.put(monkeypatch, 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and shakes no hands
        where = Whereabouts(MemoryStore(), (f"grpcs://127.0.0.1:{silent.getsockname()[1]}",), lambda: SHOWN)
        with pytest.raises(NotNowError):
            where.find()
