"""``run``: train, evaluate, gate, promote, augment, report; each step finds out by itself whether it is done."""

from raygen.errors import RaygenError
from raygen.jobs import augment, evaluate, gate, ready, report, train
from raygen.jobs.project import Project
from raygen.jobs.registry import Registry


def up_to_date(project: Project) -> bool:
    """Whether a run would find everything done, for the same data and spec; asked without starting Ray.

    Raises:
        GateError: it is done, and was not good enough.
    """
    if project.result() is None or (evaluation := evaluate.evaluated(project)) is None or not report.current(project):
        return False
    gate.check(evaluation)
    if Registry(project.folder).promoted(evaluation["generator"]) is None:
        return False
    return project.spec.augment is None or augment.written(project) is not None


def run(project: Project) -> None:
    """The whole job.

    Raises:
        RaygenError: what a step raises; a GateError when the generator is not good enough, before anything is published.
    """
    report.require()
    evaluate.require(project.spec)
    if left := _left(project):
        ready.require(project.spec, *left)
    project.check_outputs()
    train.train(project)
    evaluation = evaluate.evaluate(project)
    report.write(project)
    gate.check(evaluation)
    # Once only: a rollback is not undone by running again, nor by an attempt that was away for a while.
    Registry(project.folder).promote(evaluation["generator"], evaluation=evaluation, first=True)
    if project.spec.augment is not None:
        augment.augment(project)
        report.write(project)


def _left(project: Project) -> list[str]:
    """The jobs that are not done, which machines have to be there for."""
    left = ["augment"] * (project.spec.augment is not None)
    if project.result() is None:
        return ["train", "evaluate", *left]
    return [*["evaluate"] * (evaluate.evaluated(project) is None), *left]


def describe(project: Project) -> list[tuple[str, str]]:
    """What a run would do, as pairs of name and text, without doing any of it.

    Raises:
        DataError: the dataset is not what the spec says.
    """
    spec, source = project.spec, project.source
    train_ = spec.train
    lines = [
        ("data", f"{source.rows:,} rows in {len(source.files)} files, about {spec.dataset.holdout:.0%} held out"),
        (
            "train",
            f"{train_.epochs} epochs in batches of {train_.batch_size}, workers: {train_.workers} -> {project.run.uri}",
        ),
        ("", "done" if project.result() else "not done" if not (project.run / "checkpoints").names() else "begun"),
        ("evaluate", f"{len(spec.gate)} gate rules -> {project.report.uri}"),
        ("promote", f"if it passes, unless it once was -> {project.folder.uri}/registry"),
    ]
    if spec.augment is not None:
        lines += [
            ("augment", f"{_asked(project)}, workers: {spec.augment.workers} -> {project.output.folder.uri}"),
            ("", _existing(project)),
        ]
    made = {"image"} if not spec.is_table else {field.kind for field in spec.dataset.fields.values()}
    unused = [
        name for name, field in spec.dataset.fields.items() if field.kind not in made and name != spec.generator.condition
    ]
    if unused:
        lines.append(("left out", f"columns that the generator does not make: {', '.join(unused)}"))
    return lines


def _asked(project: Project) -> str:
    """What is to be made; how much of it, where that is known before there is a generator."""
    asked, shards = project.augment, f"in shards of at most {project.augment.shard_rows:,} rows"
    real = " beside the real ones" if asked.include_real else ""
    if asked.variants:
        return f"{asked.variants} variants of each of {project.real.rows:,} rows{real}, {shards}"
    if asked.complete:
        return f"{project.real.rows:,} rows of {asked.source} completed, {shards}"
    if asked.classes is not None:
        return f"{sum(asked.classes.values()):,} rows{real}, {shards}"
    if asked.rows is not None and asked.allocate is not None:
        return f"at most {asked.rows:,} rows, as many of each {asked.balance} as evaluate decides{real}, {shards}"
    if asked.rows is not None:
        return f"{asked.rows:,} rows{real}, {shards}"
    level = "the largest class" if asked.to is None else f"{asked.to:,} rows"
    return f"as many rows as bring each {asked.balance} up to {level}{real}, {shards}"


def _existing(project: Project) -> str:
    """What is there of the dataset."""
    try:
        project.check_outputs()
    except RaygenError as error:
        return error.what
    if project.output.plan() is None:
        return "nothing there yet"
    if project.overwrite:
        return "there is a dataset: of this job, or to be replaced"
    if project.output.manifest() is not None:
        return "done"
    return f"{len(project.output.receipts.names())} shards done"
