"""What a revoked token still gets by what it once got: an open connection, a key for shared memory, a watch."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.access import tokens
from ckptd.access.policy import parse
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.settings import Settings
from ckptd.errors import NotPermittedError, SessionAbortedError
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses, frames, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import arena_pb2, read_pb2, save_pb2, watch_pb2
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

WAIT_S = 60.0
W = {"w": np.arange(1000, dtype=np.float32)}
POLICY = parse({"grant": [{"to": ["token:vision", "token:boss"], "runs": "vision/**", "role": "save"}]})


def access_of(**secrets):
    """Return what a daemon knows of these tokens, by name."""
    known = {name: Token(name, tokens.hash_of(secret), 0.0) for name, secret in secrets.items()}
    return Access(tokens=Tokens(known), policy=POLICY)


class Told:
    """A journal that is a list."""

    complaint = ""

    def __init__(self):
        self.entries = []

    def begins(self, entry):
        self.entries.append(entry)

    ended = begins

    def revoked(self):
        return sorted(
            (each.details["method"], str(each.actors[0].identity), each.run)
            for each in self.entries
            if each.event == "revoked"
        )


class Guarded(Daemon):
    """A daemon with two tokens for the same runs, and with shared memory."""

    def make_server(self, coordinator):
        access, self.told = access_of(vision="first", boss="boss"), Told()
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=access, arena=self._arena), self.told)

    def revoke(self, **left):
        self.server.use_identities(access_of(boss="boss", **left), None)

    def take_the_row(self):
        access = access_of(vision="first", boss="boss")
        rows = [{"to": "token:boss", "runs": "vision/**", "role": "save"}]
        self.server.use_identities(replace(access, policy=parse({"grant": rows})), None)

    def let_it_expire(self):
        access = access_of(boss="boss")
        soon = Token("vision", tokens.hash_of("first"), 0.0, time.time() + 0.2)
        self.server.use_identities(
            replace(access, tokens=Tokens({"vision": soon, "boss": next(iter(access.tokens))})), None
        )


@pytest.fixture
def daemon(tmp_path):
    running = Guarded(tmp_path / "root", arena_bytes=64 << 20)
    yield running
    running.stop()


def arena_of(daemon, token):
    with open_channel(addresses.parse(daemon.address), token=token) as channel:
        return methods.Stub(channel, methods.READ).Latest(read_pb2.LatestRequest(run="vision/a"), timeout=WAIT_S).arena


def held(daemon, key):
    """Ask for what memory holds, as the identity that got this key; return the refusal, None if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(arena_of(daemon, "boss").path)
        for request in (
            arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=versions.this_peer("me"), key=key)),
            arena_pb2.ArenaRequest(hold=arena_pb2.ArenaHold(run="vision/a", key="vision/a/model.ckpt-1")),
        ):
            frames.send_frame(connection, request.SerializeToString())
            answer, descriptors = frames.receive_frame(connection)
            frames.close_all(descriptors)
        reply = arena_pb2.ArenaReply.FromString(bytes(answer))
        return status.unpack(reply.error) if reply.error else None


@pytest.mark.parametrize("left", [{}, {"vision": "second"}], ids=["revoked", "replaced by one of the same name"])
def test_a_member_whose_token_is_revoked_saves_no_more_over_shared_memory_either(daemon, left):
    with Checkpointer(daemon.address, "vision/a", token="first", timeout_s=WAIT_S) as trainer:
        trainer.save(1, W).result(WAIT_S)
        daemon.revoke(**left)
        with pytest.raises(NotPermittedError, match="not the daemon's"):
            trainer.save(2, W).result(WAIT_S)
    with Checkpointer(daemon.address, "vision/a", token="boss") as other:
        assert [each.step for each in other.checkpoints()] == [1]


def test_a_key_for_shared_memory_is_its_tokens_and_not_its_names(daemon):
    key = arena_of(daemon, "first").key
    assert arena_of(daemon, "first").key == key != arena_of(daemon, "boss").key
    assert held(daemon, key) is None
    daemon.revoke(vision="second")
    assert arena_of(daemon, "second").key != key
    assert "not the daemon's" in str(held(daemon, key))


def test_a_watch_tells_a_revoked_token_of_no_more_checkpoints(daemon):
    with (
        open_channel(addresses.parse(daemon.address), token="first") as channel,
        Checkpointer(daemon.address, "vision/a", token="boss") as trainer,
    ):
        trainer.save(1, W).result(WAIT_S)
        watching = methods.Stub(channel, methods.WATCH).Watch(watch_pb2.WatchRequest(run="vision/a"), timeout=WAIT_S)
        assert next(watching).checkpoint.step == 1
        daemon.revoke()
        trainer.save(2, W).result(WAIT_S)
        with pytest.raises(grpc.RpcError, match="not the daemon's"):
            next(watching)


