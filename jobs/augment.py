"""``augment``: write a dataset of generated rows with Ray Data, exactly once.

The plan says what every shard holds; workers make the shards that have no receipt yet; the manifest commits them. Nothing
depends on how many workers there are, on their order, or on how often a shard is made.
"""

import functools
import json
import math
from collections import Counter, deque
from typing import Any

import pyarrow as pa

from raygen.datasets import samples, stream
from raygen.datasets.commit import Output, differing
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.generators.card import WARNING
from raygen.generators.generator import Generator, versions
from raygen.jobs import allocate, evaluate, gate, placement, progress, ready, shard_workers, waiting, workers
from raygen.jobs.plan import Plan, Shard, Shards, plan
from raygen.jobs.project import Project
from raygen.jobs.shards import Maker
from raygen.machines import Resources
from raygen.resources import Demand, room
from raygen.spec import Spec


def of_project(project: Project, generator: Generator) -> Plan:
    """The plan of what the spec asks of its generator.

    Raises:
        GateError: no row is worth making, by `allocate`.
        RaygenError: the generator cannot make it; or `allocate` has not decided yet.
    """
    asked = project.augment
    if asked.where is not None:
        generator.codec.where(asked.where)  # or fail now, before any worker does
    counts = allocate.counts(project, generator) if project.spec.allocates else None
    return plan(asked, generator, project.real if asked.of_real or asked.include_real else None, counts)


def document(project: Project, generator: Generator, planned: Plan) -> dict[str, Any]:
    """What identifies the dataset that the spec asks for (two jobs with the same may write to the same output), and where
    what it is made from lies."""
    return {
        "generator": generator.digest,
        "train": project.run.name,
        "augment": project.asked,
        "condition": generator.spec.condition,
        "shards": planned.shards,
        "rows": planned.rows,
        "counts": None if planned.new is None or planned.new.counts is None else list(planned.new.counts),
        "data": None if planned.of is None else project.real.fingerprint,
        "artifact": project.trained().uri,
        "source": None if planned.of is None else _place(project.augment.source or project.spec.dataset.path),
    }


def _place(path: str) -> str:
    """Where a source lies, for whoever asks from another folder."""
    return path if path.startswith(samples.PREFIX) else Folder(path).uri


def augment(project: Project) -> dict[str, Any]:
    """Write the dataset that the spec asks for with its trained generator, or go on with it, or find that it is done.

    Returns:
        The manifest: rows, counts by class, and every part with its rows, bytes and SHA-256.

    Raises:
        GateError: the generator is not good enough, or no row that it makes is worth writing.
        OutputError: the output belongs to another job, or cannot be written.
        RaygenError: no generator has been trained.
    """
    artifact = project.trained()
    _check_gate(project)
    generator = Generator.load(artifact.uri, device="cpu")
    if project.spec.allocates:
        evaluate.decide(project, generator)
    planned = of_project(project, generator)
    job = document(project, generator, planned)
    output = project.output
    if (manifest := _written(project, job)) is not None:
        return manifest
    ready.require(project.spec, "augment")
    output.folder.check_writable()
    each = _reserved(project.spec, project.augment.workers)
    job["made_by"] = {**versions(generator.spec), "device": "cuda" if each.gpus else "cpu"}
    target = output.successor(job) if _replaces(project, job) else output
    try:
        target.claim(job)
        _check_maker(target, job)
        _write(project, planned, artifact, target, each, planned.without(target.done(planned)))
        parts = ((shard, planned.size(shard)) for shard in planned)
        manifest = target.commit(job, parts, by_class(generator, planned), _card(project, generator, planned))
        if target is not output:
            output.replace(target)
    except OutputError:
        # Another attempt may have put it in place meanwhile, and so taken it away where this one was writing.
        if target is output or (known := _written(project, job)) is None:
            raise
        manifest = known
    if target is not output:
        target.folder.clear()  # what an attempt that did not know has begun there anew
    return manifest


