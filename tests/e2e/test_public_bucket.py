"""A bucket that everybody may read: without credentials, by programs that are told so in s3fs' words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptd
from tests.services.s3 import S3Service
from tests.starts import prepared

pytestmark = pytest.mark.every_server

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
PUBLIC = "public"
RESTORE = """
import sys, ckptd
with ckptd.Checkpointer(sys.argv[1], run="runs/a") as reader:
    print(reader.restore()["w"].sum())
"""


@pytest.fixture
def public_root(s3_service: S3Service, s3_root: str) -> Iterator[str]:
    """The URL of a place that its owner has filled, and that a policy lets everybody read."""
    client, bucket, root = s3_service.client(), s3_service.bucket, s3_root.rpartition("/")[2]
    with ckptd.Checkpointer(s3_root, run="runs/a") as trainer:
        trainer.save(1, {"w": np.ones(10, np.float32)}).result(timeout=120)
    arn = f"arn:aws:s3:::{bucket}"
    allowed = {"Effect": "Allow", "Principal": "*"}
    statements = [
        {**allowed, "Action": ["s3:GetObject"], "Resource": [f"{arn}/{root}/*"]},
        {**allowed, "Action": ["s3:ListBucket"], "Resource": [arn]},
    ]
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    try:
        yield s3_root
    finally:
        client.delete_bucket_policy(Bucket=bucket)


def run_without_credentials(s3_service: S3Service, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**s3_service.environment(), **more, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    for name in CREDENTIALS:
        environment.pop(name, None)
    return prepared.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("client", ["ckptd", "s3fs"])
def test_it_is_read_without_credentials_and_not_written(
    s3_service: S3Service, public_root: str, tmp_path: Path, client: str
) -> None:
    as_nobody = {"FSSPEC_S3_ANON": "true", "CKPTD_S3_CLIENT": client}
    restored = run_without_credentials(s3_service, "-c", RESTORE, public_root, **as_nobody)
    assert (restored.returncode, restored.stdout.split()) == (0, ["10.0"]), restored.stderr
    copied = run_without_credentials(
        s3_service, "-m", "ckptd", "cp", f"{public_root}/runs/a/model.ckpt-1", f"{tmp_path}/", **as_nobody
    )
    assert copied.returncode == 0, copied.stderr
    assert ckptd.verify(str(tmp_path / "model.ckpt-1")).ok
    denied = run_without_credentials(
        s3_service, "-m", "ckptd", "pin", f"{public_root}/runs/a/model.ckpt-1", **as_nobody
    )
    assert denied.returncode == 9, denied.stderr


def test_without_being_told_so_the_error_says_how(s3_service: S3Service, public_root: str) -> None:
    refused = run_without_credentials(s3_service, "-m", "ckptd", "ls", f"{public_root}/runs/a")
    assert refused.returncode == 9
    assert "FSSPEC_S3_ANON" in refused.stderr


def test_a_word_that_means_neither_is_refused(s3_service: S3Service, public_root: str) -> None:
    refused = run_without_credentials(s3_service, "-m", "ckptd", "ls", f"{public_root}/runs/a", FSSPEC_S3_ANON="maybe")
    assert refused.returncode == 2, refused.stderr
    assert "neither true nor false" in refused.stderr
