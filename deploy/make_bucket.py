"""Make the bucket of an s3:// URL if it is not there: what `docker compose up` runs once before the daemon.

    python3 deploy/make_bucket.py s3://checkpoints/runs

Credentials, region and endpoint come from the usual places (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a profile …). A
server that is still starting is waited for, at most --timeout-s; a refusal ends it at once, as waiting will not change
it. Needs nothing that ckptd does not bring: any S3 will do, and no vendor's own tool.
"""

from __future__ import annotations

import argparse
import sys
import time
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

TRY_EVERY_S = 0.5
STARTING = (429, 500, 502, 503, 504)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the bucket of an s3:// URL if it is not there.")
    parser.add_argument("url", help="s3://BUCKET/PATH; what comes after the bucket does not matter")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="how long to wait for the server (60)")
    args = parser.parse_args()
    url = urlsplit(args.url)
    if url.scheme != "s3" or not url.netloc:
        print(f"{args.url} is in no bucket: nothing to make")
        return 0
    deadline = time.monotonic() + args.timeout_s
    while True:
        try:
            print(f"bucket {url.netloc}: {make(url.netloc)}")
            return 0
        except (HTTPClientError, ClientError) as e:
            if isinstance(e, ClientError) and e.response["ResponseMetadata"]["HTTPStatusCode"] not in STARTING:
                return _failed(url.netloc, e)
            if time.monotonic() > deadline:
                return _failed(url.netloc, e)
            time.sleep(TRY_EVERY_S)
        except NoCredentialsError:
            return _failed(url.netloc, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        except BotoCoreError as e:
            return _failed(url.netloc, e)


def make(bucket: str) -> str:
    """Look, and create what is missing; return what was found. It may have been made meanwhile."""
    once = Config(
        retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15, s3={"addressing_style": "path"}
    )
    session = botocore.session.get_session()
    client = session.create_client("s3", region_name=session.get_config_variable("region") or "us-east-1", config=once)
    try:
        client.head_bucket(Bucket=bucket)
        return "there already"
    except ClientError as e:
        if e.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
    where = client.meta.region_name
    # Amazon's first region is the one that must not be named.
    place = {} if where == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": where}}
    try:
        client.create_bucket(Bucket=bucket, **place)
    except ClientError as e:
        if e.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise
    return "made"


def _failed(bucket: str, why: object) -> int:
    print(f"bucket {bucket} cannot be made: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
