"""Hosts, a coordinator and a store on one machine, each in a network namespace of its own, with links of given rates.

Two networks, as many clusters have them: one to the coordinator and one to the store. Both ends of a link are limited
(tbf). Programs listen on their own loopback address, and a relay joins the ends of a link to those: that stands for the
TLS that connections between hosts need, whose cost is not what is measured.

    python benchmarks/host_network.py LISTEN TARGET      # be a relay
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptd.demo.processes import child_environment

_PIPE_BYTES = 1 << 20
_NEEDED = ("ip", "tc")


class Network:
    """See the module. It has to be closed."""

    def __init__(self, num_hosts: int, to_coordinator: str, to_store: str) -> None:
        """Make it; rates are as tc knows them, such as 1gbit."""
        self._named(f"ckb{os.getpid()}", num_hosts)
        self._rates = {"c": to_coordinator, "s": to_store}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    @classmethod
    def known(cls, name: str, num_hosts: int) -> Network:
        """Return one that another process has made, and will remove."""
        known = cls.__new__(cls)
        known._named(name, num_hosts)
        return known

    def _named(self, name: str, num_hosts: int) -> None:
        self.name = name
        self.hosts = [f"{name}-h{number}" for number in range(num_hosts)]
        self.coordinator, self.store, self._hub = (f"{name}-{place}" for place in ("c", "s", "hub"))
        self._spaces: list[str] = []

    def _make(self) -> None:
        for space in (self._hub, self.coordinator, self.store, *self.hosts):
            _run("ip", "netns", "add", space)
            self._spaces.append(space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
        for network in self._rates:
            _run("ip", "-n", self._hub, "link", "add", f"br-{network}", "type", "bridge")
            _run("ip", "-n", self._hub, "link", "set", f"br-{network}", "up")
        for number, host in enumerate(self.hosts):
            self._join("c", host, number + 1, limited=True)
            self._join("s", host, number + 1, limited=True)
        self._join("c", self.coordinator, 250, limited=False)
        self._join("s", self.coordinator, 250, limited=True)
        self._join("s", self.store, 251, limited=False)

    def _join(self, network: str, space: str, number: int, *, limited: bool) -> None:
        near, far = f"{network}{number}", f"to-{network}"
        _run(
            *("ip", "-n", self._hub, "link", "add", near, "type", "veth"),
            *("peer", "name", far, "netns", space),
        )
        _run("ip", "-n", self._hub, "link", "set", near, "master", f"br-{network}", "up")
        _run("ip", "-n", space, "addr", "add", f"{self._address(network, number)}/24", "dev", far)
        _run("ip", "-n", space, "link", "set", far, "up")
        if limited:
            limits = ("root", "tbf", "rate", self._rates[network], "burst", "256kb", "latency", "50ms")
            _run("tc", "-n", space, "qdisc", "add", "dev", far, *limits)
            _run("tc", "-n", self._hub, "qdisc", "add", "dev", near, *limits)

    @staticmethod
    def _address(network: str, number: int) -> str:
        return f"10.{231 if network == 'c' else 232}.0.{number}"

    @property
    def coordinator_address(self) -> str:
        """Where hosts reach the coordinator."""
        return self._address("c", 250)

    @property
    def store_address(self) -> str:
        """Where hosts, and the coordinator, reach the store."""
        return self._address("s", 251)

    def close(self) -> None:
        """Remove it; what still runs in it loses its links."""
        for space in reversed(self._spaces):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", space)


def why_not() -> str:
    """Return why no network can be made here; "" if it can."""
    if os.geteuid() != 0:
        return "network namespaces with limited links need root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"there is no {missing[0]} here: install iproute2"
    probe = f"ckb{os.getpid()}-try"
    try:
        _run("ip", "netns", "add", probe)
    except subprocess.CalledProcessError as error:
        return f"this kernel or container gives no network namespaces: {error.stderr.strip()}"
    try:
        _run(
            "tc",
            "-n",
            probe,
            "qdisc",
            "add",
            "dev",
            "lo",
            "root",
            "tbf",
            "rate",
            "1gbit",
            "burst",
            "9kb",
            "latency",
            "1s",
        )
    except subprocess.CalledProcessError as error:
        return f"this kernel has no tbf: {error.stderr.strip()}"
    finally:
        _run("ip", "netns", "del", probe)
    return ""


def inside(space: str, *command: str) -> list[str]:
    """Return the command line that runs a program in a namespace; "" is the one that we are in."""
    return ["ip", "netns", "exec", space, *command] if space else list(command)


def counted(space: str, interface: str) -> tuple[int, int]:
    """Return the bytes that an interface has received and sent, headers and all."""
    told = _run("ip", "-n", space, "-s", "-o", "link", "show", interface)
    received, sent = (text.split("\\")[1].split()[0] for text in told.replace("TX:", "RX:").split("RX:")[1:])
    return int(received), int(sent)


@contextlib.contextmanager
def relay(space: str, listen: str, target: str) -> Iterator[None]:
    """Let connections to `listen` in a namespace go on to `target` there."""
    command = inside(space, sys.executable, str(Path(__file__).resolve()), listen, target)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment())
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"the relay at {listen} did not start")
        yield
    finally:
        process.kill()
        process.wait(60)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes in the kernel until the source ends."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):
        while moved := os.splice(source.fileno(), writing, _PIPE_BYTES):
            while moved:
                moved -= os.splice(reading, sink.fileno(), moved)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
    os.close(reading)
    os.close(writing)


def _serve(listen: str, target: str) -> None:
    host, _, port = listen.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=128)
    print("ready", flush=True)
    while True:
        near, _ = listener.accept()
        host, _, port = target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            near.close()
            continue
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_both, args=(near, far), daemon=True).start()


def _both(near: socket.socket, far: socket.socket) -> None:
    there = threading.Thread(target=_pump, args=(near, far), daemon=True)
    there.start()
    _pump(far, near)
    there.join()
    near.close()
    far.close()


def main(arguments: Sequence[str]) -> None:
    _serve(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
