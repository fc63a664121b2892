"""What a coordinator and an agent show an operator while a save waits for a rank."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from tests.fakes import schemas
from tests.fakes.served_hosts import WAIT_S, served_hosts
from tests.fakes.waiting import eventually


@pytest.fixture
def hosts():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), "ab") as running:
        yield running


def status(capsys, address):
    assert main.run(["status", address, "--json"]) == 0
    return schemas.check("status", json.loads(capsys.readouterr().out))


def printed(capsys, address):
    assert main.run(["status", address]) == 0
    return capsys.readouterr().out


def health(capsys, address):
    code = main.run(["health", address])
    return code, capsys.readouterr().err


def test_both_say_which_host_and_rank_a_save_waits_for(hosts, capsys):
    coordinator, agents = hosts.coordinator.address, {host: each.address for host, each in hosts.agents.items()}
    ranks = [
        ckptd.Checkpointer(agents["ab"[rank]], "r", rank=rank, world_size=2, timeout_s=WAIT_S) for rank in range(2)
    ]
    part = [ckptd.Slice(np.arange(1000.0) + rank, (2000,), (1000 * rank,)) for rank in range(2)]
    try:
        for pending in [rank.save(6, {"w": part[number]}) for number, rank in enumerate(ranks)]:
            pending.result(WAIT_S)
        early = ranks[0].save(7, {"w": part[0]})

        def awaited():
            told = status(capsys, coordinator)["coordinator"]["hosts"]
            return {each["host"]: [(part["declared"], part["ranks"]) for part in each["parts"]] for each in told}

        eventually(lambda: awaited() == {"a": [(True, [0])], "b": [(False, [1])]}, awaited, within_s=WAIT_S)
        assert "agent on b: rank 1 has not declared step 7 of r" in printed(capsys, coordinator)
        (run,) = status(capsys, agents["a"])["runs"]
        (save,) = run["saves"]
        assert (save["step"], save["phase"]) == (7, "declaring")
        assert "the coordinator, which has not said what to write" in "; ".join(save["waiting_for"])
        late = ranks[1].save(7, {"w": part[1]})
        for pending in (early, late):
            pending.result(WAIT_S)
        told = status(capsys, coordinator)
        assert told["role"] == "coordinator"
        assert told["agent"] is None
        assert all(each["bytes_per_s"] for each in told["coordinator"]["hosts"])
        assert {each["host"]: each["ranks"] for each in told["coordinator"]["hosts"]} == {
            host: [{"run": "r", "ranks": [rank]}] for rank, host in enumerate("ab")
        }
    finally:
        for rank in ranks:
            rank.close()


def test_an_agent_knows_its_coordinator_and_says_when_that_is_gone(hosts, capsys):
    address = hosts.agents["a"].address
    eventually(lambda: status(capsys, address)["agent"]["attends"], "the coordinator", within_s=WAIT_S)
    told = status(capsys, address)
    assert told["role"] == "agent"
    assert told["coordinator"] is None
    agent = told["agent"]
    assert (agent["host"], agent["coordinator"]) == ("a", hosts.coordinator.address)
    assert agent["term"] >= 1
    assert not agent["replaced"]
    hosts.stop_coordinator()
    gone = "WARNING: the agent of a has no coordinator"
    eventually(lambda: gone in printed(capsys, address), gone, within_s=WAIT_S)
    eventually(lambda: health(capsys, address)[0] == 6, "that health says so", within_s=WAIT_S)
    _, told = health(capsys, address)
    assert f"takes no new saves: the agent of a has no coordinator: {hosts.coordinator.address}" in told
    hosts.start_coordinator()
    eventually(lambda: health(capsys, address) == (0, ""), "that health says so", within_s=WAIT_S)
    eventually(lambda: status(capsys, address)["agent"]["attends"], "the next coordinator", within_s=WAIT_S)
    assert status(capsys, address)["agent"]["term"] > agent["term"]


def test_an_agent_shows_what_goes_to_other_agents(hosts, capsys):
    addresses = {host: each.address for host, each in hosts.agents.items()}
    part = np.arange(1000, dtype=np.float16)  # TensorFlow does not join such parts, so one host stores them all
    ranks = [
        ckptd.Checkpointer(addresses["ab"[rank]], "r", rank=rank, world_size=2, timeout_s=WAIT_S) for rank in (0, 1)
    ]
    try:
        saves = [rank.save(7, {"w": ckptd.Slice(part, (2000,), (1000 * number,))}) for number, rank in enumerate(ranks)]
        for pending in saves:
            pending.result(WAIT_S)
        told = {host: status(capsys, address)["agent"]["peers"] for host, address in addresses.items()}
        [(sender, [peer])] = [(host, peers) for host, peers in told.items() if peers]
        assert {sender, peer["host"]} == set(addresses)
        assert (peer["address"], peer["sent_bytes"]) == (addresses[peer["host"]], part.nbytes)
        row = rf"^{peer['host']} +{re.escape(peer['address'])} +{part.nbytes / 1000:.1f} kB "
        assert re.search(row, printed(capsys, addresses[sender]), re.M)
    finally:
        for rank in ranks:
            rank.close()
