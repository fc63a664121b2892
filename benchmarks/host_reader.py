"""One host that reads its share of what lies in a bucket, when told to on stdin: what the store itself gives.

python benchmarks/host_reader.py BUCKET PREFIX NUMBER OF
"""

from __future__ import annotations

import sys
import time

from bucket_clients import CLIENTS, Range

from ckptd.storage.locations import open_store

BLOCK_BYTES = 8 << 20  # as agents read


def main(bucket: str, prefix: str, number: int, of: int) -> None:
    client = CLIENTS["boto3"](bucket)
    stored = sorted((each.key, each.size_bytes) for each in open_store(f"s3://{bucket}").list(prefix))
    blocks = [
        Range(key, at, min(BLOCK_BYTES, size - at))
        for key, size in stored
        if ".data-" in key
        for at in range(0, size, BLOCK_BYTES)
    ]
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.monotonic()
        read = sum(len(each) for each in client.read(blocks[number::of]))
        print(began, time.monotonic(), read, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
