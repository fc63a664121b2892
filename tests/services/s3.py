"""The S3 server that tests talk to: one of our own for the session, or somebody's that the environment names."""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.fakes.waiting import eventually
from tests.services import ceph, seaweed
from tests.services.ceph import Ceph
from tests.services.seaweed import SeaweedFS
from tests.services.server import CannotRunError, Server

ENDPOINT_VARIABLE = "CKPTD_TEST_S3_ENDPOINT"
REGION = "us-east-1"
SERVERS = ("ceph", "seaweedfs")
"""The servers that we can run ourselves. The first is the one that a test gets that does not say otherwise."""

# Sessions of this process parse botocore's descriptions once, also those of s3fs: 150 ms for each store otherwise.
botocore.session.create_loader = cache(botocore.session.create_loader)

# Any thread may use a client, but one at a time make them.
_SESSION = botocore.session.get_session()
_MAKING_CLIENTS = threading.Lock()


@dataclass
class S3Service:
    """A server with one bucket. `server` is None when it is somebody else's, which nobody may kill."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    server: Server | None = None
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables by which every program of that ecosystem finds it, and nothing of the user's own."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, attempts: int = 2) -> Any:
        """Return a client that is not ours: tests look with it at what is really there."""
        with _MAKING_CLIENTS:
            if attempts not in self._clients:
                self._clients[attempts] = _SESSION.create_client(
                    "s3",
                    region_name=REGION,
                    endpoint_url=self.endpoint,
                    aws_access_key_id=self.access_key,
                    aws_secret_access_key=self.secret_key,
                    config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": attempts}),
                )
            return self._clients[attempts]

    def make_bucket(self, timeout_s: float = 60.0) -> None:
        """Make the bucket; a server that has just come up may need a moment."""
        failures: list[Exception] = []

        def is_made() -> bool:
            try:
                self.client().create_bucket(Bucket=self.bucket)
            except ClientError as error:
                failures.append(error)
                return error.response["Error"]["Code"] in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
            except BotoCoreError as error:
                failures.append(error)
                return False
            return True

        eventually(is_made, lambda: failures[-1], within_s=timeout_s)

    def warm_up(self) -> None:
        """Let it do once what takes it long the first time."""
        client, where = self.client(), {"Bucket": self.bucket, "Key": "warm-up"}
        client.abort_multipart_upload(UploadId=client.create_multipart_upload(**where)["UploadId"], **where)

    def unfinished_uploads(self, prefix: str = "") -> list[str]:
        """Return the keys of uploads that are neither completed nor aborted."""
        pages = self.client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Uploads", [])]

    def stop(self) -> None:
        """End it, if it is ours."""
        if self.server is not None:
            self.server.stop()


def start(which: str, data: Path) -> S3Service:
    """Return a server that answers: the one of `SERVERS` with that name, or whichever the environment names.

    Raises:
        CannotRunError: when this host cannot run one and the environment names none.
    """
    theirs = os.environ.get(ENDPOINT_VARIABLE)
    if theirs:
        service = S3Service(
            theirs,
            os.environ.get("AWS_ACCESS_KEY_ID", ""),
            os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            os.environ.get("CKPTD_TEST_S3_BUCKET", "ckptd-tests"),
        )
    else:
        server = _server(which, data, "ckptdtests", secrets.token_hex(16))
        try:
            server.start()
        except CannotRunError:
            server.stop()
            raise
        access, secret = server.keys
        service = S3Service(server.endpoint, access, secret, "ckptd-tests", server)
    service.make_bucket()
    service.warm_up()
    return service


def _server(which: str, data: Path, access_key: str, secret_key: str) -> Server:
    if which == "ceph":
        return Ceph(ceph.install(), data, access_key, secret_key)
    return SeaweedFS(seaweed.program(), data, access_key, secret_key)
