"""``verify``: is a dataset what its manifest says, and its rows what its generator makes? Down to the row of the file."""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import NonNegativeInt, TypeAdapter, ValidationError, conlist

from raygen.datasets import images, parquet, stream
from raygen.datasets.commit import Output, differing, intact, row_groups
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError
from raygen.generators.base import TILE
from raygen.generators.generator import Generator, default_device, versions
from raygen.jobs import augment, progress, ready, shard_workers, waiting
from raygen.jobs.plan import Plan, Shard, plan
from raygen.jobs.shards import ROWS_AT_ONCE, VARIANT
from raygen.machines import Resources
from raygen.resources import Demand
from raygen.spec import AugmentSpec, ImageField

TOLERANCE = 2
"""How far a pixel, 0 to 255, may be off where the rows were made by another device type or other library versions."""
READ_AT_ONCE, FILES_AT_ONCE = 8 << 20, 1000


@dataclass
class Result:
    """What was found.

    Attributes:
        problems: one line each: which file, which row of it, and what is wrong; none where all is well.
        rows: in the dataset.
        parts: files.
        bytes: of all files, each of which was read.
        made_again: rows that were made again and compared.
        exact: whether they had to be the same bit for bit, as rows of tables always have, or within :data:`TOLERANCE`.
    """

    problems: list[str] = field(default_factory=list)
    rows: int = 0
    parts: int = 0
    bytes: int = 0
    made_again: int = 0
    exact: bool = True


class Check(NamedTuple):
    """Rows to make again: a shard, or some of its rows, and at which row of the file they begin."""

    shard: Shard
    at: int


def verify(folder: Folder, rows: int | None = 1000, generator: Folder | None = None) -> Result:
    """Check a dataset.

    Every file is compared with the manifest (bytes, SHA-256, rows in its footer). Then rows are made again from the
    generator and compared: those of a file that is not as committed, and a random choice of the others.

    Args:
        folder: what ``augment`` wrote.
        rows: how many to make again, at least; None for all, which takes Ray; 0 for none.
        generator: the artifact, where it is not where it was.

    Raises:
        OutputError: there is no committed dataset, or what it was made from is not there any more.
    """
    folder.check_answers()
    output = Output(folder)
    manifest = output.recorded()
    if manifest is None:
        raise OutputError(
            f"{folder.uri}: there is no committed dataset (no _raygen/manifest.json)",
            "give the folder that augment wrote; if it was interrupted, run augment again",
        )
    result = Result(parts=len(manifest["parts"]))
    result.problems += _of_manifest(output, manifest)
    broken = _of_files(output, manifest, result)
    if rows == 0:
        return result
    with tempfile.TemporaryDirectory() as elsewhere:  # where a sample dataset is written, if that is what was varied
        work, shards, made_by, counts = _work(output, manifest, generator, Folder(elsewhere))
        made_there = manifest["plan"].get("made_by") or {}
        gpus = 0
        if rows is None:  # by the workers of a cluster, on the kind of device that the rows were made by, where there is one
            gpus = augment.resources()[0] if made_there.get("device") == "cuda" else 0
            made_by["device"] = "cuda" if gpus else "cpu"
        result.exact = made_there == made_by or work.maker("cpu").is_table
        result.problems += _of_plan(work.plan, shards, counts, manifest)
        listed = {part["file"] for part in manifest["parts"]}
        whole = [shard for shard in shards if shard.file in listed and shard.file not in broken]
        checks = [Check(shard, 0) for shard in shards if broken.get(shard.file)]
        checks += _some(whole, rows, work.plan) if rows is not None else [Check(shard, 0) for shard in whole]
        total = sum(work.plan.size(check.shard) for check in checks)
        with progress.bar("verify", total, "rows") as shown:
            for made, problems in (
                _spread(checks, work, result.exact, gpus) if rows is None else _one_by_one(checks, work, result.exact)
            ):
                result.made_again += made
                result.problems += problems
                shown.update(result.made_again)
    return result


