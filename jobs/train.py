"""``train``: fit a generator on Ray Train, data-parallel, and export it as an artifact.

Where the workers go and what they start from; what they do then is the loop's. Checkpoints are raygen's own files in the
run's folder: one mechanism, whether a worker, the driver or the machine was lost, in local mode and on a cluster.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from torch import Tensor

from raygen.datasets import stream
from raygen.datasets.codec import CELLS, Batch, Codec
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError, RaygenError, ResourceError
from raygen.generators import artifact, families
from raygen.generators.base import Family, Sampler
from raygen.generators.generator import Generator, untrained
from raygen.jobs import allocate, batches, placement, progress, ready, shared, waiting, watch, workers
from raygen.jobs.batches import InMemory, Rows, Share, Streamed, steps
from raygen.jobs.checkpoints import Checkpoints, check_same
from raygen.jobs.loop import Loop, shares_statistics, together
from raygen.jobs.project import Project, read_json, write_json
from raygen.load import load_spec
from raygen.machines import Resources
from raygen.metrics import features
from raygen.resources import Demand, Node, room
from raygen.spec import Spec

FAILURES, FAILURES_OF_ELASTIC = 3, 100  # of workers, after which a training is given up; some come and go
WAITS, WAITS_TO_GROW = 1, 20  # for workers to get their resources, each of a minute, before it is given up
FEWEST = 32  # held-out rows that a watch compares with
CLASSIFIED, CLASSIFIED_PIXELS = 10_000, 1 << 23  # training rows that the watching classifier learns from, at most
SOME, SOME_BYTES = 2000, 1 << 26  # training rows that a family may see again before rows of its are looked at, at most
SPEC, STOPPED = "spec.yaml", "stopped.json"
DIFFERENT = "give generator the options that it was trained with, or begin with another one"


def train(project: Project) -> Folder:
    """Train the spec's generator, or go on where an earlier attempt stopped, or find that it is done.

    A family that has nothing to learn is its options, and what was fitted of the data: it is written at once.

    Returns:
        The folder of the artifact.

    Raises:
        DataError: the data cannot be read, or is too little.
        OutputError: the storage cannot be written, or what to start from is not of this architecture.
        ResourceError: the workers do not see the same storage, or the cluster has no room for them.
        RaygenError: the training diverged.
    """
    if project.result() is not None:
        return project.trained()
    spec = project.spec
    nodes = ready.require(spec, "train")
    project.folder.check_writable()
    codec = stream.fit(project.source, spec.dataset)
    allocate.check(spec, codec)
    chosen = codec.made(spec.generator.condition)
    fresh = untrained(spec.generator, chosen, torch.device("cpu"))
    if not families.family(spec.generator.family).learns:
        project.run.write(SPEC, spec.to_yaml().encode())
        _export(fresh.exported(), chosen, spec, _where(project), {}, project.source.rows)
        return project.trained()
    if spec.train.start_from is not None and not Checkpoints(project.run).names():
        begin(fresh, Folder(spec.train.start_from))  # or fail now
    reader = stream.Reader(project.source, chosen, spec.dataset.holdout)
    count = sum(reader.counts())
    if count < spec.train.batch_size:
        raise DataError(
            f"{spec.dataset.path}: {count} rows to train on ({project.source.rows - count} are held out), "
            f"fewer than one batch of {spec.train.batch_size}",
            "lower train.batch_size, or give more data",
        )
    project.run.write(SPEC, spec.to_yaml().encode())
    project.run.delete(STOPPED)
    _fit(project, reader, count, nodes)
    if project.result() is None and (stopped := read_json(project.run, STOPPED)) is not None:
        raise RaygenError(stopped["what"], stopped["hint"])
    diversity = (project.result() or {}).get("metrics", {}).get("diversity", math.nan)
    if diversity < watch.COLLAPSED:
        alike = "its rows look" if codec.is_table else "its pictures of a class look"
        progress.say(
            f"{alike} alike: their diversity is {diversity:.2f} of that of real ones "
            "(collapse: it may need longer; of a gan, see r1, diff_augment and spectral_norm in the README)"
        )
    return project.trained()


def _fit(project: Project, reader: stream.Reader, count: int, nodes: Sequence[Node]) -> None:
    import ray
    import ray.train
    from ray.train.torch import TorchConfig

    from raygen.jobs import elastic

    spec, options = project.spec, project.spec.train
    asked, each = _placed(spec, nodes)
    given = spec.resources.train is not None
    grows = any(not node.told or node.most > node.count or placement.GROUP in node.labels for node in nodes)
    comes_and_goes = isinstance(asked, tuple)
    fewest, most = asked if isinstance(asked, tuple) else (asked, asked)
    watched = _watched(spec, reader)
    cached = _fits(options.cache, count * batches.row_bytes(reader.codec))
    everything = reader.everything() if cached else None
    total = options.epochs * steps(count, options.batch_size) * options.batch_size
    demand = Demand("train", fewest, most, each, given)
    if not all(node.told for node in nodes):
        waiting.for_room(demand, 60.0 * WAITS_TO_GROW)  # what cannot come, only the autoscaler can tell
    with progress.bar("train", total, "rows") as shown, progress.mailbox(shown) as box:
        config = {
            "spec": spec.model_dump(by_alias=True),
            "codec": reader.codec.to_json(),
            "source": ray.put(reader.source),
            "rows": None if everything is None else ray.put(everything),
            "watched": ray.put(watched),
            # Workers run elsewhere: the place is made absolute here.
            "start": None if options.start_from is None else Folder(options.start_from).uri,
            "cpus": each.cpus if asked else 0.0,
            **_where(project),
            "box": box,
        }
        del everything
        scaling = elastic.scaling(asked, each)
        run = ray.train.RunConfig(
            name="ray",
            storage_path=project.run.path,
            storage_filesystem=PyFileSystem(FSSpecHandler(project.run.fs)),
            failure_config=ray.train.FailureConfig(
                max_failures=FAILURES_OF_ELASTIC if comes_and_goes else FAILURES,
                controller_failure_limit=WAITS_TO_GROW if grows or (comes_and_goes and given) else WAITS,  # type: ignore[call-arg]
            ),
            worker_runtime_env=placement.without_gpus(each) if given and asked else None,
        )

        def fit() -> None:
            trainer = elastic.Trainer(
                _learn,
                train_loop_config=config,
                scaling_config=scaling,
                # NCCL refuses two ranks on one GPU, and one rank needs none; else the default: NCCL on GPUs, gloo on CPUs.
                # The other ranks wait while the watch's classifier learns on rank 0.
                torch_config=TorchConfig(backend="gloo" if each.gpus < 1 or most == 1 else None, timeout_s=300),
                run_config=run,
            )
            trainer.each = each if given else None
            # Ctrl-C is the driver's: what Ray Train makes of it ends with exit code 0, and stays when the training is over.
            controllers: list[Any] = []
            trainer._register_sigint_handler = controllers.append  # type: ignore[attr-defined]
            try:
                trainer.fit()
            except KeyboardInterrupt:
                for controller in controllers:  # Ray may go on, in a notebook
                    controller.abort.remote()
                raise

        waits = elastic.waiting(demand, scaling._resources_per_worker_not_none) if asked else lambda: False
        with stream.user_errors(), waiting.told(demand, waits):
            while not _fitted(fit, project.run, demand):
                pass


def _placed(spec: Spec, nodes: Sequence[Node]) -> tuple[int | tuple[int, int], Resources]:
    """How many Ray Train workers (0: its local mode, in this process), and what is reserved for each."""

    options = spec.train
    at_once = options.batch_size // options.accumulate
    if (each := spec.resources.train) is not None:
        rooms = placement.free(each) or room(each, nodes, now=True)
        return workers.placed(options.workers, at_once, rooms), each
    count, gpu, cpu = workers.shared_out(options.workers, at_once, placement.totals(), torch.cuda.is_available())
    return count, Resources(cpus=cpu, gpus=gpu) if count else Resources()


def _fitted(fit: Callable[[], None], run: Folder, demand: Demand) -> bool:
    """Train until the end, or, where workers were lost too often, as far as that. Another attempt is worth it where this one
    has come further than the one before: so machines may come and go for as long as a training takes.

    Raises:
        ResourceError: no workers have found room.
    """
    import ray.train

    before = Checkpoints(run).names()
    try:
        fit()
    except ray.train.TrainingFailedError as error:
        if stream.user_error(error) is None and Checkpoints(run).names() != before:
            return False
        if not isinstance(error, ray.train.ControllerError) or not _did_not_start(error):
            raise
        raise ResourceError(
            f"{demand.workers} training workers with {demand.each} each did not start: {waiting.free(demand.each)}",
            f"wait for other jobs to end, or lower train.workers ({str(error).splitlines()[-1][:200]})",
        ) from None
    return True


def _did_not_start(error: Any) -> bool:
    return type(error.controller_failure).__name__.startswith("WorkerGroupStartup")


def _fits(cache: bool | str, size: int) -> bool:
    """Whether encoded rows are kept in memory: asked for, or they take no more than half of what a node has for objects."""
    import ray

    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return size <= min(stores) / 2 if cache == "auto" else bool(cache)


def _watched(spec: Spec, reader: stream.Reader) -> dict[str, Batch]:
    """Some real rows: what probes are compared with, and what the watch, where there is one, learns and compares."""
    options, condition, codec = spec.train, spec.generator.condition, reader.codec
    rows = {"some": batches.some(reader, max(watch.PROBES, min(SOME, SOME_BYTES // batches.row_bytes(codec))), options.seed)}
    if options.watch is not None:
        held = stream.Reader(reader.source, codec, reader.holdout, held=True)
        if not codec.is_table:
            _, image = codec.image
            pixels = min(image.height, features.SIDE) * min(image.width, features.SIDE)
            rows["training"] = batches.some(reader, min(CLASSIFIED, CLASSIFIED_PIXELS // pixels), options.seed)
        rows["held"] = batches.some(held, options.watch.rows, options.seed)
        if (count := len(rows["held"][stream.ROW])) < FEWEST:
            raise DataError(
                f"train.watch: {count} rows are held out, too few to compare with",
                f"raise dataset.holdout, give more data, or leave train.watch out; it takes {FEWEST} rows",
            )
        if options.watch.metric == "label_agreement" and len(np.unique(rows["training"][str(condition)])) < 2:
            raise DataError(
                f"train.watch: the rows to train on have one value of {condition!r} only, so none can be mistaken",
                "let train.watch.metric be frechet_distance, or give rows of other classes",
            )
    return rows


def _learn(config: dict[str, Any]) -> None:
    """What every worker runs."""
    import ray
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    shared.require(Folder(config["run"]), SPEC)
    spec, codec = load_spec(config["spec"]), Codec.from_json(config["codec"])
    with stream.confined(_reads(spec.resources.train, share.world * config["cpus"])):
        _learn_on(config, spec, codec, share)


def _reads(each: Resources | None, taken: float) -> int:
    """How many tasks that reserve nothing read for a worker; 0 where they find CPUs that the workers have not taken."""
    if each is not None:
        return max(2, int(each.cpus))
    return 2 if taken > placement.totals()["CPU"] - 1 else 0


def _learn_on(config: dict[str, Any], spec: Spec, codec: Codec, share: Share) -> None:
    import ray
    import ray.train
    import ray.train.torch

    options = spec.train
    device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")
    rows: Rows
    if config["rows"] is not None:
        rows = InMemory(ray.get(config["rows"]), options.batch_size, options.seed, share)
    else:
        source = ray.get(config["source"])
        reader = stream.Reader(source, codec, spec.dataset.holdout)
        rows = Streamed(reader, options.batch_size, options.seed, share, options.epochs)
    tensors = partial(_tensors, codec=codec, condition=spec.generator.condition, device=device)

    torch.manual_seed(options.seed)
    family = untrained(spec.generator, codec, device)
    family.pieces, family.clip = options.accumulate, options.clip_gradients
    for network in family.networks.values():
        network.to(memory_format=torch.channels_last)
    run, notes = Folder(config["run"]), None
    if share.rank == 0:
        watched = ray.get(config["watched"])
        some = list(InMemory(watched["some"], watch.PROBES, options.seed, Share(0, 1)).once())
        make = watch.Making(spec.generator, codec, options.seed)
        notes = watch.Notes(watch.Probes.of(make, some[0]), lambda: watch.judge(make, watched), run, some)
    loop = Loop(options, family, rows, share, run, tensors, notes)
    if config["start"] is not None and not loop.done:
        begin(family, Folder(config["start"]))
    if share.world > 1:
        together(family, shares_statistics(options.sync_batch_norm, options.batch_size // share.world // options.accumulate))
    if options.compile:
        family.compile()

    with nullcontext() if notes is None else closing(notes):
        loop.train(lambda rows, note: config["box"].post.remote(rows, note))
    if loop.problem:
        what = f"{run.uri}: the training diverged at step {loop.done}: {loop.problem}"
        hint = "lower generator.learning_rate, or set train.clip_gradients; its last good checkpoint is kept"
        if share.rank == 0:
            write_json(run, STOPPED, {"what": what, "hint": hint})
        return
    family.synchronize()
    figures = family.finish(map(tensors, rows.once()))
    # The only report: it is a barrier that costs a second or two, and checkpoints and metrics are raygen's own files.
    ray.train.report({"step": loop.done})
    if share.rank == 0:
        loop.tell()  # the last word, whoever else may have written it
        last = loop.history[-1] if loop.best is None else loop.history[loop.best.epoch - 1]
        _export(family.exported(), codec, spec, config, {**last, **figures}, rows.total)


def begin(family: Family, start: Folder) -> None:
    """Give a new family the weights of an artifact, or of the newest checkpoint of a run.

    Raises:
        OutputError: nothing is there, or it is of another architecture; a parameter that differs is named.
    """
    if start.exists(artifact.DOCUMENT):
        _, weights = artifact.read(start)
        sampler = family.sampler()
        check_same(start, {"": sampler}, {"": weights}, DIFFERENT)
        sampler.load_state_dict(weights)
    elif (state := Checkpoints(start).newest(family.device)) is not None:
        weights = state["family"]["networks"]
        check_same(start, family.networks, weights, DIFFERENT)
        for name, network in family.networks.items():
            network.load_state_dict(weights[name])
    else:
        raise OutputError(
            f"{start.uri}: is neither a generator nor a run with a checkpoint",
            "give <storage>/<name>/generators/<digest>, or <storage>/<name>/train/<run>",
        )
    family.average.load_state_dict(family.sampler().state_dict())


def _where(project: Project) -> dict[str, str]:
    """What an export needs to know of the project, which may be on another machine."""
    return {"project": project.folder.uri, "run": project.run.uri, "data": project.source.fingerprint}


def _export(sampler: Sampler, codec: Codec, spec: Spec, config: dict[str, Any], last: dict[str, Any], rows: int) -> None:
    """Write the artifact under its digest, then the run's result, which says that the run is done."""
    metrics = {name: value for name, value in last.items() if name not in ("epoch", "step", "seconds")}
    run = Folder(config["run"])
    lineage = {
        "data": config["data"],
        "rows": rows,
        "run": run.name,
        "spec": spec.model_dump(mode="json", by_alias=True),
        "metrics": metrics,
    }
    generator = Generator(spec.generator, codec, sampler, sampler.tile, lineage)
    folder = Folder(config["project"]) / "generators" / generator.digest
    if not folder.exists(artifact.DOCUMENT):
        generator.save(folder)
    write_json(run, "result.json", {"digest": generator.digest, "epochs": last.get("epoch", 0), "metrics": metrics})


def _tensors(batch: Batch, codec: Codec, condition: str | None, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Images in [-1, 1], and class indices; or a table's cells, which the class is one of."""
    if codec.is_table:
        return torch.from_numpy(batch[CELLS]).to(device, non_blocking=True), None
    images = torch.from_numpy(batch[codec.image[0]]).to(device, non_blocking=True).float().div_(127.5).sub_(1)
    classes = None if condition is None else torch.from_numpy(batch[condition]).to(device, non_blocking=True)
    return images.contiguous(memory_format=torch.channels_last), classes
