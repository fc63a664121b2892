from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ckptd.wire import addresses
from ckptd.wire.channels import open_channel
from tests.fakes.waiting import eventually
from tests.starts import prepared

START_S = 120
IDENTITIES = frozenset({"--token-file", "--tokens", "--client-ca"})
"""Flags of a daemon that asks its callers for an identity; one without them is open to this host."""


class Process:
    """A real `ckptd serve`."""

    def __init__(self, tmp_path, *flags, root="root", name="d", env=(), popen=prepared.Popen):
        self.root = tmp_path / root
        self.ready_file = tmp_path / f"{name}.ready"
        self.log = tmp_path / f"{name}.log"
        self._channels = []
        with self.log.open("wb") as out:
            self.process = popen(
                [sys.executable, "-m", "ckptd", "serve", "--root", str(self.root), "--ready-file", str(self.ready_file)]
                + (["--listen", "127.0.0.1:0"] if "--listen" not in flags else [])
                + (["--insecure-loopback"] if IDENTITIES.isdisjoint(flag.partition("=")[0] for flag in flags) else [])
                + list(flags),
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict(env)},
            )

    def ready(self):
        eventually(lambda: self.ready_file.exists() or self.process.poll() is not None, self.log.read_text)
        assert self.ready_file.exists(), self.log.read_text()
        self.listening = json.loads(self.ready_file.read_text())["listening"]
        return self

    def channel(self, which=0, **credentials):
        channel = open_channel(addresses.parse(self.listening[which]), **credentials)
        self._channels.append(channel)
        return channel

    def wait(self):
        return self.process.wait(START_S)

    def wait_for_log(self, text):
        eventually(lambda: text in self.log.read_text(), self.log.read_text)

    def end(self):
        for channel in self._channels:
            channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(START_S)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(*flags, **more):
        started.append(Process(tmp_path, *flags, **more))
        return started[-1]

    yield start
    for process in started:
        process.end()
