"""Folders and sources on a real S3 server: through lost connections and a restart, and what is said of what cannot be."""

import hashlib
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3 import Fault, Proxy, Server, clients, nobody_home

from raygen.datasets import s3 as listing
from raygen.datasets import storage, stream
from raygen.datasets.parquet import read_fragment, read_rows
from raygen.datasets.s3 import CONFIG
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError, RaygenError

NOWHERE = Folder("memory://nowhere")


def random_bytes(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def uploads(server: Server) -> list[str]:
    """Multipart uploads that nobody has finished."""
    return [upload["Key"] for upload in server.client().list_multipart_uploads(Bucket="data").get("Uploads", [])]


# Who wins


CREATE = """
import sys, time
from raygen.datasets.storage import Folder
folder = Folder(sys.argv[1])
folder.exists("x")  # the client is made
print("ready", flush=True)
sys.stdin.readline()
print([folder.create(f"plan-{turn}", b"the same of all") for turn in range(5)])
"""


def test_one_of_many_threads_and_processes_creates_a_file(s3: str) -> None:
    folder = Folder(s3)
    command = [sys.executable, "-c", CREATE, s3]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(8) as threads:
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        mine = [
            list(threads.map(lambda _, t=turn: folder.create(f"plan-{t}", b"the same of all"), range(8)))
            for turn in range(5)
        ]
    theirs = [eval(child.communicate(timeout=60)[0]) for child in children]
    for turn in range(5):
        assert sum(mine[turn]) + sum(answers[turn] for answers in theirs) == 1


def test_a_winner_whose_answer_was_lost_has_won(s3: str, s3_proxy: Proxy) -> None:
    folder = Folder(s3)
    s3_proxy.order(Fault("answer", "reset", times=1, match="^PUT"))
    assert folder.create("plan", b"same")
    assert len(s3_proxy.struck) == 1
    assert sum(line.startswith("PUT") for line in s3_proxy.exchanges) == 2  # the second of which the server refused
    assert not folder.create("plan", b"same")  # another try, the same content: it is not the winner


# Writes are whole, or are not


def test_a_big_file_is_one_upload_in_parts(s3: str, s3_server: Server, s3_proxy: Proxy) -> None:
    folder, content = Folder(s3), random_bytes(101 << 20)
    s3_proxy.order(Fault("answer", "reset", times=1, match="^PUT .*partNumber=2"))
    seen = []
    with folder.writer("big") as file:
        file.write(content)
        file.flush()
        seen += folder.names()
    assert seen == []
    assert len(s3_proxy.struck) == 1
    assert any("uploadId" in line for line in s3_proxy.exchanges)
    assert folder.sizes() == {"big": len(content)}
    assert folder.read("big") == content
    assert uploads(s3_server) == []


def test_an_upload_that_fails_leaves_nothing(
    s3: str, s3_server: Server, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 2)
    folder = Folder(s3)
    s3_proxy.order(Fault("request", "reset", after=100_000, match="^PUT .*partNumber=3"))
    with pytest.raises(OutputError, match=f"{s3}/big: "), folder.writer("big") as file:
        file.write(random_bytes(101 << 20))
    assert folder.names() == []
    assert uploads(s3_server) == []


def test_nothing_is_sent_when_the_block_raises(s3: str, s3_proxy: Proxy) -> None:
    def begin() -> None:
        with Folder(s3).writer("x") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert s3_proxy.exchanges == []


def test_checking_that_a_folder_is_writable_writes_nothing(s3: str, s3_server: Server) -> None:
    Folder(s3).check_writable()
    assert Folder(s3).names() == []
    assert uploads(s3_server) == []


# Many files


def test_listings_of_more_than_one_page(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(s3)
    names = sorted([*(f"part-{number:04d}" for number in range(1005)), "part-1 & <2>", "part-1+1%20", "part-2=größer"])
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: folder.write(f"data/{name}", b"12"), names))
    data = folder / "data"
    assert data.names() == names
    files = data.files()
    assert data.sizes() == dict.fromkeys(names, 2)
    monkeypatch.setattr(listing, "MANY", 1000)  # after which parts of the listing are asked for at once
    assert data.names() == names
    assert data.files() == files
    assert data.sizes() == dict.fromkeys(names, 2)
    data.delete(*names[:1003])
    assert data.names() == names[1003:]
    folder.clear()
    assert (folder.names(), folder.exists()) == ([], False)


