"""The two kinds of store that hosts share, as a test sees what is in them: a directory, and a bucket behind a relay."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ckptd.format import names
from ckptd.format.index import Index
from ckptd.format.state_file import CheckpointState
from tests.e2e.bucket_look import BucketLook
from tests.services.s3 import S3Service
from tests.services.seaweed import SeaweedFS


class Shared(Protocol):
    """One run in a store."""

    url: str
    """As the hosts know the root."""

    environment: Mapping[str, str]
    """By which their processes find it."""

    def get(self, name: str) -> bytes | None:
        """Return an object below the run, None if there is none."""

    def found(self) -> dict[str, object]:
        """Return the names of all objects below the run, each with something that is another when it is rewritten."""

    def uploads(self) -> list[str]:
        """Return what was begun and not ended, unless it has no part yet."""

    def fetch(self, prefix: str, where: Path) -> str:
        """Return the path of a checkpoint's copy for TensorFlow."""


def listed(shared: Shared) -> list[str]:
    """Return the prefixes that the state file lists, the latest last."""
    data = shared.get(names.STATE_KEY)
    return [] if data is None else list(CheckpointState.decode(data).all_model_checkpoint_paths)


def files_of(shared: Shared, prefix: str) -> list[str]:
    """Return the names of a checkpoint's files."""
    data = shared.get(names.index_key(prefix))
    assert data is not None, f"{prefix} has no index"
    count = Index.decode(data, prefix).num_shards
    return [names.index_key(prefix), *(names.shard_key(prefix, each, count) for each in range(count))]


class Directory:
    """A directory that each host sees at the same path, bind-mounted; `path` is where it really is."""

    def __init__(self, base: Path, run: str) -> None:
        self.path, mounted = base / "shared", base / "root"
        self.path.mkdir()
        mounted.mkdir()
        self.mounts = (self.path, mounted)
        self.url, self._run = str(mounted), self.path / run
        self.environment: dict[str, str] = {}

    def get(self, name: str) -> bytes | None:
        try:
            return (self._run / name).read_bytes()
        except FileNotFoundError:
            return None

    def found(self) -> dict[str, object]:
        result: dict[str, object] = {}
        for path in self._run.rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    result[path.relative_to(self._run).as_posix()] = path.stat().st_ino
        return result

    def uploads(self) -> list[str]:
        return []  # an unfinished file has a name, and is found

    def fetch(self, prefix: str, where: Path) -> str:
        return str(self._run / prefix)


class Bucket:
    """A bucket of a real server, which the hosts reach by a relay at this process's address in their network."""

    def __init__(self, service: S3Service, root: str, run: str, address: str) -> None:
        self.service, self.url = service, root
        self._relay = Relay(address, service.endpoint)
        self.environment = service.environment(self._relay.endpoint)
        self.look = BucketLook(service, f"{root.removeprefix(f's3://{service.bucket}/')}/{run}")

    def get(self, name: str) -> bytes | None:
        client: Any = self.service.client(attempts=10)
        try:
            return self.look.get(name)
        except client.exceptions.NoSuchKey:
            return None

    def found(self) -> dict[str, object]:
        return dict(self.look.stamps())

    def uploads(self) -> list[str]:
        return [each.name for each in self.look.uploads() if each.num_parts]

    def fetch(self, prefix: str, where: Path) -> str:
        for name in files_of(self, prefix):
            (where / name).write_bytes(self.look.get(name))
        return str(where / prefix)

    # Faults

    def kill(self) -> None:
        assert self.service.server is not None
        self.service.server.kill9()

    def start(self) -> None:
        assert self.service.server is not None
        self.service.server.start()

    def stop(self) -> None:
        """Let it hang."""
        assert isinstance(self.service.server, SeaweedFS)
        self.service.server.stand_still()

    def go_on(self) -> None:
        """Let it go on."""
        assert isinstance(self.service.server, SeaweedFS)
        self.service.server.go_on()

    def close(self) -> None:
        self._relay.close()


class Relay:
    """Passes bytes on from an address of one network to a server that listens in another."""

    def __init__(self, address: str, upstream: str) -> None:
        where = urlsplit(upstream)
        self._upstream = (where.hostname or "", where.port or 80)
        self._listener = socket.create_server((address, 0), backlog=128)
        self.endpoint = f"http://{address}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._upstream, 10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
        self._pass(client, server)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
