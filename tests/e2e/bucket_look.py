"""What lies below a run in a bucket, seen without any of ckptd's storage: by a client that is not ours.

Only the formats are ckptd's, from bytes to values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from botocore.exceptions import ClientError

from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.format.index import Index
from ckptd.format.state_file import CheckpointState
from tests.services.s3 import S3Service


@dataclass(frozen=True)
class LeftUpload:
    """An upload that is neither completed nor aborted."""

    name: str
    upload_id: str
    age_s: float
    num_parts: int


class BucketLook:
    """Looks at one run, whose objects' keys begin with `prefix` and a slash."""

    def __init__(self, service: S3Service, prefix: str) -> None:
        self._client: Any = service.client(attempts=10)
        self._bucket = service.bucket
        self.prefix = prefix + "/"

    def get(self, name: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._bucket, Key=self.prefix + name)["Body"].read()
        return body

    def found(self) -> list[str]:
        """Return the names of all objects, notes and records included."""
        return list(self.stamps())

    def stamps(self) -> dict[str, tuple[str, object]]:
        """Return the names of all objects, each with its ETag and the time when it was written."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self.prefix)
        found = (each for page in pages for each in page.get("Contents", []))
        return {each["Key"].removeprefix(self.prefix): (each["ETag"], each["LastModified"]) for each in found}

    def listed(self) -> list[str]:
        """Return the prefixes that the state file lists, the latest last."""
        state = CheckpointState.decode(self.get(names.STATE_KEY))
        assert state.all_model_checkpoint_paths[-1] == state.model_checkpoint_path
        return list(state.all_model_checkpoint_paths)

    def index(self, prefix: str) -> Index:
        return Index.decode(self.get(names.index_key(prefix)), prefix)

    def tensors(self, prefix: str) -> Mapping[str, np.ndarray]:
        """Return a checkpoint's tensors, flat and their pieces in order, every byte checked against its checksum."""
        index = self.index(prefix)
        shards = [self.get(names.shard_key(prefix, each, index.num_shards)) for each in range(index.num_shards)]
        found = {}
        for name in index.names():
            tensor = index.tensor(name)
            parts = []
            for piece in sorted(tensor.pieces, key=lambda piece: piece.box.start):
                data = memoryview(shards[piece.shard_id])[piece.offset : piece.offset + piece.size]
                assert crc32c(data) == piece.crc32c, f"{prefix}: {name} has other bytes than its checksum"
                parts.append(np.frombuffer(data, tensor.dtype.array))
            found[name] = np.concatenate(parts)
        return found

    def uploads(self) -> list[LeftUpload]:
        """Return the unfinished uploads, with the number of parts that the server has of each."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self.prefix)
        left = []
        for each in (each for page in pages for each in page.get("Uploads", [])):
            where = {"Bucket": self._bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
            try:
                parts = self._client.list_parts(**where).get("Parts", [])
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchUpload", "NoSuchKey"):  # Ceph may say either
                    raise
                continue  # gone since
            age_s = (datetime.now(timezone.utc) - each["Initiated"]).total_seconds()
            left.append(LeftUpload(each["Key"].removeprefix(self.prefix), each["UploadId"], age_s, len(parts)))
        return left