class Listed:
    """An S3 that only lists, a few names a page.

    Attributes:
        asked: requests so far.
        longest: how many of them at most had to wait for one another.
    """

    def __init__(self, keys: Iterable[str], page: int, shuffled: bool = False) -> None:
        self.keys, self.page, self.asked, self.longest = sorted(keys), page, 0, 0
        if shuffled:  # and never asked for what comes after a name
            self.keys.sort(key=lambda key: hashlib.sha256(key.encode()).digest())

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **asked: str) -> dict[str, Any]:
        assert (method, asked["Bucket"]) == ("list_objects_v2", "data")
        first = bisect_right(self.keys, asked["StartAfter"]) if "StartAfter" in asked else 0
        depth, first = json.loads(asked.get("ContinuationToken", f"[1, {first}]"))
        prefix, delimiter = asked["Prefix"], asked.get("Delimiter", "")
        found: dict[str, None] = {}
        for key in self.keys[first:]:
            if key.startswith(prefix):
                rest, end = key.removeprefix(prefix), -1 if not delimiter else key.removeprefix(prefix).find(delimiter)
                name = key if end < 0 else prefix + rest[: end + 1]
                if name not in found and len(found) == self.page:
                    break
                found[name] = None
            first += 1
        self.asked, self.longest = self.asked + 1, max(self.longest, depth)
        return {
            "Contents": [
                {"Key": name, "Size": len(name), "ETag": name} for name in found if not name.endswith(delimiter or "\n")
            ],
            "CommonPrefixes": [{"Prefix": name} for name in found if delimiter and name.endswith(delimiter)],
            "IsTruncated": first < len(self.keys),
            "NextContinuationToken": json.dumps([depth + 1, first]),
        }


@pytest.fixture
def few_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MANY", 20)
    monkeypatch.setattr(listing, "_quick", lambda fs: fs)


@pytest.mark.usefixtures("few_a_page")
@pytest.mark.parametrize(("delimiter", "shuffled"), [("", False), ("/", False), ("", True)])
@pytest.mark.parametrize("folder", ["", "1/", "1/a/"])
def test_a_listing_misses_nothing_and_tells_nothing_twice(folder: str, delimiter: str, shuffled: bool) -> None:
    every = [folder + "".join(letters) for size in range(4) for letters in itertools.product("0129a-/", repeat=size)]
    for seed in range(30):
        draw = np.random.default_rng(seed)
        keys = {every[index] for index in draw.integers(0, len(every), draw.integers(1, 250))} - {""} | {"0", "1b"}
        below = {key.removeprefix(folder) for key in keys if key.startswith(folder)} - {""}
        expected = {name.partition("/")[0] + "/" if delimiter and "/" in name else name for name in below}
        bucket = Listed(keys, 5, shuffled)
        found = list(listing.listed(bucket, f"data/{folder}".rstrip("/"), lambda info: info["size"], delimiter))
        assert sorted(name for name, _ in found) == sorted(expected)
        assert all(size == len(folder + name) for name, size in found if not name.endswith("/"))


@pytest.mark.usefixtures("few_a_page")
def test_many_folders_are_told_once_each() -> None:
    keys = [f"{number:02d}/{name}" for number in range(60) for name in "ab"]
    assert sorted(listing.listed(Listed(keys, 5), "data", len, "/")) == [(f"{number:02d}/", 1) for number in range(60)]


@pytest.mark.usefixtures("few_a_page")
@pytest.mark.parametrize("name", ["part-{:07d}-of-1000000.parquet", "{:05d}-1-abc.json", "label=4/part-{:05d}-of-3"])
def test_a_long_listing_is_asked_for_in_parts_at_once(name: str) -> None:
    """A million names, as it were: every hundredth, and so as many fewer a page."""
    keys = [f"out/{name.format(number)}" for number in range(0, 1_000_000, 100)]
    bucket = Listed(keys, 10)
    assert {name for name, _ in listing.listed(bucket, "data/out", lambda _: None)} == {key[4:] for key in keys}
    assert bucket.longest < 140  # of 1,000 pages; a tenth of them, and some
    assert bucket.asked < 1100


