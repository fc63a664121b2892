"""What the daemon's key can do that the daemon has no need of. Runs in the daemon's container; JSON of refusals."""

import json
import sys
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

bucket = urlsplit(sys.argv[1]).netloc
once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
store = botocore.session.get_session().create_client("s3", config=once)
everyone = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"},
    ],
}
told = {}
for call, given in {
    "create_bucket": {"Bucket": f"{bucket}-another"},
    "delete_bucket": {"Bucket": bucket},
    "put_bucket_policy": {"Bucket": bucket, "Policy": json.dumps(everyone)},
    "put_bucket_versioning": {"Bucket": bucket, "VersioningConfiguration": {"Status": "Suspended"}},
    "put_bucket_lifecycle_configuration": {
        "Bucket": bucket,
        "LifecycleConfiguration": {
            "Rules": [{"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
        },
    },
    "put_bucket_acl": {"Bucket": bucket, "ACL": "public-read-write"},
}.items():
    try:
        getattr(store, call)(**given)
        told[call] = "done"
    except ClientError as e:
        told[call] = e.response["Error"]["Code"]
print(json.dumps(told))
