"""What a trainer with the role `save` can never do, against a real engine: two teams on one daemon."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.access import tokens
from ckptd.access.policy import Policy, parse
from ckptd.access.tokens import Token, Tokens
from ckptd.errors import NotPermittedError
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2
from tests.unit.client.served import Daemon

WAIT_S = 20.0
W = {"w": np.arange(6, dtype=np.float32)}
GRANTS = [
    {"to": "token:vision", "runs": "vision/**", "role": "save"},
    {"to": "token:audio", "runs": "audio/**", "role": "save"},
    {"to": "token:keeper", "runs": "**", "role": "manage"},
    {"to": "token:root", "runs": "**", "role": "admin"},
    {"to": "token:looker", "runs": "**", "role": "read"},
]
NAMES = ("vision", "audio", "keeper", "root", "looker")
SECRETS = {name: f"{tokens.PREFIX}{name}" for name in NAMES}
KNOWN = Tokens({name: Token(name, tokens.hash_of(secret), 0.0) for name, secret in SECRETS.items()})


def access_with(*floors: dict[str, object]) -> Access:
    policy: Policy = parse({"grant": GRANTS, "floor": list(floors)})
    return Access(tokens=KNOWN, policy=policy)


class TwoTeams(Daemon):
    """A daemon with tokens for two teams, one for their keeper, and one for its operator."""

    def make_server(self, coordinator):
        return Server(coordinator, ServerOptions(listen=(addresses.parse("127.0.0.1:0"),), access=access_with()))


@pytest.fixture
def daemon(tmp_path):
    running = TwoTeams(tmp_path / "root", undo_s=600.0)
    yield running
    running.stop()


def open_run(daemon, name, run, **options):
    return Checkpointer(daemon.address, run=run, token=SECRETS[name], timeout_s=WAIT_S, **options)


def call(daemon, name, service, method, request):
    """Make one call as one of the identities; raises what the daemon refuses it with."""
    with open_channel(addresses.parse(daemon.address), token=SECRETS[name]) as channel:
        try:
            return getattr(methods.Stub(channel, service), method)(request, timeout=WAIT_S)
        except grpc.RpcError as error:
            raise status.from_wire(error) from error


def save(ckpt, *steps, **options):
    for step in steps:
        done = ckpt.save(step, W, **options).result(WAIT_S)
        ckpt.settle(step)
    return done


def steps_of(ckpt):
    return [checkpoint.step for checkpoint in ckpt.checkpoints()]


def test_no_option_of_a_trainer_undercuts_the_floor_which_counts_as_soon_as_it_is_written(daemon):
    with open_run(daemon, "vision", "vision/a", max_to_keep=1) as trainer:
        save(trainer, 1, 2)
        assert steps_of(trainer) == [2]
        daemon.server.use_identities(access_with({"runs": "vision/**", "keep_at_least": 3}), None)
        save(trainer, 3, 4, 5)
        assert steps_of(trainer) == [3, 4, 5]
        with pytest.raises(NotPermittedError, match="the daemon's policy keeps the newest 3"):
            trainer.delete(3)
        with pytest.raises(NotPermittedError, match="may not manage"):
            trainer.delete(3, for_good=True)
        assert steps_of(trainer) == [3, 4, 5]
        call(daemon, "keeper", methods.ADMIN, "Delete", admin_pb2.DeleteRequest(run="vision/a", step=3))
        assert steps_of(trainer) == [4, 5]
