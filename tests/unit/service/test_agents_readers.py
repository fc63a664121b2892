"""What an agent may speak of: of saves and of readers of its own runs only."""

from __future__ import annotations

from ckptd.access import tokens
from ckptd.access.policy import parse
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.hosts.messages import AgentLife, Attached, Beat, DeclareHost, Hello, HostDeclaration
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

    def admit(self, hello):
        pass

    def attend(self, hello, send, stamp):
        return Attached(1, 15.0)

    def parted(self, host, send):
        pass

    def tick(self):
        pass

    def runs(self):
        return {}

    def limit(self, beginning):
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
            methods.Stub(channel, methods.AGENT).Tell(agents.from_agent_to_wire(beat), timeout=120)
    finally:
        served.stop()
    assert [message.reading for message in hosts.heard] == [("vision/r/m-1", "shared/r/m-2")]


def test_an_agent_says_nothing_that_counts_of_a_run_of_others_and_is_heard_of_its_own(tmp_path):
    hosts, life = Hearing(), AgentLife("a", "a-1")
    said = [HostDeclaration(run.replace("/", "-"), run, 1, (0,), 1, bytes(32), 8) for run in ("other/r", "vision/r")]
    messages = (Hello(life, "root", 0), *(DeclareHost(life, 1, each) for each in said), Beat(life, 1))
    served = Guarded(Engine(), tmp_path / "s", hosts)
    try:
        with open_channel(addresses.parse(served.address), token="secret") as channel:
            requests = iter([agents.from_agent_to_wire(message) for message in messages])
            answers = methods.Stub(channel, methods.AGENT).Attend(requests, timeout=120)
            assert [agents.from_coordinator_from_wire(next(answers)) for _ in range(2)] == 2 * [Attached(1, 15.0)]
    finally:
        served.stop()
    assert hosts.heard == [DeclareHost(life, 1, said[1]), Beat(life, 1)]