def _of_manifest(output: Output, manifest: dict[str, Any]) -> Iterator[str]:
    """What the manifest says against itself and against the plan."""
    where = f"{output.meta.name}/manifest.json"
    if not intact(manifest):
        yield f"{where}: was changed after it was committed (its digest does not fit)"
    plan = _plan(output)
    if plan is None:
        yield f"{output.meta.name}/plan.json: is missing, or no plan any more"
    elif differences := differing(plan, manifest["plan"]):
        yield f"{where}: its plan is not that of plan.json ({'; '.join(differences)})"
    for key in ("rows", "bytes"):
        total = sum(part.get(key, 0) for part in manifest["parts"])
        if manifest.get(key) != total:
            yield f"{where}: says {manifest.get(key)} {key}, but its parts have {total}"


def _plan(output: Output) -> dict[str, Any] | None:
    try:
        return output.plan()
    except OutputError:
        return None


def _of_files(output: Output, manifest: dict[str, Any], result: Result) -> dict[str, bool]:
    """Compare every file with the manifest. Returns those that are not as committed, and whether they are there."""
    sizes = output.data.sizes()
    listed = {part["file"]: part for part in manifest["parts"]}
    result.problems += [
        f"data/{name}: is not in the manifest" for name in sorted(sizes.keys() - listed.keys()) if not name.endswith(".tmp")
    ]
    broken: dict[str, bool] = {}
    with progress.bar("read", len(listed), "files") as shown:
        looked_at = _looked_at(output, (name if name in sizes else None for name in listed))
        for done, ((name, part), (sha256, found)) in enumerate(zip(listed.items(), looked_at, strict=True), 1):
            if name not in sizes:
                result.problems.append(f"data/{name}: is missing")
                broken[name] = False
            elif sizes[name] != part["bytes"] or sha256 != part.get("sha256"):
                how = f"{sizes[name]} bytes" if sizes[name] != part["bytes"] else f"SHA-256 {sha256[:12]}…"
                committed = f"{part['bytes']}" if sizes[name] != part["bytes"] else f"{str(part.get('sha256'))[:12]}…"
                result.problems.append(f"data/{name}: has {how}, {committed} was committed")
                broken[name] = True
            result.bytes += sizes.get(name, 0)
            if found is not None:
                result.rows += found
                if found != part.get("rows"):
                    result.problems.append(f"data/{name}: has {found} rows, the manifest says {part.get('rows')}")
            shown.update(done)
    return broken


def _looked_at(output: Output, names: Iterable[str | None]) -> Iterator[tuple[str, int | None]]:
    """The SHA-256 of each file and the rows that its footer tells, by several threads; some files at a time, since there can
    be a million. Of no file, nothing."""

    def read(name: str | None) -> tuple[str, int | None]:
        return ("", None) if name is None else (_sha256(output, name), _footer_rows(output, name))

    names = iter(names)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        while some := list(itertools.islice(names, FILES_AT_ONCE)):
            yield from threads.map(read, some)


def _sha256(output: Output, name: str) -> str:
    state = hashlib.sha256()
    with output.data.reader(name) as file:
        while data := file.read(READ_AT_ONCE):
            state.update(data)
    return state.hexdigest()


def _footer_rows(output: Output, name: str) -> int | None:
    """How many rows a file says it has; None where its footer cannot be read, which its hash has told."""
    try:
        return int(parquet.read_footer(output.data, name).num_rows)
    except DataError:
        return None


def _work(
    output: Output, manifest: dict[str, Any], generator: Folder | None, elsewhere: Folder
) -> tuple[shard_workers.Work, list[Shard], dict[str, str], dict[str, int]]:
    """What the dataset was made by, from what its plan says: where they are, and what was asked. Also the means
    of this machine, which need not make the same bits as those that made it, and how many rows of each class there are."""
    job = manifest["plan"] if intact(manifest) else _plan(output) or manifest["plan"]
    if missing := [key for key in ("generator", "artifact", "augment", "counts", "source", "data") if key not in job]:
        raise OutputError(
            f"{output.meta.uri}/plan.json: is not a plan of augment's any more (it has no {missing[0]!r})",
            "restore it, or compare no rows with --rows 0",
        )
    beside = Folder(output.folder.uri.rpartition("/")[0]) / "generators" / str(job["generator"])
    place = generator or next((f for f in (Folder(job["artifact"]), beside) if f.exists("generator.json")), None)
    if place is None:
        raise OutputError(
            f"{output.folder.uri}: its generator is not at {job['artifact']} any more",
            "say where with --generator, or compare no rows with --rows 0",
        )
    made = Generator.load(place.uri, device="cpu")
    if made.digest != job["generator"]:
        raise OutputError(
            f"{place.uri}: has the digest {made.digest[:12]}…, the dataset was made by {job['generator'][:12]}…",
            "give the generator that made it",
        )
    counts, condition = job["counts"], made.spec.condition
    classes = 0 if condition is None else len(made.codec.categories[condition].values)
    try:
        source = {"source": job["source"]} if job["augment"].get("complete") else {}  # elsewhere a plan leaves it out
        asked, real = AugmentSpec.model_validate({**job["augment"], **source}), None
        if counts is not None:
            TypeAdapter(conlist(NonNegativeInt, min_length=classes, max_length=classes)).validate_python(counts)
    except ValidationError:
        raise OutputError(
            f"{output.meta.uri}/plan.json: is not a plan of augment's any more (what it asks for cannot be read)",
            "restore it, or compare no rows with --rows 0",
        ) from None
    if job["source"] is not None:
        real = stream.scan(job["source"], elsewhere)
        if real.fingerprint != job["data"]:
            raise DataError(
                f"{job['source']}: was changed since the dataset was made of it", "compare no rows with --rows 0"
            )
    planned = plan(asked, made, real, counts)
    here = {**versions(made.spec), "device": default_device().type}
    return shard_workers.work(asked, planned, place, output), list(planned), here, augment.by_class(made, planned)


