"""Many hosts, all kinds of fault, one judge: see `tests.simulation.judge` for what must hold after every event.

A life that breaks a promise is told with its seed: `Life(seed, hosts, saves).run()` lives it again, event by event.
"""

from __future__ import annotations

import os

import pytest

from tests import seams
from tests.simulation.campaign import campaign
from tests.simulation.judge import BrokenPromiseError
from tests.simulation.life import Life
from tests.simulation.mutants import MUTANTS


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Log nothing: thousands of requests fail, as they are meant to."""
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("hosts", [1, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_no_promise_is_broken(seed: int, hosts: int) -> None:
    life = Life(seed, hosts, num_saves=40).run()
    assert life.saved
    assert life.num_calls > 40 or not life.judge.failed


@pytest.mark.parametrize(("seed", "hosts", "saves"), [(11000128, 1, 50), (11000136, 1, 50), (11000229, 1, 50)])
def test_a_seed_that_has_broken_a_promise(seed: int, hosts: int, saves: int) -> None:
    Life(seed, hosts, saves).run()


@pytest.mark.parametrize("seed", range(2))
def test_no_promise_is_broken_over_a_directory_that_hosts_share(seed: int) -> None:
    """Locks are of one host each, and all that is conditional is made by links."""
    assert Life(seed, 3, num_saves=30, over_directory=True).run().saved


@pytest.mark.parametrize("seed", range(3))
def test_requests_that_take_effect_when_nothing_waits_for_them_any_more(seed: int) -> None:
    assert Life(seed, 3, num_saves=50, late=0.1).run().saved


def test_many_agents() -> None:
    assert Life("many", 64, num_saves=4).run().saved


def test_without_faults_every_save_is_acknowledged() -> None:
    life = Life(0, 3, num_saves=20, with_faults=False).run()
    assert len(life.saved) == life.num_calls == 21
    assert life.judge.most_waited_s < 10.0  # an upload takes 6 s at most


def test_a_seed_replays_to_the_same_trace() -> None:
    first, again, other = (Life(seed, 3, num_saves=30).run() for seed in (7, 7, 8))
    assert first.world.trace == again.world.trace != other.world.trace


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_taken_out_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = MUTANTS[name](monkeypatch)
    with pytest.raises(BrokenPromiseError):
        for seed in (21, *range(12)):
            Life(seed, 3, num_saves=40, cast=cast).run()


@pytest.mark.parametrize("which", ["all", "those that were published"])
def test_a_record_that_goes_before_its_writers_have_ended_is_missed(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung agent then writes a shard that nothing ever finds."""
    is_taken = seams.IS_TAKEN.value
    keeps = which != "all"
    seams.IS_TAKEN.put(monkeypatch, lambda self, record: keeps and not record.published and is_taken(self, record))
    with pytest.raises(BrokenPromiseError, match="a day later there is still"):
        for seed in (7, *range(300)):
            Life(seed, 3, num_saves=40).run()


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("hosts", [1, 3, 8, 64])
def test_a_long_history(hosts: int) -> None:
    """`CKPTD_SIMULATED_SAVES` sets how many saves, 10,000 without it; fewer with many hosts, as each has its share."""
    saves = int(os.environ.get("CKPTD_SIMULATED_SAVES", "10000"))
    figures = campaign(max(10, saves * 3 // (8 * hosts)), num_hosts=hosts, first_seed=1000)
    print(f"\n{hosts} hosts: {figures}")
    assert figures.acknowledged > figures.saves // 4
