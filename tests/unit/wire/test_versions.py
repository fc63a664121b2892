from __future__ import annotations

from pathlib import Path

import pytest

import ckptd
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.wire import versions
from ckptd.wire.v1 import common_pb2


def test_the_version_told_to_peers_is_the_package_s():
    pyproject = Path(versions.__file__).parents[2] / "pyproject.toml"
    assert f'\nversion = "{versions.VERSION}"\n' in pyproject.read_text()
    assert ckptd.__version__ == versions.VERSION


@pytest.mark.parametrize("theirs", ["0.4.0", "0.4.9", "0.3.2", "0.5.0", "0.4.0.dev1+g12", "0.4", "0.4.0rc1"])
def test_neighbouring_minor_versions_work_together(theirs):
    versions.check_version(theirs, role="client", mine="0.4.1")


@pytest.mark.parametrize("theirs", ["0.2.9", "0.6.0", "1.4.1", "10.4.1"])
def test_a_mismatch_names_both_versions(theirs):
    with pytest.raises(ConflictError) as caught:
        versions.check_version(theirs, role="client", mine="0.4.1")
    assert theirs in str(caught.value)
    assert "0.4.1" in str(caught.value)


@pytest.mark.parametrize("theirs", ["", "four", "0", "-1.0", "0.4" + "9" * 400, "0.4\n0"])
def test_what_is_no_version_is_refused(theirs):
    with pytest.raises(InvalidRequestError):
        versions.check_version(theirs, role="daemon")


def test_offered_capabilities_are_ignored_and_needed_ones_are_not():
    peer = versions.this_peer("me", required=("resume",))
    peer.capabilities.append("telepathy")
    versions.check_peer(peer, role="client")
    peer.required_capabilities.append("telepathy")
    with pytest.raises(ConflictError, match="telepathy"):
        versions.check_peer(peer, role="client")


def test_a_peer_tells_who_it_is():
    peer = versions.this_peer(versions.new_incarnation())
    assert peer.version == versions.VERSION
    assert peer.pid > 0
    assert peer.incarnation != versions.new_incarnation()
    assert common_pb2.Peer.FromString(peer.SerializeToString()) == peer
