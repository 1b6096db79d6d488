"""A dataset is replaced by a finished one only, and whoever is killed on the way, the next one finishes it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pytest

from raygen.datasets.commit import Output, intact
from raygen.datasets.storage import Folder
from raygen.errors import OutputError

OLD: dict[str, Any] = {"generator": "abc", "seed": 7}


class Shard(NamedTuple):
    number: int
    file: str


class CrashError(Exception):
    """The moment at which a driver is killed."""


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    return place(request.param, tmp_path)


def place(kind: str, tmp_path: Path) -> Output:
    return Output(Folder(tmp_path / uuid4().hex if kind == "local" else f"memory://{uuid4().hex}/out"))


def job(seed: int) -> dict[str, Any]:
    return {**OLD, "seed": seed}


def shards(seed: int) -> list[Shard]:
    """Some names are those of the old dataset, some are not."""
    count = 2 + seed % 3
    return [Shard(number, f"part-{number:05d}.parquet") for number in range(count - 1)] + [
        Shard(count - 1, f"label={seed}/part-{count - 1:05d}.parquet")
    ]


def made(output: Output, seed: int, commit: bool = True) -> Output:
    output.claim(job(seed))
    for shard in shards(seed):
        output.write_part(shard, [pa.table({"seed": [seed], "shard": [shard.number]})], {})
    if commit:
        output.commit(job(seed), [(shard, 1) for shard in shards(seed)], {}, [f"seed {seed}"])
    return output


def is_whole(output: Output, seed: int) -> None:
    """The dataset of a seed is there, and nothing else is."""
    manifest = output.manifest()
    assert manifest is not None
    assert intact(manifest)
    assert manifest["plan"] == output.plan() == job(seed)
    expected = made(Output(Folder(f"memory://{uuid4().hex}")), seed)
    there = {name: data for name in output.data.sizes() if (data := output.data.read(name))}
    assert there == {name: expected.data.read(name) for name in expected.data.sizes()}
    assert output.folder.read("README.md") == f"seed {seed}".encode()
    assert sorted(output.done(shards(seed))) == list(range(len(shards(seed))))  # so that a lost part can be made alone
    assert len(output.receipts.names()) == len(shards(seed))


def is_clean(output: Output) -> None:
    assert set(output.folder.files()) == {
        "README.md",
        "_raygen/manifest.json",
        "_raygen/plan.json",
        *(f"_raygen/receipts/{name}" for name in output.receipts.names()),
        *(f"data/{name}" for name in output.data.sizes()),
    }
    if output.folder.local is not None:  # nor an empty folder
        names = {file.name for file in (output.folder.local / "_raygen").iterdir()}
        assert names == {"manifest.json", "plan.json", "receipts"}


def test_a_finished_dataset_takes_the_place_of_another(output: Output) -> None:
    made(output, 7)
    new = output.successor(job(8))
    assert new.folder.uri.startswith(f"{output.meta.uri}/next-")
    made(new, 8)
    is_whole(output, 7)  # untouched until now
    output.replace(new)
    is_whole(output, 8)
    is_clean(output)
    assert output.check(job(8))


def test_it_can_be_done_again_and_back(output: Output) -> None:
    made(output, 7)
    for seed in (8, 9, 7, 8):
        output.replace(made(output.successor(job(seed)), seed))
        is_whole(output, seed)
        is_clean(output)


def test_a_dataset_that_was_never_finished_is_replaced_too(output: Output) -> None:
    made(output, 7, commit=False)
    output.replace(made(output.successor(job(8)), 8))
    is_whole(output, 8)
    is_clean(output)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_until_the_new_one_is_whole_the_old_one_stays(output: Output, stop: int) -> None:
    made(output, 7)
    new = output.successor(job(8))
    new.claim(job(8))
    for shard in shards(8)[:stop]:
        new.write_part(shard, [pa.table({"seed": [8], "shard": [shard.number]})], {})
    output.recover()  # there is nothing to finish
    is_whole(output, 7)
    assert sorted(new.done(shards(8))) == list(range(stop))  # and the same command goes on with these
    output.replace(made(new, 8))
    is_whole(output, 8)
    is_clean(output)


ACTS = ("create", "write", "delete", "move")


class Crashing:
    """Raises after so many changes of the storage; a folder that is cleared loses one file at a time."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        for name in ACTS:
            patch.setattr(Folder, name, self.counted(getattr(Folder, name)))
        patch.setattr(Folder, "clear", self.clear(Folder.clear, Folder.delete))

    def counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(folder: Folder, *arguments: Any) -> Any:
            self.count()
            done = act(folder, *arguments)
            self.after()
            return done

        return counted

    def clear(self, clear: Callable[..., Any], delete: Callable[..., Any]) -> Callable[..., Any]:
        def counted(folder: Folder) -> None:
            for name in sorted(folder.files()):  # a manifest goes before a plan, which is the order that could hurt
                delete(folder, name)
            self.count()
            clear(folder)
            self.after()

        return counted

    def count(self) -> None:
        if self.left == 0:
            raise CrashError
        self.left -= 1

    def after(self) -> None:
        pass


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_killed_at_every_step_and_finished_by_the_next_one(kind: str, tmp_path: Path) -> None:
    steps = 0
    while True:
        output = made(place(kind, tmp_path), 7)
        new = made(output.successor(job(8)), 8)
        with pytest.MonkeyPatch.context() as patch:
            Crashing(patch, steps)
            try:
                output.replace(new)
            except CrashError:
                pass
            else:
                break
        again = Output(Folder(output.folder.uri))
        if (manifest := again.recorded()) is not None:  # what says that it is a dataset is one at any time
            is_whole(again, manifest["plan"]["seed"])
        again.recover()
        is_whole(again, 8 if steps else 7)
        if steps:
            is_clean(again)
        steps += 1
    is_whole(output, 8)
    assert steps > 15