# What breaks on the way is done again


class Act(NamedTuple):
    name: str
    match: str
    do: Callable[[Folder], object]


ACTS = [
    Act("write", "^PUT", lambda f: f.write("new", random_bytes(1 << 20)) or f.read("new") == random_bytes(1 << 20)),
    Act("create", "^PUT", lambda f: f.create("new", b"1")),
    Act("read", "^GET .*big", lambda f: f.read("big") == random_bytes(3 << 20)),
    Act("exists", "^HEAD", lambda f: f.exists("big")),
    Act("names", "list-type", lambda f: f.names() == ["big", "small"]),
    Act("sizes", "list-type", lambda f: f.sizes() == {"big": 3 << 20, "small": 1}),
    Act("delete", "^DELETE", lambda f: f.delete("big") or f.names() == ["small"]),
    Act("delete many", "^POST", lambda f: f.delete("big", "small") or f.names() == []),
    Act("move", "^PUT", lambda f: f.move("big", f, "moved") or f.read("moved") == random_bytes(3 << 20)),
]


@pytest.mark.parametrize("fault", ["request reset", "request close", "answer reset", "answer close", "answer stall"])
def test_what_a_bad_line_cannot_change(fault: str, s3: str, s3_proxy: Proxy) -> None:
    where, how = fault.split()
    for act in ACTS:
        s3_proxy.order()
        s3_proxy.struck.clear()
        folder = Folder(s3)
        folder.clear()
        folder.write("big", random_bytes(3 << 20))
        folder.write("small", b"1")
        after = {("write", "request"): 300_000, ("read", "answer"): 500_000}.get((act.name, where), 50)  # in the body there
        s3_proxy.order(Fault(where, how, after=after, seconds=0.1, times=2, match=act.match))  # type: ignore[arg-type]
        assert act.do(folder), act.name
        assert s3_proxy.struck, act.name


def test_a_server_that_restarts_is_waited_for(s3: str, s3_server: Server) -> None:
    folder = Folder(s3)
    folder.write("before", b"1")
    s3_server.kill()
    restart = threading.Timer(1, s3_server.start)
    restart.start()
    try:
        folder.write("after", b"2")
        assert (folder.read("before"), folder.read("after")) == (b"1", b"2")
    finally:
        restart.join()


def test_an_answer_may_take_longer_than_s3fs_would_wait() -> None:
    config = Folder("s3://data").fs.config_kwargs
    assert config["read_timeout"] >= 60  # a stall of 30 s was survived in a trial by hand
    assert config["connect_timeout"] * storage.S3_ATTEMPTS <= 30


def test_the_users_own_configuration_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 7}, "endpoint_url": "http://mine"})
    fs = Folder("s3://data").fs
    assert fs.config_kwargs == {**CONFIG, "read_timeout": 7}
    assert fs.endpoint_url == "http://mine"


