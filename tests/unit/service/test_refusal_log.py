from __future__ import annotations

import logging

import pytest

from ckptd.service.refusal_log import BURST, BURST_OF_ALL, MOST_CHARACTERS, RefusalLog, network_of


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "ckptd.service")
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_peer_writes_a_burst_and_then_a_line_a_second_that_counts_the_others(lines):
    now = [0.0]
    log = RefusalLog(lambda: now[0])
    for number in range(1000):
        log.refused(f"ipv4:10.0.0.1:{1000 + number}", f"refused {number}", {})
    assert len(lines()) == BURST
    now[0] = 1.0
    log.refused("ipv4:10.0.0.1:1", "refused again", {})
    assert lines()[-1] == f"refused again ({1000 - BURST} more refusals of this peer were not logged)"
    log.refused("ipv4:10.0.0.2:1", "another peer", {})
    assert lines()[-1] == "another peer"


def test_all_peers_together_are_bounded(lines):
    log = RefusalLog(lambda: 0.0)
    for number in range(5000):
        log.refused(f"ipv4:10.0.{number // 250}.{number % 250}:1", "refused", {})
    assert len(lines()) == BURST_OF_ALL


def test_a_line_is_bounded_and_one_line(lines, caplog):
    RefusalLog().refused("unix:", "x\n\x1b[2J" + "A" * 100_000, {"method": "B" * 100_000})
    [line] = lines()
    assert line.startswith("x\\n\\x1b[2JAAA")
    assert len(line) < MOST_CHARACTERS + 100
    assert len(caplog.records[0].ckptd["method"]) == MOST_CHARACTERS


def test_a_bug_is_logged_with_its_traceback_and_bounded_too(lines):
    log = RefusalLog(lambda: 0.0)
    for _ in range(100):
        try:
            raise ValueError("x")
        except ValueError:
            log.bug("ipv4:10.0.0.1:1", "a bug")
    assert lines() == ["a bug"] * BURST


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.0.0.1:5", "ipv4:10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:5", "ipv6:2001:db8::"),
        ("ipv6:[2001:db8:0:0:ffff::1]:5", "ipv6:2001:db8::"),
        ("ipv6:[fe80::1%25eth0]:5", "ipv6:fe80::"),
        ("ipv6:nonsense:5", "ipv6:nonsense"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_a_host_counts_as_one_and_with_ipv6_its_network(peer, network):
    assert network_of(peer) == network
