"""``train``: fit a generator on Ray Train, data-parallel, and export it as an artifact.

Everything that an epoch does follows from the seed, the epoch and the worker's rank, so a run that goes on from a
checkpoint does what an undisturbed one would have done. Checkpoints are raygen's own files in the run's folder: one
mechanism, whether a worker, the driver or the machine was lost, in local mode and on a cluster.
"""

import io
import json
import math
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from pyarrow.fs import FSSpecHandler, PyFileSystem
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raygen.datasets import stream
from raygen.datasets.codec import Batch, Codec
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError, RaygenError, ResourceError
from raygen.generators import families
from raygen.generators.base import Family
from raygen.generators.generator import Generator, untrained
from raygen.jobs import progress
from raygen.jobs.project import Project, write_json
from raygen.spec import Spec, load_spec

KEPT = 2


def train(project: Project) -> Folder:
    """Train the spec's generator, or go on where an earlier attempt stopped, or find that it is done.

    A family that has nothing to learn is its options, and what was fitted of the data: it is written at once.

    Returns:
        The folder of the artifact.

    Raises:
        DataError: the data cannot be read, or is too little.
        OutputError: the storage cannot be written.
        ResourceError: the workers do not see the same storage.
    """
    if project.result() is not None:
        return project.trained()
    spec = project.spec
    project.folder.check_writable()
    codec = stream.fit(project.source, spec.dataset)
    chosen = codec.select([codec.image[0], spec.generator.condition])
    if not families.family(spec.generator.family).learns:
        project.run.write("spec.yaml", spec.to_yaml().encode())
        made = untrained(spec.generator, chosen, torch.device("cpu"))
        _export(made, chosen, spec, _where(project), {}, project.source.rows)
        return project.trained()
    rows, held = stream.load(project.source, codec, spec.dataset.holdout)
    count = len(rows[stream.ROW])
    if count < spec.train.batch_size:
        raise DataError(
            f"{spec.dataset.path}: {count} rows to train on ({len(held[stream.ROW])} are held out), "
            f"fewer than one batch of {spec.train.batch_size}",
            "lower train.batch_size, or give more data",
        )
    project.run.write("spec.yaml", spec.to_yaml().encode())
    _fit(project, chosen, {name: rows[name] for name in chosen.fields})
    if project.result() is None:
        raise RaygenError(
            f"{project.run.uri}: the training diverged, its losses are not finite numbers (see metrics.jsonl)",
            "lower generator.learning_rate, or change generator.network",
        )
    return project.trained()


def _fit(project: Project, codec: Codec, rows: Batch) -> None:
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    spec = project.spec.train
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers, gpu, cpu = placement(spec.workers, spec.batch_size, resources, torch.cuda.is_available())
    steps = spec.epochs * _steps(len(next(iter(rows.values()))), spec.batch_size)
    with progress.bar("train", steps * spec.batch_size, "rows") as shown, progress.mailbox(shown) as box:
        config = {
            "spec": project.spec.model_dump(by_alias=True),
            "codec": codec.to_json(),
            "rows": ray.put(rows),
            **_where(project),
            "box": box,
        }
        trainer = TorchTrainer(
            _learn,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpu > 0,
                resources_per_worker={"CPU": cpu, **({"GPU": gpu} if gpu else {})} if workers else None,
            ),
            # NCCL refuses two ranks on one GPU; else the default: NCCL on GPUs, gloo on CPUs.
            torch_config=TorchConfig(backend="gloo" if 0 < gpu < 1 else None, timeout_s=120),
            run_config=ray.train.RunConfig(
                name="ray",
                storage_path=project.run.path,
                storage_filesystem=PyFileSystem(FSSpecHandler(project.run.fs)),
                failure_config=ray.train.FailureConfig(max_failures=3),
            ),
        )
        with stream.user_errors():
            trainer.fit()


class Placement(NamedTuple):
    """Ray Train workers (0: its local mode, in this process), the share of a GPU and of a CPU each asks for."""

    workers: int
    gpu: float
    cpu: float


def placement(asked: int | str, batch_size: int, cluster: dict[str, float], gpu_here: bool) -> Placement:
    """Where the spec's workers go on a cluster.

    ``auto`` is a worker per GPU, but no more than share a batch evenly; without GPUs it is one. One worker runs in this
    process, unless the GPU is elsewhere. GPUs and CPUs are shared where there are fewer than workers, so that a job asked
    of a small machine runs rather than waits for ever.
    """
    gpus, cpus = int(cluster.get("GPU", 0)), max(1, int(cluster.get("CPU", 1)))
    shared_evenly = (n for n in range(max(1, gpus), 0, -1) if batch_size % n == 0)
    workers = next(shared_evenly) if asked == "auto" else int(asked)
    if workers == 1 and (not gpus or gpu_here):
        return Placement(0, 0.0, 0.0)
    return Placement(workers, 1 / math.ceil(workers / gpus) if gpus else 0.0, 1 / math.ceil(workers / cpus))


