"""Worlds that tests break: started over either kind of store, whole, and ended with all that belongs to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.hosts.network import Network, needs_root
from tests.faults.hosts.stores import Bucket, Directory, Shared
from tests.faults.hosts.world import RUN, World
from tests.services.s3 import S3Service


@contextmanager
def world_over(shared_in: Callable[[Path, Network], Shared], **how: Any) -> Iterator[World]:
    needs_root()
    with tempfile.TemporaryDirectory(prefix="ck-") as base:
        network = Network()
        try:
            shared = shared_in(Path(base), network)
            world = World(Path(base), network, shared, **how)
            try:
                world.go_well()
                yield world
            finally:
                world.close()
                if isinstance(shared, Bucket):
                    shared.close()
        finally:
            network.close()


def over_directory(lease_s: float, **how: Any) -> AbstractContextManager[World]:
    return world_over(lambda base, network: Directory(base, RUN), lease_s=lease_s, **how)


def over_bucket(service: S3Service, lease_s: float, **how: Any) -> AbstractContextManager[World]:
    root = f"s3://{service.bucket}/{os.urandom(8).hex()}"
    return world_over(lambda base, network: Bucket(service, root, RUN, network.address), lease_s=lease_s, **how)
