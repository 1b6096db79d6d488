"""Writes are all or nothing, creation is exclusive, and every refusal of the storage names its URI."""

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from raygen.datasets.storage import Folder
from raygen.errors import OutputError


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that is not there yet: on this disk, and on a storage that is elsewhere."""
    return Folder(tmp_path / "a" / "b" if request.param == "local" else f"memory://{uuid4().hex}/b")


def everything(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def test_write_read_names_delete(folder: Folder) -> None:
    assert not folder.exists()
    assert not folder.exists("x")
    assert folder.names() == []
    folder.write("x", b"one")
    folder.write("sub/y", b"")
    (folder / "sub").write("z", b"three")
    assert folder.exists()
    assert folder.names() == ["sub", "x"]
    assert (folder / "sub").names() == ["y", "z"]
    assert (folder.read("x"), folder.read("sub/y"), folder.read("sub/z")) == (b"one", b"", b"three")
    folder.write("x", b"two")
    assert folder.read("x") == b"two"
    folder.delete("x")
    folder.delete("x")  # gone is gone
    assert not folder.exists("x")
    assert folder.names() == ["sub"]
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_reader_can_seek(folder: Folder) -> None:
    folder.write("x", b"0123456789")
    with folder.reader("x") as file:
        file.seek(7)
        assert file.read() == b"789"
    with (folder / "x").reader("") as file:
        assert file.read(2) == b"01"


def test_an_exception_while_writing_leaves_what_was_there(folder: Folder, tmp_path: Path) -> None:
    folder.write("x", b"before")
    there = everything(tmp_path)

    def begin(name: str) -> None:
        with folder.writer(name) as file:
            file.write(b"half of " * 10_000)
            raise ZeroDivisionError

    for name in ("x", "new"):
        with pytest.raises(ZeroDivisionError):
            begin(name)
    assert folder.read("x") == b"before"
    assert folder.names() == ["x"]
    assert everything(tmp_path) == there


def test_nobody_sees_half_a_file(folder: Folder) -> None:
    folder.write("x", b"before")
    with folder.writer("x") as file:
        file.write(b"after")
        file.flush()
        assert folder.read("x") == b"before"
    assert folder.read("x") == b"after"


def test_create_is_exclusive(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for attempt in range(20):
        ready, won = threading.Barrier(2), []

        def create(name: str, who: bytes, ready: threading.Barrier = ready, won: list[bytes] = won) -> None:
            ready.wait()
            if folder.create(name, who * 100_000):
                won.append(who)

        threads = [threading.Thread(target=create, args=(f"plan-{attempt}", who)) for who in (b"a", b"b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert folder.read(f"plan-{attempt}") == won[0] * 100_000
    assert folder.names() == sorted(f"plan-{attempt}" for attempt in range(20))  # nothing stray


def test_create_writes_where_nothing_is(folder: Folder) -> None:
    assert folder.create("deep/x", b"mine")
    assert folder.read("deep/x") == b"mine"


class Case(NamedTuple):
    name: str
    act: Callable[[Folder], object]


@pytest.mark.parametrize(
    "case",
    [
        Case("write", lambda f: f.write("x", b"1")),
        Case("create", lambda f: f.create("x", b"1")),
        Case("read", lambda f: f.read("x")),
        Case("delete", lambda f: f.delete("x")),
        Case("writable", lambda f: f.check_writable()),
        Case("write below", lambda f: (f / "deeper").write("x", b"1")),
        Case("create below", lambda f: (f / "deeper").create("x", b"1")),
        Case("names below", lambda f: (f / "deeper").names()),
        Case("writable below", lambda f: (f / "deeper").check_writable()),
    ],
    ids=lambda case: case.name,
)
def test_a_path_under_a_file_is_refused(case: Case, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OutputError) as caught:
        case.act(Folder(tmp_path / "file"))
    assert str(tmp_path / "file") in caught.value.what
    assert everything(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_check_writable_writes_nothing(tmp_path: Path) -> None:
    Folder(tmp_path / "a" / "b").check_writable()
    Folder(tmp_path).check_writable()
    Folder("memory://nowhere").check_writable()
    assert everything(tmp_path) == []


def test_check_writable_refuses_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # tests may run as root, whom no permission stops
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(OutputError, match="no permission to write in") as caught:
            Folder(tmp_path / "a").check_writable()
        assert str(tmp_path) in caught.value.what
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
        with pytest.raises(OutputError, match="is full"):
            Folder(tmp_path / "a").check_writable()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "no permission (Permission denied)"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the bucket is on fire\nand more"), "the bucket is on fire"),
    ],
)
def test_what_a_storage_says_is_one_line_with_the_uri(
    folder: Folder, error: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(type(folder.fs), "cat_file", refuse)
    with pytest.raises(OutputError) as caught:
        folder.read("x")
    assert caught.value.what == f"{folder.uri}/x: {said}"
    assert len(str(caught.value).splitlines()) == 2


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder("a/b").uri == str(tmp_path / "a" / "b")  # workers run in another folder
    assert Folder("~/a").uri == str(Path.home() / "a")
    assert Folder("a/").uri == str(tmp_path / "a")
    assert Folder("/").uri == "/"
    assert Folder("s3://bucket/prefix/").uri == "s3://bucket/prefix"
    assert (Folder("s3://bucket/prefix") / "x").uri == "s3://bucket/prefix/x"
    assert Folder(f"file://{tmp_path}/a").local == tmp_path / "a"
    assert Folder("memory://a").local is None
    with pytest.raises(OutputError, match=r"foo://bar: Protocol not known"):
        Folder("foo://bar")


def test_a_folder_crosses_processes(folder: Folder) -> None:
    folder.write("x", b"one")
    again = pickle.loads(pickle.dumps(folder))
    assert again.uri == folder.uri
    assert again.read("x") == b"one"
