"""Folders on any file system that fsspec knows: a local path or an ``s3://`` prefix, with writes that are all or nothing."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from raygen.errors import OutputError


class Folder:
    """A folder at a URI. Creating the object touches nothing; writing creates what is needed.

    Args:
        uri: a local path (made absolute: Ray workers run elsewhere), ``file://`` or ``s3://bucket/prefix``.

    Raises:
        OutputError: from every method, when the storage refuses; the line names the URI.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if "://" not in text:
            text = str(Path(text).expanduser().absolute())
        self.uri = text.rstrip("/") or "/"
        try:
            self.fs, self.path = fsspec.url_to_fs(self.uri)
        except ImportError as error:
            raise OutputError(f"{self.uri}: {error}", "pip install 'raygen[s3]' for s3:// URIs") from None
        except ValueError as error:
            raise OutputError(f"{self.uri}: {error}", "give a local path or an s3:// URI") from None
        self.local = Path(self.path) if self.uri.startswith(("/", "file:")) else None

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
            return bool(self.fs.exists(self._path(name)))

    def names(self) -> list[str]:
        """What lies directly in the folder, sorted; empty when there is no folder."""
        with _explained(self.uri):
            self.fs.invalidate_cache(self.path)
            try:
                return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.path, detail=False))
            except FileNotFoundError:
                return []

    def read(self, name: str) -> bytes:
        with _explained(self._uri(name)):
            return bytes(self.fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file: a reader sees all of it or what was there before."""
        with self.writer(name) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet. False, and nothing written, when somebody else was first."""
        with _explained(self._uri(name), writing=True):
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

    def reader(self, name: str) -> Any:
        """A seekable binary file, to be closed by the caller."""
        with _explained(self._uri(name)):
            return self.fs.open(self._path(name), "rb")

    def delete(self, name: str) -> None:
        with _explained(self._uri(name)), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def check_writable(self) -> None:
        """Fail now, with nothing written, where a local folder could not be made or written to later."""
        if self.local is None:
            return
        nearest = next(folder for folder in (self.local, *self.local.parents) if os.path.exists(folder))
        if not nearest.is_dir():
            raise OutputError(f"{self.uri}: {nearest} is a file, not a folder", "choose another place")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"{self.uri}: no permission to write in {nearest}", "choose another place, or allow it")
        if shutil.disk_usage(nearest).free == 0:
            raise OutputError(f"{self.uri}: the disk of {nearest} is full", "make room, or choose another place")

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _uri(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri


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
        if not writing:
            raise
        raise OutputError(f"{uri}: cannot be made ({_reason(error)})", "choose another place") from error
    except PermissionError as error:
        raise OutputError(f"{uri}: no permission ({_reason(error)})", "choose another place, or allow it") from error
    except NotADirectoryError as error:
        raise OutputError(f"{uri}: a part of this path is a file", "choose another place") from error
    except OSError as error:
        raise OutputError(f"{uri}: {_reason(error)}", "mend that, then run the same command again") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore"):  # not installed without raygen[s3]
            raise
        raise OutputError(f"{uri}: {_reason(error)}", "check the S3 endpoint and credentials") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
