"""Which address of another host's agent is used, and how fast bytes went to and from it."""

from __future__ import annotations

import pytest

from ckptd.agent.other_agents import AVOID_S, OtherAgents
from ckptd.errors import UnavailableError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def others(clock):
    made = OtherAgents(now=clock)
    yield made
    made.close()


def test_the_first_address_is_used_until_it_does_not_answer(others, clock):
    places = ("127.0.0.1:1", "127.0.0.1:2")
    first = others.to("b", places)
    assert first.address == places[0]
    assert others.to("b", places) is first
    others.avoid(first)
    second = others.to("b", places)
    assert second.address == places[1]
    others.avoid(second)
    assert others.to("b", places).address == places[0]  # one has to be tried
    clock.now += AVOID_S
    assert others.to("b", places) is first


def test_an_agent_without_address_is_named(others):
    with pytest.raises(UnavailableError, match="the agent on b has no address: start it with --advertise"):
        others.to("b", ())
    others.close()
    with pytest.raises(UnavailableError):
        others.to("b", ("127.0.0.1:1",))


def test_the_rate_counts_only_the_time_in_which_bytes_were_under_way(others, clock):
    with others.busy("b"):
        clock.now += 2.0
        with others.busy("b"):
            others.sent("b", 600)
        others.read("b", 400)
        clock.now += 2.0
    clock.now += 1000.0
    [rate] = others.rates()
    assert (rate.host, rate.sent_bytes, rate.read_bytes, rate.bytes_per_s) == ("b", 600, 400, 250.0)
    # What was long ago counts less and less.
    for _ in range(20):
        with others.busy("b"):
            clock.now += 10.0
            others.sent("b", 10_000)
    assert 900 < others.rates()[0].bytes_per_s < 1001
