"""Names of runs and checkpoints with spaces, colons and brackets, in a bucket of a real S3 server."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from tests.e2e.test_buckets import as_json, save, says, tensors

pytestmark = pytest.mark.every_server


def test_spaces_colons_and_brackets_in_names_are_no_patterns_in_a_bucket(
    s3_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = "my run/12:30 [a-z]+1", "ck pt[0]: (1)"
    save(s3_root, 1, 2, 3, run="my run/12:30 b+1", name=name)  # whose name the other's would match as a pattern
    save(s3_root, 1, 2, 3, run=run, name=name, max_to_keep=2)
    where = f"{s3_root}/{run}"
    assert [each["prefix"] for each in as_json(capsys, "ls", where)["checkpoints"]] == [
        f"{where}/{name}-{step}" for step in (2, 3)
    ]
    assert ckptd.latest_checkpoint(where) == f"{where}/{name}-3"
    with ckptd.Checkpointer(s3_root, run=run, name=name) as checkpointer:
        np.testing.assert_array_equal(checkpointer.restore()["w"], tensors(3)["w"])
        checkpointer.delete(2, for_good=True)
    assert ckptd.verify(where).ok
    says(capsys, "rm", f"{where}/{name}-3", "--even-latest")
    assert ckptd.latest_checkpoint(where) is None
    assert as_json(capsys, "latest", f"{s3_root}/my run/12:30 b+1")["prefix"].endswith(f"b+1/{name}-3")