def _of_plan(planned: Plan, shards: list[Shard], counts: dict[str, int], manifest: dict[str, Any]) -> Iterator[str]:
    """Whether the manifest lists what the plan says."""
    if manifest.get("counts") != counts:
        yield f"_raygen/manifest.json: says that there are {manifest.get('counts')} rows of each class, not {counts}"
    listed = {part["file"]: part for part in manifest["parts"]}
    expected = {shard.file: planned.size(shard) for shard in shards}
    for name in sorted(expected.keys() - listed.keys()):
        yield f"_raygen/manifest.json: does not list data/{name}, which belongs to the dataset"
    for name in sorted(listed.keys() - expected.keys()):
        yield f"_raygen/manifest.json: lists data/{name}, which does not belong to the dataset"
    for name in sorted(expected.keys() & listed.keys()):
        if listed[name].get("rows") != expected[name]:
            yield f"_raygen/manifest.json: says that data/{name} has {listed[name].get('rows')} rows, not {expected[name]}"


def _some(shards: list[Shard], rows: int, planned: Plan) -> list[Check]:
    """At least so many rows, chosen anew each time, of as many files as there are tiles of them."""
    draw = np.random.default_rng()
    chosen: dict[int, int] = {}
    left, order = min(rows, sum(map(planned.size, shards))), draw.permutation(len(shards)).tolist()
    wanted = min(len(shards), -(-rows // TILE))
    share = -(-rows // max(1, wanted))
    for index in (*order[:wanted], *order, *order):  # where these files have too few, then of others; at last all of each
        if left <= 0:
            break
        shard = shards[index]
        copies = planned.size(shard) // len(shard.rows)
        size = len(shard.rows) if index in chosen else min(len(shard.rows), -(-share // copies))
        left -= (size - chosen.get(index, 0)) * copies
        chosen[index] = size
    checks = []
    for index, size in sorted(chosen.items()):
        shard = shards[index]
        first = int(draw.integers(0, len(shard.rows) - size + 1))
        split = shard.split and shard.split._replace(skip=shard.split.skip + first, row=shard.split.row + first)
        start = shard.start + first
        at = first * (planned.size(shard) // len(shard.rows))
        checks.append(Check(shard._replace(start=start, stop=start + size, split=split), at))
    return checks


def _one_by_one(checks: list[Check], work: shard_workers.Work, exact: bool) -> Iterator[tuple[int, list[str]]]:
    checker = _Checker(work, exact)
    return (checker.check(check) for check in checks)


def _spread(checks: list[Check], work: shard_workers.Work, exact: bool, gpus: int) -> Iterator[tuple[int, list[str]]]:
    """The same by so many GPUs of the cluster, or by all of its CPUs."""
    import ray.data

    ready.require_paths({"OUT": work.output, "generator": work.artifact})
    _, cpus = augment.resources()
    waiting.for_room(Demand("verify", 1, 1, Resources(cpus=0 if gpus else 1, gpus=1 if gpus else 0), given=False))
    workers = max(1, min(len(checks), gpus or cpus))
    items = [{"shard": check.shard.to_json(), "at": check.at} for check in checks]
    found = ray.data.from_items(items, override_num_blocks=shard_workers.tasks(len(items), workers)).map_batches(
        _Checker,
        fn_constructor_args=(work, exact, "cuda" if gpus else "cpu"),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else None,
    )
    with stream.user_errors():
        for row in found.iter_rows():
            yield row["rows"], json.loads(row["problems"])


class _Checker:
    """Makes rows again and compares them with those of the file."""

    def __init__(self, work: shard_workers.Work, exact: bool, device: str | None = None) -> None:
        self.maker, self.output, self.exact = work.maker(device), Output(Folder(work.output)), exact

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        checks = (Check(Shard.from_json(text), int(at)) for text, at in zip(items["shard"], items["at"], strict=True))
        found = [self.check(check) for check in checks]
        return {"rows": [rows for rows, _ in found], "problems": [json.dumps(problems) for _, problems in found]}

    def check(self, check: Check) -> tuple[int, list[str]]:
        """How many rows were made again, and what was found: the first row that differs, and how many do."""
        size, name = self.maker.plan.size(check.shard), f"data/{check.shard.file}"
        first: tuple[int, str] | None = None
        differing_rows, row = 0, check.at
        made = row_groups(self.maker.tables(check.shard), ROWS_AT_ONCE)
        try:
            for there in self._read(check.shard.file, check.at, size):
                here = next(made)
                for index, columns in self._different(there, here):
                    differing_rows += 1
                    first = first or (row + index, self._told(here, index, columns))
                row += len(there)
        except DataError as error:
            why = error.what.removeprefix(f"{self.output.data.uri}/{check.shard.file}").lstrip(",: ")
            return size, [f"{name}: rows from {row} on: {why}"]
        if first is None:
            return size, []
        more = f"; {differing_rows} rows of {size} looked at differ" if differing_rows > 1 else ""
        return size, [f"{name}, row {first[0]}: {first[1]}{more}"]

    def _read(self, file: str, at: int, rows: int) -> Iterator[pa.Table]:
        groups = parquet.read_footer(self.output.data, file).num_row_groups
        uri = f"{self.output.data.uri}/{file}"
        yield from row_groups(parquet.read_rows(uri, range(groups), at, rows, ROWS_AT_ONCE), ROWS_AT_ONCE)

    def _different(self, there: pa.Table, here: pa.Table) -> Iterator[tuple[int, list[str]]]:
        """The rows that are not the same, and in which columns."""
        if there.equals(here):
            return
        if there.schema.names != here.schema.names or there.schema.types != here.schema.types or len(there) != len(here):
            yield 0, [f"the columns are {_kinds(there)} instead of {_kinds(here)}"]
            return
        columns: dict[int, list[str]] = {}
        for name in here.column_names:
            if not there[name].equals(here[name]):
                for index in self._unequal(name, there[name].combine_chunks(), here[name].combine_chunks()):
                    columns.setdefault(index, []).append(name)
        yield from sorted(columns.items())

    def _unequal(self, name: str, there: pa.Array, here: pa.Array) -> Iterator[int]:
        if name == self.maker.image and not self.exact:
            field = self.maker.codec.fields[name]
            assert isinstance(field, ImageField)
            try:
                pixels = [images.decode(column, field, "row {}".format).astype(np.int16) for column in (there, here)]
            except DataError:
                pass  # then no pixel can be compared
            else:
                off = np.abs(pixels[0] - pixels[1]).max(axis=(1, 2, 3))
                yield from map(int, np.flatnonzero(off > TOLERANCE))
                return
        for index in range(len(here)):
            pair = [column.slice(index, 1) for column in (there, here)]
            # Arrow finds NaN unlike NaN, and values unlike where the dictionaries that they are from are.
            if not pair[0].equals(pair[1]) and (name == self.maker.image or not _alike(*pair)):
                yield index

    def _told(self, here: pa.Table, index: int, columns: list[str]) -> str:
        address = ", ".join(
            f"{name} {here[name][index].as_py()}" for name in (stream.ROW, VARIANT) if name in here.column_names
        )
        return f"{', '.join(columns)} is not what the generator makes ({address})"


def _alike(there: pa.Array, here: pa.Array) -> bool:
    return repr(there.to_pylist()) == repr(here.to_pylist())


def _kinds(table: pa.Table) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in table.schema)
