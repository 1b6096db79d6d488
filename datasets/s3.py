"""How raygen speaks to S3: time-outs, what is worth another attempt, and what its answers mean."""

from typing import Any

import fsspec

CONFIG = {"connect_timeout": 3, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
"""Of botocore: a server may take 60 s to answer. It is s3fs that repeats requests; both would multiply."""
BUSY = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "IncompleteBody"}
"""Errors of S3 below 500 that mean: the same again, please."""


def options(uri: str) -> dict[str, Any]:
    """How to open a file system: on S3 with bounded time-outs, and without a cache that would show what was there before."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    import s3fs.core

    s3fs.core.set_custom_error_handler(worth_repeating)
    given = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get("s3a", {})}
    return {"use_listings_cache": False, "config_kwargs": {**CONFIG, **given.get("config_kwargs", {})}}


def worth_repeating(error: Exception) -> bool:
    """What s3fs should try again beside what it does by itself: a server that is away or fails, a connection that breaks."""
    import aiohttp
    import botocore.exceptions

    known = error if error.__cause__ is None else error.__cause__
    if getattr(known, "raygen_seen", False):  # s3fs asks again about the last one, around the repeats that have just failed
        return False
    known.raygen_seen = True  # type: ignore[attr-defined]
    if isinstance(error, (botocore.exceptions.ConnectionError, aiohttp.ClientError, ConnectionError)):
        return True
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status == 429 or error_code(error) in BUSY


def error_code(error: BaseException) -> str:
    """What S3 calls an error, where it is one of S3's; s3fs keeps its answer as the cause."""
    for found in (error, error.__cause__):
        if response := getattr(found, "response", None):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def no_bucket(error: BaseException) -> bool:
    return error_code(error) == "NoSuchBucket" or getattr(error.__cause__, "operation_name", "") == "HeadBucket"