@pytest.mark.parametrize("first", range(1, 20, 5))
def test_killed_twice(first: int, tmp_path: Path) -> None:
    for second in range(0, 20, 6):
        output = made(place("memory", tmp_path), 7)
        new = made(output.successor(job(8)), 8)
        for act, after in ((lambda: output.replace(new), first), (output.recover, second)):  # noqa: B023
            with pytest.MonkeyPatch.context() as patch, crashes():
                Crashing(patch, after)
                act()
        output.replace(new)
        is_whole(output, 8)
        is_clean(output)


def crashes() -> Any:
    import contextlib

    return contextlib.suppress(CrashError)


@pytest.mark.parametrize("steps", [1, 5, 9, 14])
def test_who_comes_with_another_dataset_finishes_the_first_one_before(output: Output, steps: int) -> None:
    made(output, 7)
    first, second = (made(output.successor(job(seed)), seed) for seed in (8, 9))
    with pytest.MonkeyPatch.context() as patch, crashes():
        Crashing(patch, steps)
        output.replace(first)
    Output(Folder(output.folder.uri)).replace(second)
    is_whole(output, 9)
    is_clean(output)


def racing(*acts: Callable[[], Any]) -> list[BaseException]:
    """Do some things at once; what they raised."""
    together, raised = threading.Barrier(len(acts)), []

    def run(act: Callable[[], Any]) -> None:
        together.wait()
        try:
            act()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def drivers(folder: Folder, seeds: list[int]) -> Iterator[Callable[[], Any]]:
    for seed in seeds:
        output = Output(Folder(folder.uri))
        yield lambda output=output, seed=seed: output.replace(output.successor(job(seed)))  # type: ignore[misc]


@pytest.mark.parametrize("attempt", range(4))
def test_two_drivers_of_one_job_replace_at_once(tmp_path: Path, attempt: int) -> None:
    output = made(Output(Folder(tmp_path / "out")), 7)
    made(output.successor(job(8)), 8)
    assert racing(*drivers(output.folder, [8, 8, 8])) == []
    output.recover()
    is_whole(output, 8)
    is_clean(output)


