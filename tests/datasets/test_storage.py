"""Writes are all or nothing, creation is exclusive, and every refusal of the storage names its URI."""

import contextlib
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from raygen.datasets.storage import Folder
from raygen.errors import OutputError


@pytest.fixture(params=["local", "file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that is not there yet: on this disk, by its path or its URI, and on storages that are elsewhere."""
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3"))
    if request.param == "file":
        return Folder(f"file://{tmp_path}/a/b/")
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

    monkeypatch.setattr(folder.fs, "cat_file", refuse)
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


def test_files_and_sizes(folder: Folder) -> None:
    assert folder.files() == folder.sizes() == {}
    folder.write("x", b"one")
    folder.write("sub/deep/y", b"")
    (folder / "sub").write("z", b"12345")
    assert folder.sizes() == {"x": 3, "sub/deep/y": 0, "sub/z": 5}
    assert (folder / "sub").sizes() == {"deep/y": 0, "z": 5}
    before = folder.files()["x"]
    assert folder.files()["x"] == before
    Folder(folder.uri).write("x", b"two")
    if not folder.uri.startswith("memory:"):  # which knows no version that can be relied on
        assert folder.files()["x"].version != before.version


def test_move(folder: Folder) -> None:
    target = folder / "other"
    folder.write("x", b"new")
    target.write("deep/y", b"old")
    folder.move("x", target, "deep/y")
    assert target.read("deep/y") == b"new"
    assert not folder.exists("x")
    folder.move("x", target, "deep/y")  # somebody else has done it
    assert target.read("deep/y") == b"new"
    folder.move("x", target, "nowhere")
    assert not target.exists("nowhere")
    folder.write("z", b"kept")
    folder.move("z", Folder(folder.uri), "z2")
    assert folder.sizes() == {"other/deep/y": 3, "z2": 4}


def test_move_between_storages(folder: Folder, tmp_path: Path) -> None:
    target = Folder(tmp_path / "elsewhere")
    folder.write("x", b"new")
    folder.move("x", target, "y")
    assert (folder.exists("x"), target.read("y")) == (False, b"new")
    target.move("y", folder, "sub/x")
    assert folder.read("sub/x") == b"new"
    assert target.names() == []


def test_clear(folder: Folder) -> None:
    folder.clear()  # it is not there
    (folder / "sub" / "deep").write("y", b"1")
    folder.write("x", b"1")
    beside = Folder(folder.uri + "-beside")
    beside.write("x", b"kept")
    (folder / "sub").clear()
    assert folder.sizes() == {"x": 1}
    folder.clear()
    assert not folder.exists()
    assert folder.names() == []
    assert beside.read("x") == b"kept"


def test_clear_where_others_are_busy(tmp_path: Path) -> None:
    """One still writes for a while, and one clears, too."""
    folder = Folder(tmp_path / "busy")
    until = time.monotonic() + 0.5

    def write() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OutputError):  # where it was to be is gone again
                folder.write(f"{time.monotonic()}/x", b"1")

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        clearing = [pool.submit(folder.clear) for _ in range(2)]
        while not writing.done():
            clearing.append(pool.submit(folder.clear))
            clearing[-1].result()
        for done in (writing, *clearing):
            done.result()
    folder.clear()
    assert not folder.exists()


def test_what_was_left_behind_is_swept_and_what_is_written_is_not(folder: Folder) -> None:
    folder.write("x", b"1")
    with folder.writer("y") as file:
        if folder.local is not None:
            left = folder.local / ".z.0123abcd.tmp"
            left.write_bytes(b"two hours ago")
            os.utime(left, (time.time() - 7200, time.time() - 7200))
        file.write(b"2")
        folder.sweep()
    assert folder.files().keys() == {"x", "y"}
    (folder / "nowhere").sweep()


def test_delete_many(folder: Folder) -> None:
    for name in "abc":
        folder.write(name, b"1")
    folder.delete("a", "b", "never there")
    folder.delete()
    assert folder.names() == ["c"]


def test_what_others_do_is_seen_at_once(folder: Folder) -> None:
    other = Folder(folder.uri)
    if folder.uri.startswith("s3:"):  # as in another process, whose client knows nothing of what this one does
        other.fs = type(folder.fs)(**folder.fs.storage_options, skip_instance_cache=True)
        assert other.fs is not folder.fs
    assert (other.exists("x"), other.names(), other.sizes()) == (False, [], {})
    folder.write("x", b"1")
    assert (other.exists("x"), other.names(), other.sizes()) == (True, ["x"], {"x": 1})
    folder.write("x", b"22")
    assert (other.read("x"), other.sizes()) == (b"22", {"x": 2})
    with other.reader("x") as file:
        assert file.read() == b"22"
    folder.delete("x")
    assert (other.exists("x"), other.names(), other.sizes()) == (False, [], {})


def test_find(folder: Folder) -> None:
    for name in ("a.parquet", "b.parquet", "sub/c.parquet", "sub/d.txt"):
        folder.write(name, name.encode())
    for uri, root, found in [
        ("", folder.uri, ["a.parquet", "b.parquet", "sub/c.parquet", "sub/d.txt"]),
        ("/sub", folder.uri + "/sub", ["c.parquet", "d.txt"]),
        ("/sub/d.txt", folder.uri + "/sub", ["d.txt"]),
        ("/*.parquet", folder.uri, ["a.parquet", "b.parquet"]),
        ("/*/?.p*", folder.uri, ["sub/c.parquet"]),
        ("/**/*.parquet", folder.uri, ["a.parquet", "b.parquet", "sub/c.parquet"]),
        ("/sub/[cx].*", folder.uri + "/sub", ["c.parquet"]),
        ("/*.csv", folder.uri, []),
    ]:
        place, files = Folder(folder.uri + uri).find()
        assert (place.uri, sorted(files)) == (root, found)
        assert all(place.files()[name] == file for name, file in files.items())
    with pytest.raises(FileNotFoundError):
        (folder / "nowhere").find()


def test_a_local_folder_of_many_files_is_measured_quickly(tmp_path: Path) -> None:
    for number in range(20_000):
        (tmp_path / f"part-{number:05d}").touch()
    start = time.perf_counter()
    assert len(Folder(tmp_path).sizes()) == 20_000
    assert time.perf_counter() - start < 2  # 0.15 s where nothing else runs