@pytest.mark.parametrize(
    ("take_away", "said"),
    [(Guarded.revoke, "not the daemon's"), (Guarded.take_the_row, "may not"), (Guarded.let_it_expire, "expired")],
    ids=["token", "row", "time"],
)
def test_what_waits_ends_at_once_when_its_right_is_taken_away_and_what_others_wait_for_goes_on(daemon, take_away, said):
    with (
        open_channel(addresses.parse(daemon.address), token="first") as channel,
        open_channel(addresses.parse(daemon.address), token="boss") as others,
    ):
        peer = versions.this_peer("me")
        joined = methods.Stub(channel, methods.SAVE).Join(
            save_pb2.JoinRequest(peer=peer, run="vision/a", rank=0, world_size=2), timeout=WAIT_S
        )
        rank_1 = save_pb2.JoinRequest(peer=versions.this_peer("other"), run="vision/a", rank=1, world_size=2)
        staying = methods.Stub(others, methods.SAVE).Join(rank_1, timeout=WAIT_S)
        epochs = [next(each).welcome.epoch for each in (joined, staying)]
        watching = methods.Stub(channel, methods.WATCH).Watch(watch_pb2.WatchRequest(run="vision/a"), timeout=WAIT_S)
        looking = methods.Stub(others, methods.WATCH).Watch(watch_pb2.WatchRequest(run="vision/a"), timeout=WAIT_S)
        eventually(lambda: daemon.server.hub.num_watchers == 2, "the watchers")
        take_away(daemon)
        for ended in (joined, watching):
            with pytest.raises(grpc.RpcError) as refused:
                next(ended)
            assert isinstance(status.from_wire(refused.value), NotPermittedError)
            assert said in str(status.from_wire(refused.value))
        # The place is free before its lease has run out, and in the epoch of those that stay.
        peer = versions.this_peer("successor")
        again = save_pb2.JoinRequest(peer=peer, run="vision/a", rank=0, world_size=2)
        taken = []

        def is_taken():
            taken.append(methods.Stub(others, methods.SAVE).Join(again, timeout=WAIT_S))
            try:
                return [*epochs, next(taken[-1]).welcome.epoch] == [1, 1, 1]
            except grpc.RpcError:
                return False

        eventually(is_taken, "the place")
        assert staying.is_active()
        assert looking.is_active()
        eventually(lambda: len(daemon.told.revoked()) == 2, "the records")
        assert daemon.told.revoked() == [(name, "token:vision", "vision/a") for name in ("Join", "Watch")]
        for each in (staying, looking, *taken):
            each.cancel()


def test_a_stream_that_begins_after_its_token_was_revoked_is_refused(daemon):
    with open_channel(addresses.parse(daemon.address), token="first") as channel:
        begun, say = threading.Event(), threading.Event()

        def requests():
            begun.set()
            say.wait(WAIT_S)
            yield save_pb2.WriteRequest(open=save_pb2.WriteOpen())

        writing = methods.Stub(channel, methods.SAVE).Write(requests(), timeout=WAIT_S)
        assert begun.wait(WAIT_S)
        daemon.revoke()
        say.set()
        with pytest.raises(grpc.RpcError, match="not the daemon's"):
            next(writing)


def test_memory_is_no_longer_lent_to_an_identity_whose_row_was_taken_away(daemon, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "auto")
    with Checkpointer(daemon.address, "vision/a", token="first", timeout_s=WAIT_S) as trainer:
        trainer.save(1, W).result(WAIT_S)
        daemon.take_the_row()
        eventually(lambda: ("shared memory", "token:vision", "vision/a") in daemon.told.revoked(), "the record")
        with pytest.raises(NotPermittedError, match="may not"):
            trainer.save(2, W).result(WAIT_S)


def end_of(pending):
    """Return the error that a save ended with; None if it was published."""
    try:
        pending.result(WAIT_S)
    except (NotPermittedError, SessionAbortedError) as error:
        return error
    return None


@pytest.mark.parametrize("transport", ["stream", "auto"])
def test_a_save_under_way_when_the_token_is_revoked_ends_whole_or_not_at_all(daemon, monkeypatch, transport):
    monkeypatch.setenv("CKPTD_TRANSPORT", transport)
    daemon.stop()
    daemon.settings = Settings(stall_timeout_s=3.0)
    daemon.start()
    ranks = [
        Checkpointer(daemon.address, "vision/b", rank=rank, world_size=2, token=token, timeout_s=WAIT_S)
        for rank, token in enumerate(("first", "boss"))
    ]
    with ranks[0], ranks[1]:
        assert [end_of(each) for each in [rank.save(1, {str(rank.rank): W["w"]}) for rank in ranks]] == [None, None]
        waiting = ranks[0].save(2, {"0": W["w"]})
        eventually(lambda: any(view.saves for view in daemon.coordinator.runs()), "the declaration of rank 0")
        daemon.revoke()
        errors = [end_of(each) for each in (ranks[1].save(2, {"1": W["w"]}), waiting)]
    with Checkpointer(daemon.address, "vision/b", token="boss") as other:
        assert [each.step for each in other.checkpoints()] == ([1] if errors[0] else [1, 2])