def sample(project: Project, wanted: range) -> pa.Table:
    """New rows of the dataset that the spec asks for, as ``augment`` writes them, whether or not it has.

    Raises:
        RaygenError: no generator has been trained, or there are no such rows.
    """
    generator = Generator.load(project.trained().uri)
    planned = of_project(project, generator)
    if planned.new is None:
        raise RaygenError("this dataset has variants of real rows, and no new ones", "read them from the dataset")
    start, stop = planned.new.start, planned.new.start + planned.new.rows
    if wanted.step != 1 or not start <= wanted.start < wanted.stop <= stop:
        raise RaygenError(f"{wanted} is not a range of rows of this dataset", f"it has the rows {start} to {stop - 1}")
    asked = project.augment
    maker = Maker(generator, planned, asked.seed, 0, asked.format, asked.where)
    return pa.concat_tables(maker.tables(Shard(0, "", wanted.start, wanted.stop)))


def _check_gate(project: Project) -> None:
    """Nothing is written by a generator that has not passed the spec's gate."""
    if project.spec.gate:
        # Which rows are added makes no difference to a gate that does not ask what they are good for.
        report = evaluate.evaluated(project, augment=any(rule.metric == "lift" for rule in project.spec.gate))
        if report is None:
            raise RaygenError(f"{project.spec.name}: has a gate, and is not evaluated yet", "first: raygen evaluate SPEC")
        gate.check(report)


def _check_maker(output: Output, job: dict[str, Any]) -> None:
    """Bits are the same on one device type and one version of the libraries: a dataset is not made with two."""
    if different := _other_means(output.plan() or {}, job):
        raise OutputError(
            f"{output.folder.uri}: was begun with other means ({'; '.join(different)}), which need not make the same bits",
            "go on with those, or begin anew with --overwrite",
        )


