"""How to reach S3: from fsspec's configuration of ``s3``, and for the rest from what botocore finds.

So one configuration serves us, s3fs, and every other program of that ecosystem: the AWS environment variables,
``AWS_ENDPOINT_URL``, profiles, and fsspec's own ``FSSPEC_S3_…`` variables and files with ``client_kwargs``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fsspec.config import conf

from ckptd.errors import InvalidRequestError
from ckptd.storage.bucket.bucket import Bucket
from ckptd.storage.bucket.s3 import S3Bucket
from ckptd.storage.bucket.s3_requests import Patience, S3Options, S3Requests
from ckptd.storage.metered import OnRepeat, untold

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "", "none")

CLIENT_VARIABLE = "CKPTD_S3_CLIENT"
"""Names the client that makes the requests: "ckptd", our own, or "s3fs"."""


def open_s3(name: str, patience_s: float | None = None, on_repeat: OnRepeat = untold) -> Bucket:
    """Return the bucket of that name; nothing is sent yet. See `ckptd.storage.locations.open_store`.

    `on_repeat` is told of each request that is made again.

    Raises:
        InvalidRequestError: when the configuration is invalid.
    """
    client = os.environ.get(CLIENT_VARIABLE, "ckptd")
    if client == "s3fs":
        from ckptd.storage.bucket.s3fs_bucket import S3fsBucket

        return S3fsBucket(name, anon=is_anonymous(conf.get("s3", {})), on_repeat=on_repeat)
    if client != "ckptd":
        raise InvalidRequestError(f"{CLIENT_VARIABLE} is ckptd or s3fs", actual=client)
    patience = Patience()
    if patience_s is not None:
        patience = Patience(min(patience.connect_s, patience_s), min(patience.progress_s, patience_s), patience_s)
    options = options_of(conf.get("s3", {}))
    return S3Bucket(name, S3Requests(name, options, patience=patience, on_repeat=on_repeat))


def options_of(configured: Mapping[str, Any]) -> S3Options:
    """Read the arguments that s3fs would get. Those that we don't use are left out.

    Raises:
        InvalidRequestError: for a value that is no text.
    """
    client = configured.get("client_kwargs") or {}
    if not isinstance(client, Mapping):
        raise InvalidRequestError(
            "client_kwargs of fsspec's configuration for s3 is not a mapping", actual=repr(client)
        )
    found = {
        "endpoint_url": configured.get("endpoint_url") or client.get("endpoint_url"),
        "region": client.get("region_name"),
        "profile": configured.get("profile"),
        "key": configured.get("key") or client.get("aws_access_key_id"),
        "secret": configured.get("secret") or client.get("aws_secret_access_key"),
        "token": configured.get("token") or client.get("aws_session_token"),
    }
    for what, value in found.items():
        if value is not None and not isinstance(value, str):
            raise InvalidRequestError(
                f"{what} of fsspec's configuration for s3 is not a string", actual=type(value).__name__
            )
    if (found["key"] is None) != (found["secret"] is None):
        raise InvalidRequestError("fsspec's configuration for s3 has one of key and secret, and not the other")
    return S3Options(**found, anon=is_anonymous(configured))


def is_anonymous(configured: Mapping[str, Any]) -> bool:
    """Say whether a public bucket is to be read without credentials: `anon`, as s3fs names it.

    Raises:
        InvalidRequestError: for a value that is neither true nor false.
    """
    value = configured.get("anon", False)
    told = str(value).strip().lower()  # from the environment it comes as text
    if told not in _TRUE + _FALSE:
        raise InvalidRequestError("anon of fsspec's configuration for s3 is neither true nor false", actual=repr(value))
    return told in _TRUE
