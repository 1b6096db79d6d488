"""``augment``: write a dataset of generated rows with Ray Data, exactly once.

The plan says what every shard holds; actors make the shards that have no receipt yet; the manifest commits them. Nothing
depends on how many actors there are, on their order, or on how often a shard is made.
"""

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raygen.datasets import stream
from raygen.datasets.commit import MADE_BY, Output, chunks
from raygen.datasets.schema import features_metadata
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.generators.generator import Generator, versions
from raygen.jobs import evaluate, progress
from raygen.jobs.plan import Plan, balanced, proportional
from raygen.jobs.project import Project

ROWS_AT_ONCE = 1024


def plan(project: Project, generator: Generator) -> Plan:
    """The plan of what the spec asks of a generator: as many rows of each class as of any other with ``balance``, else in
    the proportions of the training data; exactly, either way."""
    asked = project.augment
    if generator.spec.condition is None:
        return Plan(asked.rows, asked.seed, asked.shard_rows, None)
    training = generator.codec.categories[generator.spec.condition].counts
    counts = (balanced if asked.balance else proportional)(asked.rows, training)
    return Plan(asked.rows, asked.seed, asked.shard_rows, counts)


def augment(project: Project) -> dict[str, Any]:
    """Write the dataset that the spec asks for with its trained generator, or go on with it, or find that it is done.

    Returns:
        The manifest: rows, counts by class, and every part with its rows, bytes and SHA-256.

    Raises:
        OutputError: the output belongs to another job, or cannot be written.
        RaygenError: no generator has been trained.
    """
    artifact = project.trained()
    _check_gate(project)
    generator = Generator.load(artifact.uri, device="cpu")
    planned = plan(project, generator)
    document = project.claim_document(generator.digest, planned)
    output = project.output
    if (manifest := _written(output, document)) is not None:
        return manifest
    output.folder.check_writable()
    document[MADE_BY] = {**versions(), "device": "cuda" if _resources()[0] else "cpu"}
    output.claim(document)
    done = output.done()
    _check_maker(output, document[MADE_BY], bool(done))
    todo = [index for index in range(planned.shards) if index not in done]
    _write(project, planned, artifact, output, todo)
    return output.commit(document, _card(project, generator, planned))


def sample(project: Project, wanted: range) -> pa.Table:
    """Rows of the dataset that the spec asks for, as ``augment`` writes them, whether or not it has.

    Raises:
        RaygenError: no generator has been trained, or there are no such rows.
    """
    generator = Generator.load(project.trained().uri)
    planned = plan(project, generator)
    if wanted.step != 1 or not 0 <= wanted.start < wanted.stop <= planned.rows:
        raise RaygenError(f"{wanted} is not a range of rows of this dataset", f"it has the rows 0 to {planned.rows - 1}")
    return pa.concat_tables(rows(generator, planned, wanted))


def _check_gate(project: Project) -> None:
    """Nothing is written by a generator that has not passed the spec's gate."""
    if project.spec.gate:
        report = evaluate.evaluated(project)
        if report is None:
            raise RaygenError(f"{project.spec.name}: has a gate, and is not evaluated yet", "first: raygen evaluate SPEC")
        evaluate.check_gate(report)


def _check_maker(output: Output, here: dict[str, str], begun: bool) -> None:
    """Bits are the same on one device type and one version of the libraries: a dataset is not made with two."""
    there = (output.plan() or {}).get(MADE_BY, here)
    if begun and there != here:
        different = [key for key in here if there.get(key) != here[key]]
        shown = ", ".join(f"{key} {there.get(key)} there, {here[key]} here" for key in different)
        raise OutputError(
            f"{output.folder.uri}: was begun with other means ({shown}), which need not make the same bits",
            "go on with those, or remove that folder",
        )