class Pausing(Crashing):
    """Lets others do something after so many changes of the storage, before it goes on."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int, others: Callable[[], Any]) -> None:
        super().__init__(patch, -1)
        self.steps, self.others, self.paused = after, others, False

    def after(self) -> None:
        self.steps -= 1
        if self.steps == -1:
            self.paused = True
            self.others()


@pytest.mark.parametrize("then", [[], [9]], ids=str)
def test_a_driver_that_was_away_for_a_while_does_no_harm(tmp_path: Path, then: list[int]) -> None:
    """Others finish what it began, and replace that in turn; then it goes on where it was."""
    for after in range(100):
        output = made(place("memory", tmp_path), 7)
        new = made(output.successor(job(8)), 8)

        def others(output: Output = output) -> None:
            Output(Folder(output.folder.uri)).recover()
            for seed in then:
                output.replace(made(output.successor(job(seed)), seed))

        with pytest.MonkeyPatch.context() as patch:
            pausing = Pausing(patch, after, others)
            output.replace(new)
        is_whole(output, [8, *then][-1] if pausing.paused else 8)
        is_clean(output)
        if not pausing.paused:
            break
    assert after > 12


def lost(output: Output) -> None:
    """Whoever still works for the seed 7 is told so, and changes nothing of the dataset of the seed 8."""
    for act in (
        lambda: output.write_part(shards(7)[0], [pa.table({"seed": [7], "shard": [0]})], {}),
        lambda: output.commit(job(7), [(shard, 1) for shard in shards(7)], {}, ["seed 7"]),
    ):
        with pytest.raises(OutputError, match="has become another job's while this one was writing"):
            act()


def test_who_still_writes_what_was_replaced_is_stopped(output: Output) -> None:
    old = made(output, 7, commit=False)
    worker = Output(Folder(old.folder.uri), old.job)
    here = Output(Folder(old.folder.uri))
    here.replace(made(here.successor(job(8)), 8))
    for late in (old, worker):
        lost(late)
    is_whole(here, 8)
    is_clean(here)


def test_it_is_stopped_before_the_first_part_is_replaced(tmp_path: Path) -> None:
    for after in range(100):
        old = made(place("memory", tmp_path), 7)
        here = Output(Folder(old.folder.uri))
        new = made(here.successor(job(8)), 8)
        taken = here.data.read(shards(8)[0].file)
        with pytest.MonkeyPatch.context() as patch, crashes():
            Crashing(patch, after)
            here.replace(new)
        if here.data.read(shards(8)[0].file) != taken:
            break
    lost(old)
    here.recover()
    is_whole(here, 8)
    assert after > 1


@pytest.mark.parametrize(
    "text", ["{}", '{"from": null}', '{"from": ".."}', '{"from": "next-"}', '{"from": "next-0123456789ab/../.."}']
)
def test_an_edited_mark_moves_nothing(output: Output, text: str) -> None:
    made(output, 7)
    output.meta.write("moving.json", text.encode())
    for act in (output.recover, lambda: output.replace(made(output.successor(job(8)), 8))):
        with pytest.raises(OutputError, match=r"moving.json: does not say what is to be moved any more"):
            act()
    is_whole(output, 7)


def test_a_zombie_makes_nothing_where_the_next_dataset_was(output: Output) -> None:
    new = made(made(output, 7).successor(job(8)), 8)
    output.replace(new)
    with pytest.raises(OutputError, match="was moved or removed while it was written"):
        new.write_part(shards(8)[0], [pa.table({"seed": [8], "shard": [0]})], {})
    is_whole(output, 8)
    assert new.folder.files() == {}


def test_a_replacement_right_before_the_manifest(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    made(output, 7, commit=False)
    write = Folder.write

    def replaced(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, data)
        if name == "README.md":
            monkeypatch.setattr(Folder, "write", write)
            here = Output(Folder(output.folder.uri))
            here.replace(made(here.successor(job(8)), 8))

    monkeypatch.setattr(Folder, "write", replaced)
    with pytest.raises(OutputError, match="another job's"):
        output.commit(job(7), [(shard, 1) for shard in shards(7)], {}, ["seed 7"])
    is_whole(output, 8)
    is_clean(output)


def test_a_move_whose_mark_another_has_deleted(tmp_path: Path) -> None:
    """Who has finished deletes it; where the answer is lost that is repeated, over the mark of whoever came next. Then two
    datasets take one place: the manifest of one is there, or none, and the same command makes what was lost."""
    refused = 0
    for after in range(100):
        output = made(place("memory", tmp_path), 7)
        new, next_ = (made(output.successor(job(seed)), seed) for seed in (8, 9))

        def others(output: Output = output, next_: Output = next_) -> None:
            output.meta.delete("moving.json")
            output.meta.create("moving.json", b'{"from": "%s"}' % next_.folder.name.encode())

        with pytest.MonkeyPatch.context() as patch:
            pausing = Pausing(patch, after, others)
            try:
                output.replace(new)
            except OutputError:
                refused += 1
        if not pausing.paused:
            break
        output.recover()
        if output.recorded() is None:
            assert output.plan() == job(8)
            made(output, 8)
        is_whole(output, 9 if output.plan() == job(9) else 8)
        is_clean(output)
    assert after > 12
    assert 0 < refused < after


@pytest.mark.parametrize("left", ["data/part-00000.parquet", "README.md"])
def test_what_is_left_of_the_next_dataset_blocks_nobody(output: Output, left: str) -> None:
    """A worker of its job, or a driver that was killed while it cleared the folder, may leave something without a plan."""
    made(output, 7)
    output.successor(job(8)).folder.write(left, b"old")
    output.replace(made(output.successor(job(8)), 8))
    is_whole(output, 8)
    is_clean(output)


def test_who_comes_later_clears_nothing_that_is_claimed(output: Output) -> None:
    made(output, 7)
    new = made(output.successor(job(8)), 8, commit=False)
    assert sorted(output.successor(job(8)).done(shards(8))) == sorted(new.done(shards(8))) == [0, 1, 2, 3]