def test_a_profile_leads_to_the_server(s3: str, s3_server: Server, tmp_path: Path) -> None:
    given = s3_server.environment()
    (tmp_path / "config").write_text(
        f"[profile mine]\nendpoint_url={given['AWS_ENDPOINT_URL']}\nregion=us-east-1\n"
        f"aws_access_key_id={given['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={given['AWS_SECRET_ACCESS_KEY']}\n"
    )
    with clients({**dict.fromkeys(given, ""), "AWS_PROFILE": "mine", "AWS_CONFIG_FILE": str(tmp_path / "config")}):
        Folder(s3).write("x", b"1")
        assert Folder(s3).read("x") == b"1"
    with clients({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ENDPOINT_URL_S3": s3_server.url}):
        assert Folder(s3).read("x") == b"1"


# What cannot be done is said at once


READS = [
    Act("exists", "", lambda f: f.exists("x")),
    Act("names", "", lambda f: f.names()),
    Act("sizes", "", lambda f: f.sizes()),
    Act("read", "", lambda f: f.read("x")),
    Act("reader", "", lambda f: f.reader("x").__enter__()),
    Act("scan", "", lambda f: stream.scan(f.uri, NOWHERE)),
    Act("scan a file", "", lambda f: stream.scan(f"{f.uri}/x.parquet", NOWHERE)),
    Act("scan a pattern", "", lambda f: stream.scan(f"{f.uri}/*.parquet", NOWHERE)),
]
WRITES = [
    Act("write", "", lambda f: f.write("x", b"1")),
    Act("create", "", lambda f: f.create("x", b"1")),
    Act("delete", "", lambda f: f.delete("x")),
    Act("delete many", "", lambda f: f.delete("x", "y")),
    Act("move", "", lambda f: f.move("x", f, "y")),
    Act("check", "", lambda f: f.check_writable()),
]


def refused(act: Act, folder: Folder, limit: float = 3) -> str:
    """What is said: one line that names the place, one line what to do, and no secret, within the limit."""
    start = time.perf_counter()
    with pytest.raises((DataError, OutputError)) as caught:
        act.do(folder)
    assert time.perf_counter() - start < limit
    said = str(caught.value)
    assert caught.value.what.startswith(folder.uri)
    assert len(said.splitlines()) == 2
    assert "secret" not in said
    assert caught.value.exit_code == 2
    return said


@pytest.fixture
def kept(s3: str) -> Iterator[str]:
    """The URI of a folder with two files, which a test leaves as they are."""
    folder = Folder(s3)
    folder.write("x", b"kept")
    folder.write("x.parquet", b"kept")
    yield s3
    assert folder.sizes() == {"x": 4, "x.parquet": 4}


def test_no_permission_for_a_bucket(kept: str, s3_server: Server) -> None:
    with clients(s3_server.environment("stranger")):
        for act in READS + WRITES:
            said = refused(act, Folder(kept))
            assert "no permission (" in said
            assert "check the credentials" in said


def test_no_permission_to_write(kept: str, s3_server: Server) -> None:
    with clients(s3_server.environment("reader")):
        assert Folder(kept).read("x") == b"kept"
        for act in WRITES:
            assert "no permission (" in refused(act, Folder(kept))


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials(wrong: str, kept: str) -> None:
    with clients({wrong: "somesecret1"}):
        for act in READS + WRITES:
            said = refused(act, Folder(kept))
            assert "no permission (" in said
            assert "check the credentials" in said


def test_no_credentials(kept: str) -> None:
    with clients({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}):
        for act in READS + WRITES:
            said = refused(act, Folder(kept))
            assert "Unable to locate credentials" in said
            assert "set AWS_ACCESS_KEY_ID" in said
    with clients({"AWS_PROFILE": "nobody"}):
        assert "The config profile (nobody) could not be found" in refused(READS[0], Folder(kept))


def test_no_such_bucket(s3: str) -> None:
    for act in READS + WRITES:
        if not act.name.startswith("delete"):  # for SeaweedFS what is in no bucket is gone
            for place in ("s3://no-such-bucket/a", "s3://no-such-bucket"):
                assert "there is no bucket 'no-such-bucket'" in refused(act, Folder(place))


def test_an_endpoint_that_is_none(s3: str) -> None:
    with clients({"AWS_ENDPOINT_URL": "nonsense"}):
        said = refused(READS[0], Folder(s3))
    assert "Invalid endpoint: nonsense" in said
    assert "check AWS_ENDPOINT_URL" in said


@pytest.mark.slow
def test_an_endpoint_that_is_down_is_given_up(s3: str, s3_server: Server) -> None:
    acts = [READS[0], READS[4], READS[5], WRITES[0], WRITES[1], WRITES[5]]
    with clients({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}), ThreadPoolExecutor(len(acts)) as threads:
        folder = Folder(s3)
        for said in threads.map(lambda act: refused(act, folder, 30), acts):
            assert "Could not connect to the endpoint URL" in said
            assert "check AWS_ENDPOINT_URL" in said


def test_an_endpoint_that_does_not_answer_is_given_up(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG, "connect_timeout", 0.3)
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 4)  # 34 s with what is set
    with nobody_home() as url, clients({"AWS_ENDPOINT_URL": url}):
        assert "Connect timeout on endpoint URL" in refused(READS[0], Folder(s3), 10)


def test_a_server_that_says_nothing_is_given_up_soon(s3: str, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "S3_FIRST_ANSWER", 1)  # 20 s with what is set
    s3_proxy.order(Fault("request", "stall", seconds=60))
    for act in (lambda: stream.scan(s3, NOWHERE), Folder(s3).check_answers):
        start = time.perf_counter()
        with pytest.raises(OutputError, match="Read timeout on endpoint URL"):
            act()
        assert time.perf_counter() - start < 10
    assert len(s3_proxy.struck) == 2 * storage.S3_FIRST_ATTEMPTS


def test_what_answers_may_be_away_for_a_moment(s3: str) -> None:
    for url in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        with clients({"AWS_ENDPOINT_URL": url}):
            Folder(s3).check_answers()  # later requests wait longer


def test_a_server_that_dies_while_a_file_is_read(s3: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 4)
    folder = Folder(s3)
    folder.write("x", random_bytes(100_000))

    def read() -> None:
        with folder.reader("x") as file:
            file.read(10)
            s3_server.kill()
            file.read(10)

    start = time.perf_counter()
    try:
        with pytest.raises(OutputError, match=f"{s3}/x: Could not connect"):
            read()
        took = time.perf_counter() - start
    finally:
        s3_server.start()
    assert took < 3  # four attempts take 0.8 s, four times four 4.2 s


# Sources


@pytest.fixture
def parquet(s3: str) -> Iterator[str]:
    """The URI of a folder with a file of three row groups of incompressible pages."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    table = pa.table({"image": [rng.bytes(10_000) for _ in range(300)], "row": range(300)})
    pq.write_table(table, buffer, row_group_size=100)
    Folder(s3).write("a.parquet", buffer.getvalue())
    return s3


def test_a_source_is_scanned_with_few_requests(parquet: str, s3_proxy: Proxy) -> None:
    for name in "bcd":
        Folder(parquet).write(f"{name}.parquet", Folder(parquet).read("a.parquet"))
    before = len(s3_proxy.exchanges)
    source = stream.scan(parquet, NOWHERE)
    assert source.root == parquet
    assert source.files == tuple(f"{parquet}/{name}.parquet" for name in "abcd")
    assert len(source.fragments) == 12
    assert len(s3_proxy.exchanges) - before <= 2 + 3 * 4
    assert stream.scan(parquet, NOWHERE).fingerprint == source.fingerprint
    assert stream.scan(f"{parquet}/*.parquet", NOWHERE).fingerprint == source.fingerprint


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_truncated_answer_is_asked_for_again(how: str, parquet: str, s3_proxy: Proxy) -> None:
    source = stream.scan(parquet, NOWHERE)
    s3_proxy.order(Fault("answer", how, after=400_000, times=3, match="^GET .*a.parquet"))  # type: ignore[arg-type]
    assert read_fragment(source.fragments[1], ["row"]).column("row").to_pylist() == list(range(100, 200))
    assert read_fragment(source.fragments[1]).column("row").to_pylist() == list(range(100, 200))
    assert len(s3_proxy.struck) == 3
    s3_proxy.order(Fault("answer", how, after=200_000, times=3, match="^GET .*a.parquet"))  # type: ignore[arg-type]
    tables = list(read_rows(source.files[0], range(3), 50, 200, 64))
    assert pa.concat_tables(tables)["row"].to_pylist() == list(range(50, 250))
    assert len(s3_proxy.struck) == 6


def test_a_source_that_is_replaced_while_it_is_read(parquet: str) -> None:
    rows = read_rows(f"{parquet}/a.parquet", range(3), 0, 300, 10)
    next(rows)
    content = Folder(parquet).read("a.parquet")
    Folder(parquet).write("a.parquet", content[:-1] + b"?")
    with pytest.raises(RaygenError, match=r"a\.parquet"):
        list(rows)


def test_a_spoilt_file_is_named(parquet: str) -> None:
    content = Folder(parquet).read("a.parquet")
    for spoilt in (b"", content[:-20], content[:1000], b"\0" * 1000, content[:-300] + b"\xff" * 200 + content[-100:]):
        Folder(parquet).write("b.parquet", spoilt)
        with pytest.raises(DataError) as caught:
            stream.scan(parquet, NOWHERE)
        assert caught.value.what.startswith(f"{parquet}/b.parquet: is not a readable Parquet file (")