def _resources() -> tuple[int, int]:
    """GPUs and CPUs of the cluster."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))


def written(project: Project) -> dict[str, Any] | None:
    """The manifest of the dataset that the spec asks for, where it is committed and whole; else None.

    Raises:
        OutputError: the output belongs to another job.
    """
    generator = Generator.load(project.trained().uri, device="cpu")
    return _written(project.output, project.claim_document(generator.digest, plan(project, generator)))


def _written(output: Output, document: dict[str, Any]) -> dict[str, Any] | None:
    return output.manifest() if output.check(document) else None


def _write(project: Project, planned: Plan, artifact: Folder, output: Output, todo: list[int]) -> None:
    if not todo:
        return
    import ray.data

    gpus, cpus = _resources()
    asked = project.augment.workers
    workers = min(len(todo), (gpus or cpus) if asked == "auto" else asked)
    # In-memory items need no read task, so actors may hold every CPU; more actors than CPUs share them.
    items = ray.data.from_items([{"shard": index} for index in todo], override_num_blocks=len(todo))
    receipts = items.map_batches(
        _Writer,
        fn_constructor_args=(artifact.uri, planned, output.folder.uri),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1 / math.ceil(workers / cpus),
        num_gpus=1 / math.ceil(workers / gpus) if gpus else None,
    )
    rows = planned.rows - sum(len(planned.shard(index).rows) for index in todo)
    with progress.bar("augment", planned.rows, "rows", rows) as shown, stream.user_errors():
        for row in receipts.iter_rows():
            rows += row["rows"]
            shown.update(rows, f"{workers} worker{'s' if workers > 1 else ''}")


class _Writer:
    """Makes shards: loads the generator once, by its URI."""

    def __init__(self, artifact: str, planned: Plan, output: str) -> None:
        self.generator = Generator.load(artifact)
        self.plan, self.output = planned, Output(Folder(output))

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        written = []
        for index in map(int, items["shard"]):
            shard = self.plan.shard(index)
            about = {
                "raygen.generator": self.generator.digest,
                "raygen.seed": str(self.plan.seed),
                "raygen.rows": f"{shard.rows.start}-{shard.rows.stop}",
            }
            tables = rows(self.generator, self.plan, shard.rows)
            self.output.write_part(index, shard.name, shard.rows, tables, about, self.generator.spec.condition)
            written.append(len(shard.rows))
        return {"rows": written}


def rows(generator: Generator, planned: Plan, wanted: range) -> Iterator[pa.Table]:
    """Rows of a plan, a piece at a time, with their addresses in the column ``_row``."""
    for piece in chunks(wanted, ROWS_AT_ONCE):
        made = generator.tensors(piece, planned.seed, planned.classes(piece))
        table = generator.codec.decode(made).append_column(stream.ROW, pa.array(piece, pa.int64()))
        yield table.cast(features_metadata(table.schema))


def _card(project: Project, generator: Generator, planned: Plan) -> list[str]:
    size = "n<1K" if planned.rows < 1000 else "1K<n<10K" if planned.rows < 10_000 else "10K<n<100K"
    size = size if planned.rows < 100_000 else "100K<n<1M" if planned.rows < 1_000_000 else "n>1M"
    lines = [
        "---",
        "tags: [synthetic-data, raygen]",
        f"size_categories: [{size}]",
        "configs: [{config_name: default, data_files: data/*.parquet}]",
        "---",
        f"# {project.spec.name}: {planned.rows:,} synthetic rows",
        "",
        f"Made by a `{generator.spec.family}` generator with digest `{generator.digest}` and seed {planned.seed}, which",
        f"learnt from {generator.lineage.get('rows', '?')} rows of `{project.spec.dataset.path}`. No row is real; rows can",
        "resemble real ones. Any row can be made again from the generator, the seed and its number, the column `_row`.",
    ]
    if planned.counts is not None and generator.spec.condition is not None:
        values = generator.codec.categories[generator.spec.condition].values
        lines += ["", f"| {generator.spec.condition} | rows |", "|---|---|"]
        lines += [f"| {value} | {count:,} |" for value, count in zip(values, planned.counts, strict=True)]
    return [*lines, ""]
