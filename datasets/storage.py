"""Folders on any file system that fsspec knows: a local path or an ``s3://`` prefix, with writes that are all or nothing.

S3 finds its endpoint and credentials as every client of botocore does (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, …); fsspec's
own configuration (``FSSPEC_S3_…``) goes before what is set here. A request that meets a server that is away, cut off or busy
is repeated for some ten seconds, then it is an error. One that takes the connection and never answers is waited for, 8 times
60 s; so a job asks first, by :meth:`Folder.check_answers`, whether there is any answer within 10 s, or then within 10 more.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import fsspec
from fsspec.utils import glob_translate

from raygen.datasets import s3
from raygen.errors import OutputError

S3_ATTEMPTS = 8
"""At growing intervals, 10 s in all: with connections that time out, 34 s."""
S3_FIRST_ANSWER, S3_FIRST_ATTEMPTS = 10, 2
"""Seconds that the first answer of a job may take, and how often it is asked for."""
_FILE = "file://"
CLEARS, BETWEEN_CLEARS = 100, 0.02
"""Attempts to remove a folder in which others are busy, and seconds between them."""
LEFT_BEHIND = 3600.0
"""Seconds after its last change in which nobody can be writing to a temporary file any more."""
T = TypeVar("T")
_WILD = re.compile(r"[*?[]")


class File(NamedTuple):
    """What a listing says of a file. ``version`` is its ETag or modification time: another one, another content."""

    bytes: int
    version: str


class Folder:
    """A folder at a URI. Creating the object touches nothing; writing creates what is needed.

    Args:
        uri: a local path (made absolute: Ray workers run elsewhere), ``s3://bucket/prefix``, or ``file:///mnt/folder``, by
            which somebody says that all machines have the same folder there.

    Raises:
        OutputError: from every method, when the storage refuses; the line names the URI.
    """

    def __init__(self, uri: str | Path) -> None:
        text, scheme = str(uri), ""
        if text.startswith("file:"):
            scheme, text = _FILE, text.removeprefix(_FILE) or "/"
            if not text.startswith("/"):
                raise OutputError(f"{uri}: is no file:// URI of a folder", f"give its absolute path: {_FILE}/mnt/…")
        elif "://" not in text:
            text = str(Path(text).expanduser().absolute())
        self.uri = scheme + (text.rstrip("/") or "/")
        try:
            self.fs, self.path = fsspec.url_to_fs(self.uri, **s3.options(self.uri))
        except ImportError as error:
            raise OutputError(f"{self.uri}: {error}", "pip install 'raygen[s3]' for s3:// URIs") from None
        except ValueError as error:
            raise OutputError(f"{self.uri}: {error}", "give a local path or an s3:// URI") from None
        self.local = Path(self.path) if self.uri.startswith(("/", _FILE)) else None
        self._s3 = "s3" in self.fs.protocol
        if self._s3:
            self.fs.retries = S3_ATTEMPTS

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Folder, (self.uri,))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rsplit("/", 1)[-1]

    def exists(self, name: str = "") -> bool:
        with _explained(self._uri(name)):
            try:
                self.fs.info(self._path(name))
            except FileNotFoundError as error:
                if s3.no_bucket(error):
                    raise
                return False
            return True

    def names(self) -> list[str]:
        """What lies directly in the folder, sorted; empty when there is no folder."""
        with _explained(self.uri):
            try:
                if self.local is not None:
                    return sorted(os.listdir(self.path))
                if self._s3:
                    return sorted(name.rstrip("/") for name, _ in s3.listed(self.fs, self.path, _nothing, "/"))
                found = [str(path).rstrip("/") for path in self.fs.ls(self.path, detail=False)]
            except FileNotFoundError as error:
                if s3.no_bucket(error):
                    raise
                return []
            return sorted(path.rsplit("/", 1)[-1] for path in found if path != self.path)

    def files(self) -> dict[str, File]:
        """All files below, by their path relative to the folder; empty where there is no folder."""
        return self._below(_file)

    def sizes(self) -> dict[str, int]:
        """Bytes of all files below, by their path relative to the folder; empty where there is no folder."""
        return self._below(_size)

    def _below(self, told: Callable[[Mapping[str, Any]], T]) -> dict[str, T]:
        """All files below, and what is told of each of what a storage says of it."""
        with _explained(self.uri):
            try:
                if self.local is not None:
                    found = _walk(self.path, "")
                    return {name: told({"size": stat.st_size, "mtime": stat.st_mtime}) for name, stat in found}
                if self._s3:
                    return {name: what for name, what in s3.listed(self.fs, self.path, told) if not name.endswith("/")}
                start = self.path.rstrip("/") + "/"
                return {
                    path.removeprefix(start): told(info)
                    for path, info in self.fs.find(self.path, detail=True).items()
                    if path.startswith(start) and not path.endswith("/")  # a key that stands for a folder
                }
            except FileNotFoundError as error:
                if s3.no_bucket(error):
                    raise
                return {}

    def find(self) -> tuple["Folder", dict[str, File]]:
        """The files that the URI stands for, which may be a file's, a folder's (all below it), or a pattern as of a shell.

        Returns:
            The folder that their names are relative to, and what :meth:`files` would say of them.

        Raises:
            FileNotFoundError: there is no such file or folder; a pattern that fits nothing finds nothing.
        """
        self.check_answers()
        with _explained(self.uri):
            try:
                info = self.fs.info(self.path)
            except FileNotFoundError as error:
                if s3.no_bucket(error) or not _WILD.search(self.path):
                    raise
                return self._fitting()
            if info["type"] == "directory" or (self.local and self.local.is_dir()):
                return self, self.files()
            return Folder(self.uri.rpartition("/")[0] or "/"), {self.name: _file(info)}

    def read(self, name: str) -> bytes:
        with _explained(self._uri(name)):
            return bytes(self.fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file: a reader sees all of it or what was there before."""
        with self.writer(name) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet. False, and nothing written, when somebody else was first.

        Of all who try, on any machine, one gets True, whatever they write: on S3 the PUT is conditional, and carries a
        mark by which a winner whose answer was lost on the way knows its own file when it asks again.
        """
        with _explained(self._uri(name), writing=True):
            if self._s3:
                return self._put_first(self._path(name), data)
            if self.local is None:
                try:
                    self.fs.pipe_file(self._path(name), data, mode="create")
                except FileExistsError:
                    return False
                return True
            target = self.local / name
            with _temporary(target) as temporary:
                temporary.write_bytes(data)
                try:
                    os.link(temporary, target)  # fails where the name is taken, and shows the whole content at once
                except FileExistsError:
                    return False
                except OSError:  # no hard links there, as on exFAT: exclusive still, if not all at once
                    try:
                        with target.open("xb") as file:
                            file.write(data)
                    except FileExistsError:
                        return False
                return True

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A file to write; it appears under its name, whole, when the block ends without an exception.

        Elsewhere than on a local disk it is first written to one: then it is one PUT, or one multipart upload.
        """
        with _explained(self._uri(name), writing=True):
            if self.local is not None:
                target = self.local / name
                with _temporary(target) as temporary:
                    with temporary.open("wb") as file:
                        yield file
                    try:
                        temporary.replace(target)
                    except FileNotFoundError:
                        if not target.exists():  # else somebody has written the same, committed it and tidied up
                            raise
            else:
                with tempfile.NamedTemporaryFile(prefix="raygen-") as file:
                    yield file  # type: ignore[misc]  # the wrapper has every method of a BinaryIO
                    file.flush()
                    self.fs.put_file(file.name, self._path(name))

    @contextlib.contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        """A seekable binary file for the length of the block. Elsewhere than on a local disk each read is a request."""
        options = {} if self.local is not None else {"cache_type": "none"}  # Arrow knows best what it will need
        with _explained(self._uri(name)), self.fs.open(self._path(name), "rb", **options) as file:
            yield file

    def delete(self, *names: str) -> None:
        """Remove files; those that are not there are fine."""
        with _explained(self._uri(names[0] if len(names) == 1 else "")):
            self._remove([self._path(name) for name in names])

    def move(self, name: str, target: "Folder", target_name: str) -> None:
        """Give a file another place, over whatever is there: at once on a local disk, elsewhere by a copy on the server.

        When the file is gone, somebody else has done it.
        """
        with _explained(target._uri(target_name), writing=True):
            try:
                if self.local is not None and target.local is not None:
                    goal = target.local / target_name
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    (self.local / name).replace(goal)
                elif type(self.fs) is type(target.fs):
                    self.fs.cp_file(self._path(name), target._path(target_name))
                    self._remove([self._path(name)])
                else:
                    with self.reader(name) as source, target.writer(target_name) as file:
                        shutil.copyfileobj(source, file)
                    self._remove([self._path(name)])
            except FileNotFoundError as error:
                if s3.no_bucket(error) or self.exists(name):
                    raise

    def clear(self) -> None:
        """Remove the folder with all below; it need not be there. Who writes there meanwhile may leave something behind."""
        with _explained(self.uri), contextlib.suppress(FileNotFoundError):
            if self.local is not None:
                self._clear(self.local)
            elif self._s3:  # it has no folders, but may have keys that stand for them; SeaweedFS makes such itself
                start = self.path.rstrip("/") + "/"
                paths = [path for path in self.fs.find(self.path) if path.startswith(start)]
                folders = {f"{start}{parent}/" for path in paths for parent in _parents(path.removeprefix(start))}
                self._remove([*paths, *sorted(folders, reverse=True), start])
            else:
                self.fs.rm(self.path, recursive=True)

    @staticmethod
    def _clear(folder: Path) -> None:
        """Where somebody else clears it, too, or writes there still, it takes more than one attempt."""
        for left in reversed(range(CLEARS)):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not left:
                    raise
            if not folder.exists():
                return
            time.sleep(BETWEEN_CLEARS)

    def sweep(self) -> None:
        """Remove what was left behind in the folder by who was killed while he wrote, and not what others are writing."""
        if self.local is None:  # elsewhere nothing is: a file appears when it is whole
            return
        with _explained(self.uri), contextlib.suppress(FileNotFoundError):
            for file in self.local.glob(".*.tmp"):
                if time.time() - file.stat().st_mtime > LEFT_BEHIND:
                    file.unlink()

    def check_answers(self) -> None:
        """Fail soon where a server takes connections and says nothing; what else may be wrong, later requests tell."""
        if not self._s3:
            return
        fs = self.impatient().fs
        with _explained(self.uri):
            try:
                fs.call_s3("head_bucket", Bucket=fs.split_path(self.path)[0])
            except Exception as error:
                if type(error).__name__ == "ReadTimeoutError":
                    raise

    def impatient(self) -> "Folder":
        """The same folder, by requests that fail where a server says nothing for so long as a first answer may take."""
        folder = Folder(self.uri)
        if self._s3:
            config = {**self.fs.config_kwargs, "read_timeout": S3_FIRST_ANSWER}
            folder.fs = type(self.fs)(**{**self.fs.storage_options, "config_kwargs": config})
            folder.fs.retries = S3_FIRST_ATTEMPTS
        return folder

    def check_writable(self) -> None:
        """Fail now, with nothing written, where the folder could not be made or written to later."""
        if self._s3:  # an upload that is begun and dropped shows nothing, and takes the permission that writing takes
            bucket, key, _ = self.fs.split_path(self._path("writable"))
            with _explained(self.uri, writing=True):
                upload = self.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
                self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
        if self.local is None:
            return
        nearest = next(folder for folder in (self.local, *self.local.parents) if os.path.exists(folder))
        if not nearest.is_dir():
            raise OutputError(f"{self.uri}: {nearest} is a file, not a folder", "choose another place")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"{self.uri}: no permission to write in {nearest}", "choose another place, or allow it")
        if shutil.disk_usage(nearest).free == 0:
            raise OutputError(f"{self.uri}: the disk of {nearest} is full", "make room, or choose another place")

    def _fitting(self) -> tuple["Folder", dict[str, File]]:
        fixed = self.uri[: _WILD.search(self.uri).start()].rpartition("/")[0]  # type: ignore[union-attr]
        root = Folder(fixed or "/")
        start = root.path.rstrip("/") + "/"
        if self.local is not None:
            found = self.fs.glob(self.path, detail=True)
            return root, {path.removeprefix(start): _file(info) for path, info in found.items() if os.path.isfile(path)}
        fits = re.compile(glob_translate(self.path)).match  # the glob of fsspec would take a refusal for an empty folder
        return root, {name: file for name, file in root.files().items() if fits(start + name)}

    def _put_first(self, path: str, data: bytes) -> bool:
        mark = uuid.uuid4().hex
        try:
            self.fs.pipe_file(path, data, mode="create", Metadata={"raygen-mark": mark})
        except OSError as error:
            if s3.error_code(error) != "PreconditionFailed":
                raise
            with contextlib.suppress(FileNotFoundError):  # it was there a moment ago, and not by us
                return bool(self.fs.metadata(path).get("raygen-mark") == mark)
            return False
        return True

    def _remove(self, paths: Sequence[str]) -> None:
        if not self._s3 or len(paths) == 1:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(path)
            return
        bucket = self.fs.split_path(self.path)[0]
        for start in range(0, len(paths), 1000):  # the most that one request may name
            keys = [{"Key": self.fs.split_path(path)[1]} for path in paths[start : start + 1000]]
            answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if errors := answer.get("Errors"):  # in an answer that is a 200
                kind = PermissionError if errors[0].get("Code") == "AccessDenied" else OSError
                raise kind(f"{errors[0]['Key']} cannot be deleted: {errors[0].get('Message')}")

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _uri(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _file(info: Mapping[str, Any]) -> File:
    return File(info["size"], str(info.get("ETag") or info.get("mtime")))


def _size(info: Mapping[str, Any]) -> int:
    return int(info["size"])


def _nothing(_: Mapping[str, Any]) -> None:
    return None


def _walk(folder: str, start: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{start}{entry.name}/")
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            yield start + entry.name, stat


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A hidden name beside the target, gone afterwards whatever happens."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(uri: str, writing: bool = False) -> Iterator[None]:
    """Turn what a storage says into one line that names the URI. A file that cannot be read because it is missing stays a
    FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        if s3.no_bucket(error):
            bucket = uri.split("/")[2]
            raise OutputError(
                f"{uri}: there is no bucket {bucket!r}", "make it, or check its name and AWS_ENDPOINT_URL"
            ) from error
        if not writing:
            raise
        raise OutputError(f"{uri}: cannot be made ({_reason(error)})", "choose another place") from error
    except PermissionError as error:
        hint = "choose another place, or allow it"
        if uri.startswith(("s3://", "s3a://")):
            hint = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, …) and what they may do"
        raise OutputError(f"{uri}: no permission ({_reason(error)})", hint) from error
    except NotADirectoryError as error:
        raise OutputError(f"{uri}: a part of this path is a file", "choose another place") from error
    except Exception as error:
        if (advice := _hint(error)) is None:
            raise
        raise OutputError(f"{uri}: {_reason(error)}", advice) from error


def _hint(error: Exception) -> str | None:
    """What to do about what a storage says; None where it was not the storage."""
    library = type(error).__module__.partition(".")[0]
    if library in ("botocore", "aiobotocore", "aiohttp") or str(error).startswith("Invalid endpoint: "):
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return "check AWS_ENDPOINT_URL and that the server is up, then run the same command again"
    return "mend that, then run the same command again" if isinstance(error, OSError) else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