def _learn(config: dict[str, Any]) -> None:
    """What every worker runs."""
    import ray
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    spec, codec = load_spec(config["spec"]), Codec.from_json(config["codec"])
    options, device = spec.train, ray.train.torch.get_device()
    rows: Batch = ray.get(config["rows"])
    images, classes = rows[codec.image[0]], rows.get(spec.generator.condition or "")
    size = options.batch_size // world
    steps = _steps(len(images), options.batch_size)

    torch.manual_seed(options.seed)
    family: Family = untrained(spec.generator, codec, device)
    checkpoints = Checkpoints(Folder(config["run"]))
    start, history = checkpoints.restore(family)
    if world > 1:
        if not _everywhere(_same(start, device), device):
            raise ResourceError(
                f"{config['run']}: the workers see different checkpoints",
                "give a storage that all machines share, such as s3://",
            )
        # Ranks keep their own batch statistics (broadcasting rank 0's at every forward would undo a step's own update);
        # rank 0 is the one that is exported.
        family.distribute(lambda network: DistributedDataParallel(network, broadcast_buffers=False))

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=reduced(options.precision, device))
    saved = posted = time.monotonic()
    began = saved - (history[-1]["seconds"] if history else 0.0)
    for epoch in range(start, options.epochs):
        torch.manual_seed(_mix(options.seed, epoch, rank))
        order = np.random.default_rng([options.seed, epoch]).permutation(len(images))
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            first = step * options.batch_size + rank * size
            chosen = order[np.arange(first, first + size) % len(order)]  # the last batch is filled up, no row is dropped
            with autocast:
                losses = family.step(*_tensors(images, classes, chosen, device))
            family.average_weights()
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
            if rank == 0 and time.monotonic() - posted > 1:
                posted = time.monotonic()
                config["box"].post.remote((epoch * steps + step + 1) * options.batch_size, _note(losses))
        row = {"epoch": epoch + 1, "step": (epoch + 1) * steps, "seconds": round(time.monotonic() - began, 2)}
        history.append({**row, **{name: round(value.item() / steps, 6) for name, value in sums.items()}})
        if rank == 0 and (time.monotonic() - saved >= options.checkpoint_seconds or epoch + 1 == options.epochs):
            checkpoints.save(family, epoch + 1, history)
            saved = time.monotonic()

    if not _everywhere(all(map(math.isfinite, history[-1].values())), device):
        return  # diverged: nobody wants this generator, and the driver says so
    family.synchronize()
    figures = family.finish(
        _tensors(images, classes, np.arange(first, min(first + size, len(images))), device)
        for first in range(rank * size, len(images), size * world)
    )
    # The only report: it is a barrier that costs a second or two, and checkpoints and metrics are raygen's own files.
    ray.train.report(history[-1])
    if rank == 0:
        _export(family, codec, spec, config, {**history[-1], **figures}, len(images))


def _same(number: int, device: torch.device) -> bool:
    """Whether this rank's number is rank 0's."""
    first = torch.tensor(number, device=device)
    dist.broadcast(first, 0)
    return int(first.item()) == number


def _everywhere(here: bool, device: torch.device) -> bool:
    """Whether something is so on every rank."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(float(here), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def _where(project: Project) -> dict[str, str]:
    """What an export needs to know of the project, which may be on another machine."""
    return {"project": project.folder.uri, "run": project.run.uri, "data": project.source.fingerprint}


def _export(family: Family, codec: Codec, spec: Spec, config: dict[str, Any], last: dict[str, Any], rows: int) -> None:
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
    generator = Generator(spec.generator, codec, family.exported(), lineage=lineage)
    folder = Folder(config["project"]) / "generators" / generator.digest
    if not folder.exists("generator.json"):
        generator.save(folder)
    write_json(run, "result.json", {"digest": generator.digest, "epochs": last.get("epoch", 0), "metrics": metrics})


class Checkpoints:
    """The checkpoints of a run: whole files, the last few, the newest that can be read first."""

    def __init__(self, run: Folder) -> None:
        self.run, self.folder = run, run / "checkpoints"

    def save(self, family: Family, epoch: int, history: list[dict[str, Any]]) -> None:
        self.run.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())
        buffer = io.BytesIO()
        torch.save({"epoch": epoch, "history": json.dumps(history), "family": family.state_dict()}, buffer)
        self.folder.write(_name(epoch), buffer.getvalue())
        for name in self._names()[:-KEPT]:
            self.folder.delete(name)

    def restore(self, family: Family) -> tuple[int, list[dict[str, Any]]]:
        """Epochs done and their metrics: of the newest checkpoint that is whole, or nothing."""
        for name in reversed(self._names()):
            try:
                data = io.BytesIO(self.folder.read(name))
                state = torch.load(data, map_location=family.device, weights_only=True)
                family.load_state_dict(state["family"])
                return int(state["epoch"]), json.loads(state["history"])
            except FileNotFoundError:
                continue
            except OutputError:
                raise  # the storage, not the file: another rank may well read it
            except Exception as error:  # torch raises whatever the broken bytes lead it to
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                progress.say(f"{self.folder.uri}/{name}: cannot be read ({reason}); going back to the one before")
        return 0, []

    def _names(self) -> list[str]:
        return [name for name in self.folder.names() if name.startswith("epoch-") and name.endswith(".pt")]


def reduced(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16: where asked for, or (``auto``) on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def _tensors(
    images: np.ndarray, classes: np.ndarray | None, chosen: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    pixels = torch.from_numpy(images[chosen]).to(device, non_blocking=True).float().div_(127.5).sub_(1)
    return pixels, None if classes is None else torch.from_numpy(classes[chosen]).to(device, non_blocking=True)


def _steps(rows: int, batch: int) -> int:
    return -(-rows // batch)


def _mix(seed: int, epoch: int, rank: int) -> int:
    """A seed of its own for each epoch and rank."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _note(losses: dict[str, Tensor]) -> str:
    return "  ".join(f"{name} {value.item():.3g}" for name, value in losses.items())


def _name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.pt"
