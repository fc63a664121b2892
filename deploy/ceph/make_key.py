"""Give the daemon's user at a Ceph gateway what it needs of its bucket, and nothing else; may be repeated.

    python3 make_key.py s3://BUCKET/PATH

The bucket belongs to the store's administrator; the daemon's user, which can make no bucket, is named by a policy of
the bucket. From the environment: S3_ENDPOINT_URL; S3_ROOT_USER and S3_ROOT_PASSWORD, the administrator.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

USER = "ckptd"  # deploy/ceph/serve makes it
OF_THE_BUCKET = ("ListBucket", "ListBucketMultipartUploads", "GetBucketLocation")
OF_THE_BUCKET += ("GetBucketVersioning", "GetLifecycleConfiguration")
OF_OBJECTS = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts")


def main() -> int:
    url = urlsplit(sys.argv[1])
    if url.scheme != "s3" or not url.netloc:
        print(f"{sys.argv[1]} is in no bucket: no key to make")
        return 0
    try:
        print(f"user {USER}: {give(url.netloc)}")
    except (BotoCoreError, ClientError) as e:
        print(f"user {USER} cannot be given bucket {url.netloc}: {e}", file=sys.stderr)
        return 1
    return 0


def give(bucket: str) -> str:
    store = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=os.environ["S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=os.environ["S3_ROOT_USER"],
        aws_secret_access_key=os.environ["S3_ROOT_PASSWORD"],
        config=Config(s3={"addressing_style": "path"}),
    )
    if bucket not in [found["Name"] for found in store.list_buckets()["Buckets"]]:
        try:
            store.create_bucket(Bucket=bucket)
        except ClientError as e:
            if e.response["Error"]["Code"] != "BucketAlreadyExists":
                raise
            return f"bucket {bucket} is its own, of an earlier version of this file; only a new volume changes that"
    store.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy(bucket)))
    return f"opens bucket {bucket}"


def policy(bucket: str) -> dict[str, object]:
    rows = ((OF_THE_BUCKET, bucket), (OF_OBJECTS, f"{bucket}/*"))
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{USER}"]},
            "Action": [f"s3:{action}" for action in actions],
            "Resource": f"arn:aws:s3:::{resource}",
        }
        for actions, resource in rows
    ]
    return {"Version": "2012-10-17", "Statement": statements}


if __name__ == "__main__":
    sys.exit(main())
