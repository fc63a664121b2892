"""What ranks of a host find at its agent: its socket without an address, its memory, and a share for each team."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.access import tokens
from ckptd.errors import NotPermittedError
from ckptd.wire import addresses, frames, methods, places, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, arena_pb2, read_pb2
from tests import seams
from tests.fakes.worker import WAIT_S

ARENA_BYTES = 64 << 20
TEAMS = ("vision", "speech")
POLICY = "".join(f'[[grant]]\nto = "token:{team}"\nruns = "{team}/**"\nrole = "save"\n' for team in TEAMS)


@pytest.fixture
def base():
    """A directory for sockets, whose paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="ckptd-") as directory:
        yield Path(directory)


@pytest.fixture
def attend(serve, base):
    """Start the agent of a host, whose coordinator is there."""
    coordinator = f"unix://{base}/coordinator"
    serve("--role", "coordinator", "--listen", coordinator, name="coordinator").ready()

    def start(*flags, **options):
        role = ("--role", "agent", "--name", "h1", "--coordinator", coordinator)
        return serve(*role, "--arena-bytes", str(ARENA_BYTES), *flags, **options).ready()

    return start


def status_at(address):
    with open_channel(addresses.parse(address)) as channel:
        return methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)


@pytest.mark.parametrize("where", ["variable", "user", "host"])
def test_a_rank_finds_its_agent_without_an_address_and_saves_through_its_memory(attend, base, monkeypatch, where):
    own, of_the_host = base / "own" / places.SOCKET_NAME, base / "host.sock"
    own.parent.mkdir(mode=0o700)
    monkeypatch.delenv(places.ADDRESS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own.parent))
    seams.SYSTEM_SOCKET.put(monkeypatch, addresses.Address(path=str(of_the_host)))
    listens = {"variable": base / "named.sock", "user": own, "host": of_the_host}[where]
    attend("--listen", f"unix://{listens}")
    if where == "variable":
        monkeypatch.setenv(places.ADDRESS_VARIABLE, f"unix://{listens}")
    with ckptd.Checkpointer(run="runs/a", rank=0, world_size=1, timeout_s=WAIT_S) as checkpointer:
        checkpointer.save(1, {"w": np.arange(1000)}).result()
        assert (checkpointer.restore()["w"] == np.arange(1000)).all()
        found = status_at(f"unix://{listens}")
    assert [(each.run, list(each.arena_ranks)) for each in found.runs] == [("runs/a", [0])]
    assert 0 < found.arena_bytes <= ARENA_BYTES == found.arena_limit_bytes


@pytest.fixture
def teams(attend, base, tmp_path):
    """An agent on whose socket each team shows its own token; yields its address and the tokens."""
    (tmp_path / "policy.toml").write_text(POLICY)
    known = str(tmp_path / "tokens.json")
    secrets = {team: tokens.create(known, team) for team in TEAMS}
    address = f"unix://{base}/shared.sock"
    attend("--listen", address, "--tokens", known, "--policy", f"{tmp_path}/policy.toml")
    return address, secrets


def test_teams_on_one_socket_save_to_their_own_runs_alone(teams):
    address, secrets = teams
    with pytest.raises(NotPermittedError), ckptd.Checkpointer(address, "vision/r", rank=0, world_size=1) as nobody:
        nobody.save(1, {"w": np.ones(10)}).result()
    for number, team in enumerate(TEAMS):
        with ckptd.Checkpointer(address, f"{team}/r", rank=0, world_size=1, token=secrets[team]) as own:
            own.save(1, {"w": np.full(1000, number)}).result()
            assert (own.restore()["w"] == number).all()
    for team, other in (TEAMS, reversed(TEAMS)):
        with ckptd.Checkpointer(address, f"{other}/r", rank=0, world_size=1, token=secrets[team]) as foreign:
            with pytest.raises(NotPermittedError, match=f"token:{team} may not"):
                foreign.save(2, {"w": np.zeros(1000)}).result()
            with pytest.raises(NotPermittedError, match=f"token:{team} may not read run '{other}/r'"):
                foreign.restore()
    for team in TEAMS:
        with ckptd.Checkpointer(address, f"{team}/r", rank=0, world_size=1, token=secrets[team]) as own:
            assert [each.step for each in own.checkpoints()] == [1]


def held(arena, key, run):
    """Ask the socket of the memory for a checkpoint that it holds; return the refusal, None if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(arena.path)
        for request in (
            arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=versions.this_peer("me"), key=key)),
            arena_pb2.ArenaRequest(hold=arena_pb2.ArenaHold(run=run, key=f"{run}/model.ckpt-1")),
        ):
            frames.send_frame(connection, request.SerializeToString())
            answer, descriptors = frames.receive_frame(connection)
            frames.close_all(descriptors)
            reply = arena_pb2.ArenaReply.FromString(bytes(answer))
            if reply.error:
                return status.unpack(reply.error)
    return None


def test_the_memory_of_a_team_is_lent_to_no_other(teams):
    address, secrets = teams
    with ckptd.Checkpointer(address, "vision/r", rank=0, world_size=1, token=secrets["vision"]) as own:
        own.save(1, {"w": np.ones(1000)}).result()
        arenas = {}
        for team in TEAMS:
            with open_channel(addresses.parse(address), token=secrets[team]) as channel:
                latest = methods.Stub(channel, methods.READ).Latest(
                    read_pb2.LatestRequest(run=f"{team}/r"), timeout=WAIT_S
                )
            arenas[team] = latest.arena
        assert held(arenas["vision"], arenas["vision"].key, "vision/r") is None
        assert "token:speech may not read run 'vision/r'" in str(
            held(arenas["speech"], arenas["speech"].key, "vision/r")
        )
        assert held(arenas["vision"], b"made up", "vision/r") is not None