def _other_means(found: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """What differs between the means that two jobs use, where both say."""
    there, here = (plan.get("made_by", {}) for plan in (found, job))
    return differing(there, here) if there and here else []


def resources() -> tuple[int, int]:
    """GPUs and CPUs of the cluster."""
    totals = placement.totals()
    return int(totals["GPU"]), max(1, int(totals["CPU"]))


def written(project: Project) -> dict[str, Any] | None:
    """The manifest of the dataset that the spec asks for, where it is committed and whole; else None.

    Raises:
        OutputError: the output belongs to another job.
        GateError: its generator is not good enough, by a gate that may be newer.
    """
    _check_gate(project)
    generator = Generator.load(project.trained().uri, device="cpu")
    if project.spec.allocates and allocate.decided(project, generator) is None:
        return None
    return _written(project, document(project, generator, of_project(project, generator)))


def _written(project: Project, job: dict[str, Any]) -> dict[str, Any] | None:
    project.output.recover()
    if _replaces(project, job):
        return None
    return project.output.manifest() if project.output.check(job) else None


def _replaces(project: Project, job: dict[str, Any]) -> bool:
    """Whether another job's dataset, or one of other means, is there, and may be replaced."""
    found = project.output.plan() if project.overwrite else None
    return found is not None and bool(differing(found, job) or _other_means(found, job))


def _write(project: Project, planned: Plan, artifact: Folder, output: Output, each: Resources, todo: Shards) -> None:
    """Have the shards made by workers for each of which so much is reserved, and show how it goes."""
    if not todo:
        return
    import ray.data

    size = _pool(project.augment.workers, len(todo), each)
    demand = Demand("augment", 1, size, each, given=project.spec.resources.augment is not None)
    waiting.for_room(demand)
    # In-memory items need no read task, so workers may hold every CPU.
    shards: Any = shard_workers.Items(todo)
    items = ray.data.from_items(shards, override_num_blocks=shard_workers.tasks(len(todo), size))
    work = shard_workers.work(project.augment, planned, artifact, output)
    receipts = (shard_workers.streamed if each.gpus else shard_workers.fused)(items, work, size, each)
    rows = planned.rows - sum(planned.size(shard) for shard in todo)
    retried, latest, seen = 0, deque[str](), Counter[str]()
    gone = functools.partial(placement.is_nowhere, each)
    with progress.bar("augment", planned.rows, "rows", rows) as shown, stream.user_errors(), waiting.told(demand, gone):
        for row in receipts.iter_rows():
            rows += row["rows"]
            retried += row["retried"]
            latest.append(row["worker"])
            seen[row["worker"]] += 1
            if len(latest) > 2 * size:
                seen -= Counter([latest.popleft()])
            note = f"{len(seen)} worker{'s' if len(seen) > 1 else ''}"
            shown.update(rows, note + (f", {retried} shard{'s' if retried > 1 else ''} retried" if retried else ""))


def _reserved(spec: Spec, asked: int | str) -> Resources:
    """What is reserved for each worker: as the spec says; else a GPU, where there are any, or a CPU, or a share of one."""
    if spec.resources.augment is not None:
        return spec.resources.augment
    gpus, cpus = resources()
    # More workers than GPUs, or CPUs, share them.
    share = 1 if asked == "auto" else 1 / math.ceil(int(asked) / (gpus or cpus))
    return Resources(cpus=0.0, gpus=share) if gpus else Resources(cpus=share)


def _pool(asked: int | str, shards: int, each: Resources) -> int:
    """How many workers there are to be."""
    nodes = placement.nodes()
    now, ever = room(each, nodes, now=True), room(each, nodes)
    comes = any(not node.told or placement.GROUP in node.labels for node in nodes)
    # Where nobody says that nodes come, some may come by hand.
    more = 0 if placement.is_own() else None if comes else max(ever - now, now)
    return workers.pool(asked, shards, now, more)


def by_class(generator: Generator, planned: Plan) -> dict[str, int]:
    """Rows by class, of new rows."""
    if planned.new is None or planned.new.counts is None or generator.spec.condition is None:
        return {}
    values = map(json.dumps, generator.codec.categories[generator.spec.condition].values)
    return {value: n for value, n in zip(values, planned.new.counts, strict=True) if n}


def _card(project: Project, generator: Generator, planned: Plan) -> list[str]:
    size = "n<1K" if planned.rows < 1000 else "1K<n<10K" if planned.rows < 10_000 else "10K<n<100K"
    size = size if planned.rows < 100_000 else "100K<n<1M" if planned.rows < 1_000_000 else "n>1M"
    asked = project.augment
    kind = "synthetic rows" if not asked.include_real else "synthetic and real rows"
    lines = [
        "---",
        "tags: [synthetic-data, raygen]",
        f"size_categories: [{size}]",
        f"configs: [{{config_name: default, data_files: data/{'**/' if asked.format.partition_by else ''}*.parquet}}]",
        "---",
        f"# {project.spec.name}: {planned.rows:,} {kind}",
        "",
        f"Made by a `{generator.spec.family}` generator with digest `{generator.digest}` and seed {asked.seed}, which",
        f"learnt from {generator.lineage.get('rows', '?')} rows of `{project.spec.dataset.path}`. Synthetic rows can",
        "resemble real ones. Any of them can be made again from the generator, the seed and its number, the column `_row`.",
        "",
        WARNING,
    ]
    if asked.variants:
        lines.append(
            f"Each is one of {asked.variants} variants, the column `_variant`, of the row of that number of "
            f"`{asked.source or project.spec.dataset.path}`, whose other columns it has."
        )
    if asked.where:
        lines += [f"In all of them {name} is {wanted}." for name, wanted in asked.where.items()]
    if asked.complete:
        lines.append(f"What was known of them is that of `{asked.source}`; the rest was filled in.")
    if asked.include_real:
        lines.append("The column `_source` tells real rows from synthetic ones.")
    if counts := by_class(generator, planned):
        lines += ["", f"| {generator.spec.condition} | synthetic rows |", "|---|---|"]
        lines += [f"| {json.loads(value)} | {count:,} |" for value, count in counts.items()]
    return [*lines, ""]
