"""Who shows wrong tokens again and again is refused late; and others are not."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from ckptd.access import callers, policy
from ckptd.engine.refusals import NotNowError
from ckptd.service import door
from ckptd.service.door import Door
from ckptd.service.gate import Access, Gate, UnauthenticatedError
from tests import seams


def context(peer, token):
    return SimpleNamespace(
        peer=lambda: peer, invocation_metadata=lambda: (("authorization", f"Bearer {token}"),), auth_context=dict
    )


async def is_refused(opened, peer, token="wrong"):
    with pytest.raises(UnauthenticatedError):
        await opened.caller(context(peer, token))
    return True


def test_after_a_few_the_refusals_of_a_peer_come_late_and_those_of_others_at_once(monkeypatch):
    async def scene():
        opened = Door(Gate(Access(shared_token="right")), now=lambda: 0.0)
        for port in range(door.AT_ONCE):
            await asyncio.wait_for(is_refused(opened, f"ipv4:10.0.0.1:{port}"), 0.5)
        late = asyncio.ensure_future(is_refused(opened, "ipv4:10.0.0.1:99"))
        await asyncio.sleep(0)
        assert not late.done()
        await asyncio.wait_for(is_refused(opened, "ipv4:10.0.0.2:1"), 0.5)
        caller = await asyncio.wait_for(opened.caller(context("ipv4:10.0.0.1:99", "right")), 0.5)
        assert str(caller) == "token:token-file"
        assert await late

    seams.LATE_REFUSAL_S.put(monkeypatch, 0.05)
    asyncio.run(scene())


def test_no_more_than_so_many_wait_and_the_connections_of_the_others_are_closed(monkeypatch):
    async def scene():
        opened = Door(Gate(Access(shared_token="right")), now=lambda: 0.0)
        expelled = []
        opened.connections = SimpleNamespace(expel=expelled.append, note=None)
        calls = [
            asyncio.ensure_future(is_refused(opened, f"ipv4:10.0.0.1:{port}"))
            for port in range(door.AT_ONCE + door.MOST_LATE // 8 + 5)
        ]
        assert all(await asyncio.gather(*calls))
        assert len(expelled) == 5

    seams.LATE_REFUSAL_S.put(monkeypatch, 0.05)
    asyncio.run(scene())


def test_who_shows_an_identity_is_known_to_be_connected():
    async def scene():
        opened = Door(Gate(Access(shared_token="right")))
        noted = []
        opened.connections = SimpleNamespace(note=lambda *told: noted.append(told))
        await opened.caller(context("ipv4:10.0.0.1:5", "right"))
        assert noted == [("ipv4:10.0.0.1:5", "token:token-file")]

    asyncio.run(scene())


def test_each_host_of_an_identity_has_a_rate_of_calls_of_its_own():
    async def scene():
        rows = policy.parse({"limit": [{"to": "*", "requests_per_s_per_host": 1}]})
        opened = Door(Gate(Access(shared_token="right", policy=rows)), now=lambda: 0.0)
        caller = callers.of_token("token-file")
        for _ in range(door.AT_ONCE):
            opened.check_rate(caller, "ipv4:10.0.0.1:5")
        opened.check_rate(caller, "ipv4:10.0.0.2:5")
        with pytest.raises(NotNowError, match="at ipv4:10.0.0.1 calls too often: .* 1 requests"):
            opened.check_rate(caller, "ipv4:10.0.0.1:6")

    asyncio.run(scene())


def test_an_identity_has_a_share_of_the_calls_in_progress_and_the_error_says_whose():
    async def scene():
        opened = Door(Gate(Access(shared_token="right")), most_calls=16)
        one, other = callers.of_token("a"), callers.of_token("b")
        with contextlib.ExitStack() as held:
            for number in range(12):
                held.enter_context(opened.inside(one, f"ipv4:10.0.0.1:{number}"))
            with pytest.raises(NotNowError, match="token:a at ipv4:10.0.0.1 has 12 calls in progress, and may have 12"):
                held.enter_context(opened.inside(one, "ipv4:10.0.0.1:99"))
            for number in range(2):
                held.enter_context(opened.inside(one, f"ipv4:10.0.0.2:{number}"))
            with pytest.raises(NotNowError, match="token:a has 14 calls in progress, and may have 14"):
                held.enter_context(opened.inside(one, "ipv4:10.0.0.3:1"))
            held.enter_context(opened.inside(other, "ipv4:10.0.0.1:1"))
        held.enter_context(opened.inside(one, "ipv4:10.0.0.1:1"))

    asyncio.run(scene())
