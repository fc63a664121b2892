"""Which readers an agent may speak of: retention leaves a checkpoint for those of its own runs only."""

from __future__ import annotations

from ckptd.access import tokens
from ckptd.access.policy import parse
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.hosts.messages import AgentLife, Attached, Beat
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses, agents, methods
from ckptd.wire.channels import open_channel
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.served_hosts import Serving

POLICY = parse(
    {
        "grant": [
            {"to": "token:vision", "runs": "vision/**", "role": "agent"},
            {"to": "token:vision", "runs": "shared/**", "role": "read"},
        ]
    }
)


class Hearing:
    """Takes what agents say, and answers."""

    def __init__(self):
        self.heard = []

    def hear(self, message, stamp):
        self.heard.append(message)
        return Attached(1, 15.0)

    def tick(self):
        pass


class Guarded(Serving):
    async def _start(self):
        known = Tokens({"vision": Token("vision", tokens.hash_of("secret"), 0.0)})
        listen = (addresses.parse(self.address),)
        server = Server(
            self.engine, ServerOptions(listen, access=Access(tokens=known, policy=POLICY)), hosts=self.hosts
        )
        await server.start()
        return server


class Engine(FakeCoordinator):
    def tick(self):
        pass

    def close(self, grace_s):
        return True


def test_an_agent_speaks_of_readers_of_what_its_identity_may_read_and_of_no_other(tmp_path):
    hosts = Hearing()
    served = Guarded(Engine(), tmp_path / "s", hosts)
    try:
        with open_channel(addresses.parse(served.address), token="secret") as channel:
            beat = Beat(AgentLife("a", "a-1"), 1, (), ("vision/r/m-1", "other/r/m-1", "shared/r/m-2", "m-3"))
            methods.Stub(channel, methods.AGENT).Tell(agents.from_agent_to_wire(beat), timeout=60)
    finally:
        served.stop()
    assert [message.reading for message in hosts.heard] == [("vision/r/m-1", "shared/r/m-2")]
