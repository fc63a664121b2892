"""Hosts as Linux namespaces: network, host name and mounts of their own, joined by a bridge. Needs root.

The namespaces have no names: each lives as long as a process that holds it, which ends with the process of the tests.
With the last of them go its interfaces, so nothing stays, however a test ends. This process takes part in the network
too, at `Network.address`: there it stands for a store.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.fakes.waiting import eventually

_HOLD = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "-u", "-m", "sleep", "infinity"]
_PR_SET_PDEATHSIG = 1
_numbers = itertools.count()
_KINDS = ("net", "uts", "mnt")
_NAMESPACES = {"net": 0x40000000, "uts": 0x04000000, "mnt": 0x00020000}  # as <sched.h> has them


def needs_root() -> None:
    """Skip the test where namespaces cannot be made; in CI it fails."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI makes network namespaces, which needs root"
        pytest.skip("hosts with networks of their own need root")


def enter(holder: int) -> None:
    """Move this process, which must have one thread, to the host whose namespaces `holder` has.

    It ends with the process of the tests.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    files = [(os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY), _NAMESPACES[kind]) for kind in _KINDS]
    for file, kind in files:
        if libc.setns(file, kind):
            raise OSError(ctypes.get_errno(), f"setns to {holder}")
        os.close(file)


class Host:
    """One host: a name, an address, and what runs there is started with `holder`."""

    def __init__(self, name: str, number: int, network: Network) -> None:
        self.name, self.address, self._network = name, f"{network.prefix}.{number}", network
        self._hold = _held()
        self.holder = self._hold.pid
        self.link = f"h{number}"
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.holder, on=network)
        _run("ip", "link", "set", self.link, "master", "br0", "up", on=network)
        _run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0", on=self)
        _run("ip", "link", "set", "eth0", "up", on=self)
        _run("ip", "link", "set", "lo", "up", on=self)
        _run("hostname", f"host-{name}", on=self)

    def bind(self, what: Path, where: Path) -> None:
        """Let a directory be seen at another path on this host."""
        _run("mount", "--bind", what, where, on=self)

    def cut(self) -> None:
        """Pull its cable."""
        _run("ip", "link", "set", self.link, "down", on=self._network)

    def join(self) -> None:
        """Put it back."""
        _run("ip", "link", "set", self.link, "up", on=self._network)

    def close(self) -> None:
        """Let go of its namespaces."""
        _end(self._hold)


class Network:
    """A bridge in a namespace of its own, and the hosts at it."""

    def __init__(self) -> None:
        self._hold = _held()
        self.holder = self._hold.pid
        number = next(_numbers)
        self._own = f"ck{os.getpid()}.{number}"
        third, self._reserved = _reserve()
        self.prefix = f"10.213.{third}"
        self.address = f"{self.prefix}.1"
        self.hosts: dict[str, Host] = {}
        _run("ip", "link", "add", self._own, "type", "veth", "peer", "name", "up0", "netns", self.holder)
        _run("ip", "link", "add", "br0", "type", "bridge", on=self)
        _run("ip", "link", "set", "up0", "master", "br0", "up", on=self)
        _run("ip", "link", "set", "br0", "up", on=self)
        _run("ip", "addr", "add", f"{self.address}/24", "dev", self._own)
        _run("ip", "link", "set", self._own, "up")

    def host(self, name: str) -> Host:
        """Return a new host."""
        self.hosts[name] = Host(name, len(self.hosts) + 2, self)
        return self.hosts[name]

    def cut(self) -> None:
        """Cut this process off, and what it stands for."""
        _run("ip", "link", "set", "up0", "down", on=self)

    def join(self) -> None:
        """Put all cables back."""
        _run("ip", "link", "set", "up0", "up", on=self)
        for host in self.hosts.values():
            host.join()

    def close(self) -> None:
        """Remove everything."""
        for host in self.hosts.values():
            host.close()
        _end(self._hold)
        eventually(lambda: not Path(f"/sys/class/net/{self._own}").exists(), "the end of the network")
        self._reserved.close()


def _reserve() -> tuple[int, socket.socket]:
    """Return a number that no other test of this machine has until the socket is closed, or this process ends."""
    for number in range(256):
        reserved = socket.socket(socket.AF_UNIX)
        try:
            reserved.bind(f"\0ckptd-tests-network-{number}")
        except OSError:
            reserved.close()
        else:
            return number, reserved
    raise AssertionError("all networks are in use")


def _held() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(_HOLD, stdin=subprocess.DEVNULL)
    ours = os.readlink("/proc/self/ns/uts")

    def has_left() -> bool:
        assert process.poll() is None, "this host makes no namespaces"
        return os.readlink(f"/proc/{process.pid}/ns/uts") != ours

    eventually(has_left, "a namespace")
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _run(*command: object, on: Host | Network | None = None) -> None:
    inside = [] if on is None else ["nsenter", "-t", str(on.holder), *(f"-{kind[0]}" for kind in _KINDS)]
    subprocess.run([*inside, *map(str, command)], check=True, capture_output=True)
