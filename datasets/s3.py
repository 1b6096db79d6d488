"""How raygen speaks to S3: time-outs, what is worth another attempt, and what its answers mean."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from xml.etree import ElementTree

import fsspec

CONFIG = {"connect_timeout": 3, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
"""Of botocore: a server may take 60 s to answer. It is s3fs that repeats requests; both would multiply."""
BUSY = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "IncompleteBody"}
"""Errors of S3 below 500 that mean: the same again, please."""
MANY, AT_ONCE = 4000, 10
"""Names of a listing are asked for one page after the other up to so many; from there on, so many pages at a time."""
DIGITS = "0123456789"
T = TypeVar("T")


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


def listed(fs: Any, path: str, told: Callable[[Mapping[str, Any]], T], delimiter: str = "") -> Iterator[tuple[str, T]]:
    """The names below a path, in no order, with what is told of the ``size`` and the ``ETag`` of each.

    S3 gives a thousand names and a mark to go on from, so a million names are a thousand answers, each of which has to be
    waited for before the next can be asked for; unless it is known beforehand where some of them begin, as by :func:`cuts`.

    Args:
        fs: an ``s3fs.S3FileSystem``.
        delimiter: a slash for what lies directly there: names that have one are told up to it, and once.
    """
    bucket, key, _ = fs.split_path(path)
    start = f"{key.rstrip('/')}/" if key else ""
    asked = {"Bucket": bucket, "Prefix": start, **({"Delimiter": delimiter} if delimiter else {})}

    def page(fs: Any, where: Mapping[str, str]) -> tuple[list[tuple[str, T]], dict[str, str] | None]:
        """A page, and where the next one begins."""
        answer = fs.call_s3("list_objects_v2", **asked, **where)
        found = [(item["Prefix"], told({"size": 0})) for item in answer.get("CommonPrefixes", ())]
        found += [
            (item["Key"], told({"size": item["Size"], "ETag": item.get("ETag")})) for item in answer.get("Contents", ())
        ]
        return found, {"ContinuationToken": answer["NextContinuationToken"]} if answer["IsTruncated"] else None

    def between(after: str, until: str | None) -> list[tuple[str, T]]:
        """What comes after a name, up to another, and that one too."""
        names: list[tuple[str, T]] = []
        where: dict[str, str] | None = {"StartAfter": after}
        while where is not None and (until is None or not names or names[-1][0] <= until):
            found, where = page(quick, where)
            names += found
        return [item for item in names if after < item[0] and (until is None or item[0] <= until)]

    def short(found: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        return ((name.removeprefix(start), what) for name, what in found if name != start)

    names: list[str] = []
    where: dict[str, str] | None = {}
    sorted_ = True
    while where is not None and not (sorted_ and len(names) >= MANY):
        found, where = page(fs, where)
        yield from short(found)
        if sorted_:
            names += [name for name, _ in found]
            sorted_ = names == sorted(names)  # a directory bucket does not sort them
    if where is not None:
        quick = _quick(fs)
        edges = [names[-1], *cuts(names[-1000:][0], names[-1], len(start))]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for found in threads.map(between, edges, [*edges[1:], None]):
                yield from short(found)


def cuts(first: str, last: str, at: int = 0) -> list[str]:
    """Where to cut the names that come after a last one into parts that are about even, if numbers tell them apart: at those
    that begin as the last one does, with one of its digits larger, up to the first digit in which it and a first one differ.

    Args:
        at: where in the names to begin.
    """
    found = []
    for index, (one, other) in enumerate(zip(first, last, strict=False)):
        if index >= at and other in DIGITS:
            found += [f"{last[:index]}{digit}" for digit in DIGITS if digit > other]
        if one != other:
            break
    return sorted(found)


def _quick(fs: Any) -> Any:
    """A client like this one, but for listing alone: botocore takes most of the time of a listing to read it, dates above
    all, so names, sizes and ETags are read here. A botocore that does not ask for that reads them itself."""
    quick = type(fs)(**fs.storage_options, skip_instance_cache=True)
    quick.retries = fs.retries
    quick.connect()
    quick.s3.meta.events.register("before-parse.s3.ListObjectsV2", _read_names)
    return quick


def _read_names(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take the names out of what S3 answered, so that little is left to read for botocore."""
    if response_dict["status_code"] != 200:
        return
    answer = ElementTree.fromstring(response_dict["body"])  # noqa: S314  # as botocore does
    space = answer.tag.removesuffix("ListBucketResult")
    names = answer.findall(f"{space}Contents")
    customized_response_dict["Contents"] = [
        {
            "Key": name.findtext(f"{space}Key"),
            "Size": int(name.findtext(f"{space}Size", "0")),
            "ETag": name.findtext(f"{space}ETag"),
        }
        for name in names
    ]
    answer[:] = [part for part in answer if part.tag != f"{space}Contents"]
    response_dict["body"] = ElementTree.tostring(answer)
