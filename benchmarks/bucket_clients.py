"""Clients of an S3 server, as programs use them: each uploads whole objects and reads ranges, several at once.

The AWS environment names the server (AWS_ENDPOINT_URL, credentials, region), for all of them alike; or the benchmark
starts the tests' own server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

PART_BYTES = 16 << 20
AT_ONCE = 8  # requests under way in one process


class Range(NamedTuple):
    """Bytes of an object."""

    key: str
    start: int
    size: int


class Client(Protocol):
    """Both methods block until all is done."""

    def upload(self, objects: dict[str, memoryview]) -> None: ...

    def read(self, ranges: Sequence[Range]) -> list[memoryview]: ...


def each(work, items) -> list:
    """Do `work` for all items on several threads; return the results in order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


class Ours:
    """The store of ckptd: a writer for each object, filled from a thread of its own."""

    def __init__(self, bucket: str) -> None:
        from ckptd.storage.locations import open_store

        self.store = open_store(f"s3://{bucket}")

    def upload(self, objects: dict[str, memoryview]) -> None:
        def one(item: tuple[str, memoryview]) -> None:
            key, data = item
            writer = self.store.create(key, len(data))
            for at in range(0, len(data), 1 << 20):  # as they come from workers
                writer.write(at, data[at : at + (1 << 20)])
            writer.finish()

        each(one, objects.items())

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        import numpy as np

        def one(wanted: Range) -> memoryview:
            into = memoryview(np.empty(wanted.size, np.uint8))  # a bytearray would be zeroed first
            self.store.read_into(wanted.key, wanted.start, into)
            return into

        return each(one, ranges)


class OursByS3fs(Ours):
    """The same, its requests made by s3fs."""

    def __init__(self, bucket: str) -> None:
        os.environ["CKPTD_S3_CLIENT"] = "s3fs"
        super().__init__(bucket)


class Obstore:
    """obstore signs the body of every request, which over plain HTTP means hashing it."""

    unsigned = False

    def __init__(self, bucket: str) -> None:
        from obstore.store import S3Store

        endpoint = os.environ["AWS_ENDPOINT_URL"]
        self.store = S3Store(
            bucket,
            endpoint=endpoint,
            unsigned_payload=self.unsigned,
            client_options={"allow_http": endpoint.startswith("http://")},
        )

    def upload(self, objects: dict[str, memoryview]) -> None:
        import obstore

        def one(item: tuple[str, memoryview]) -> None:
            many = max(2, AT_ONCE // len(objects))
            obstore.put(self.store, *item, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=many)

        each(one, objects.items())

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        import obstore

        return each(
            lambda wanted: memoryview(
                obstore.get_range(self.store, wanted.key, start=wanted.start, length=wanted.size)
            ),
            ranges,
        )


class ObstoreUnsigned(Obstore):
    """obstore, told not to hash bodies."""

    unsigned = True


class Boto3:
    """boto3, as its two halves: s3transfer's manager uploads, botocore's plain ranged requests read.

    boto3 itself adds only names to them, and is pinned to one botocore, which is rarely the one that s3fs is pinned to.
    """

    def __init__(self, bucket: str) -> None:
        from botocore.config import Config
        from botocore.session import get_session
        from s3transfer.manager import TransferConfig

        self.bucket = bucket
        self.client = get_session().create_client("s3", config=Config(max_pool_connections=2 * AT_ONCE))
        self.config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_request_concurrency=AT_ONCE
        )

    def upload(self, objects: dict[str, memoryview]) -> None:
        from s3transfer.manager import TransferManager

        with TransferManager(self.client, self.config) as manager:
            futures = [manager.upload(_MemoryFile(data), self.bucket, key) for key, data in objects.items()]
            for future in futures:
                future.result()

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        def one(wanted: Range) -> memoryview:
            asked = f"bytes={wanted.start}-{wanted.start + wanted.size - 1}"
            return memoryview(self.client.get_object(Bucket=self.bucket, Key=wanted.key, Range=asked)["Body"].read())

        return each(one, ranges)


class _MemoryFile:
    """Memory as a file that can be read: `io.BytesIO` would copy all of it first."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.at + size
        piece = bytes(self.data[self.at : end])
        self.at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, len(self.data))[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Keep the memory: it is used again."""


class S3fsPut:
    """s3fs, as it is used most: `put` of files. They lie in memory, and are written in the round that warms up."""

    def __init__(self, bucket: str) -> None:
        import s3fs

        self.bucket = bucket
        self.s3 = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        self.paths: dict[int, str] = {}

    def upload(self, objects: dict[str, memoryview]) -> None:
        for data in objects.values():
            if id(data) not in self.paths:
                fd = os.memfd_create("data")
                self.paths[id(data)] = f"/proc/self/fd/{fd}"
                rest = data
                while len(rest):
                    rest = rest[os.write(fd, rest) :]
        self.s3.put(
            [self.paths[id(data)] for data in objects.values()],
            [f"{self.bucket}/{key}" for key in objects],
            chunksize=PART_BYTES,
        )

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        found = self.s3.cat_ranges(
            [f"{self.bucket}/{wanted.key}" for wanted in ranges],
            [wanted.start for wanted in ranges],
            [wanted.start + wanted.size for wanted in ranges],
            batch_size=AT_ONCE,
            on_error="raise",
        )
        return [memoryview(data) for data in found]


CLIENTS: dict[str, type[Client]] = {
    "ckptd": Ours,
    "ckptd by s3fs": OursByS3fs,
    "obstore unsigned": ObstoreUnsigned,
    "obstore": Obstore,
    "boto3": Boto3,
    "s3fs put": S3fsPut,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bucket", default="ckptd-bench", help="made if missing; what is uploaded is deleted again")
    parser.add_argument(
        "--start-server", action="store_true", help="start the S3 server of the tests, whatever AWS_ENDPOINT_URL says"
    )


@contextlib.contextmanager
def place(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield a bucket and a prefix of our own in it; all that lies below is deleted in the end."""
    with contextlib.ExitStack() as stack:
        bucket = args.bucket
        if args.start_server:
            bucket = stack.enter_context(_server_of_the_tests())
        elif not os.environ.get("AWS_ENDPOINT_URL"):
            raise SystemExit("set AWS_ENDPOINT_URL and credentials, or give --start-server")
        from botocore.session import get_session

        from ckptd.storage.locations import open_store

        client = get_session().create_client("s3")
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=bucket)
        prefix = f"bench-{secrets.token_hex(4)}"
        try:
            yield bucket, prefix
        finally:
            store = open_store(f"s3://{bucket}")
            store.delete([stat.key for stat in store.list(prefix)])


@contextlib.contextmanager
def _server_of_the_tests() -> Iterator[str]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.services import s3

    data = Path(tempfile.mkdtemp(prefix="ckptd-s3-"))
    try:
        service = s3.start("ceph", data)
        try:
            os.environ.update(service.environment())
            yield service.bucket
        finally:
            service.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)
