"""The workers of ``augment``, as Ray Data has them: each makes shards and writes them, with a receipt for each."""

import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from raygen.datasets.commit import PLAN, Output
from raygen.datasets.storage import Folder
from raygen.generators.base import STRENGTH
from raygen.generators.generator import Generator
from raygen.jobs import placement, shared
from raygen.jobs.plan import Plan, Shard, Shards
from raygen.jobs.shards import Maker
from raygen.machines import Resources
from raygen.spec import AugmentSpec, FormatSpec

TASKS, OF_A_WORKER, TOGETHER = 2000, 20, 50
"""Ray Data spends milliseconds on each task that it hands out, so where there are more than so many, and more than so many
for each worker, a task is of several shards; but not of many, since it says only at its end what it has done."""


class Work(NamedTuple):
    """What a worker has to know to make shards; small, so that an actor can be started again with it."""

    artifact: str
    plan: Plan
    seed: int
    strength: float
    format: FormatSpec
    where: str
    complete: bool
    output: str
    job: str | None

    def require(self) -> None:
        """Fail where this machine sees another folder at the place of the output than the driver, who has begun there.

        Raises:
            OutputError: it does.
        """
        shared.require(Output(Folder(self.output)).meta, PLAN)

    def maker(self, device: str | None = None) -> Maker:
        generator = Generator.load(self.artifact, device)
        where = json.loads(self.where)
        return Maker(generator, self.plan, self.seed, self.strength, self.format, where, self.complete)


def work(asked: AugmentSpec, planned: Plan, artifact: Folder, output: Output) -> Work:
    """What a worker has to know; a split comes with its shard."""
    small = replace(planned, of=planned.of and replace(planned.of, splits=()))
    strength = STRENGTH if asked.strength is None else asked.strength
    where = json.dumps(asked.model_dump(mode="json")["where"])  # as text, by which workers are told apart
    place = output.folder.uri
    return Work(artifact.uri, small, asked.seed, strength, asked.format, where, asked.complete, place, output.job)


def tasks(items: int, workers: int) -> int:
    """How many tasks to hand items out in."""
    together = items // max(TASKS, OF_A_WORKER * workers)
    return max(1, -(-items // max(1, min(together, TOGETHER))))


class Items:
    """Shards as Ray Data hands them out. It asks for one after the other while it lays them out, so they are made then."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"shard": self.shards[index].to_json()}


def fused(items: Any, work: Work, workers: int, each: Resources) -> Any:
    """Without a GPU one worker does all of a shard: there is nothing that could wait for something else."""
    import ray.data

    return items.map_batches(
        _Writer,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        **placement.options(each),
    )


def streamed(items: Any, work: Work, workers: int, each: Resources) -> Any:
    """With GPUs, reading and decoding, making, and encoding and writing overlap, so that no GPU waits for PNG or S3. The
    workers that hold a GPU, or a share of it, hold a CPU less than there is for each, so that the tasks before and after
    them always find one."""
    import ray.data

    beside = {"num_cpus": 1, **({"label_selector": dict(each.labels)} if each.labels else {})}
    read = items.map_batches(_read, fn_args=(work,), batch_size=1, **beside)
    made = read.map_batches(
        _Making,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        **{**placement.options(each), "num_cpus": max(0.0, each.cpus - 1)},
    )
    return made.map_batches(_write_made, fn_args=(work,), batch_size=1, **beside)


def begun_before() -> bool:
    """Whether what runs this was lost before and begun again."""
    import ray

    worker: Any = ray._private.worker.global_worker  # Ray says it only here
    return bool(worker.connected and worker.core_worker.get_current_task_attempt_number() > 0)


class _Metrics:
    """What Prometheus gets to see of a worker, through Ray's own metrics."""

    def __init__(self, output: str) -> None:
        from ray.util.metrics import Counter as Metric
        from ray.util.metrics import Histogram

        self.tags = {"output": output}
        self.rows = Metric("raygen_rows_written", "Rows in finished shards", ("output",))
        self.bytes = Metric("raygen_bytes_written", "Bytes of finished shards", ("output",))
        self.shards = Metric("raygen_shards_written", "Finished shards", ("output",))
        self.retried = Metric("raygen_shards_retried", "Shards made again, since what made them was lost", ("output",))
        bounds = [0.1, 0.3, 1, 3, 10, 30, 100, 300]
        self.seconds = Histogram("raygen_shard_seconds", "Time to make or write a shard", bounds, ("output",))

    def count(self, rows: int, size: int, seconds: float, worker: str) -> dict[str, Any]:
        """Count a finished shard; returns what the driver gets to know of it and of who has made it."""
        retried = begun_before()
        self.rows.inc(rows, self.tags)
        self.bytes.inc(size, self.tags)
        self.shards.inc(1, self.tags)
        if retried:
            self.retried.inc(1, self.tags)
        self.seconds.observe(seconds, self.tags)
        return {"rows": [rows], "retried": [int(retried)], "worker": [worker]}


class _Writer:
    """Makes and writes shards."""

    def __init__(self, work: Work) -> None:
        work.require()
        self.maker, self.metrics = work.maker("cpu"), _Metrics(work.output)
        self.output = Output(Folder(work.output), work.job)

    def __call__(self, items: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for text in items["shard"]:
            shard = Shard.from_json(text)
            began = time.monotonic()
            receipt = self.maker.write(self.output, shard, self.maker.tables(shard))
            yield self.metrics.count(self.maker.plan.size(shard), receipt.bytes, time.monotonic() - began, _worker())


@functools.cache
def _here(work: Work) -> tuple[Maker, Output, _Metrics]:
    """What the tasks of a process share."""
    work.require()
    return work.maker("cpu"), Output(Folder(work.output), work.job), _Metrics(work.output)


def _read(items: dict[str, Any], work: Work) -> dict[str, Any]:
    maker, _, _ = _here(work)
    shard = Shard.from_json(items["shard"][0])
    return {"shard": items["shard"], "pieces": _object(list(maker.read(shard)))}


class _Making:
    """Makes the images of shards, on its GPU."""

    def __init__(self, work: Work) -> None:
        self.maker = work.maker()

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        pieces = items["pieces"][0]
        made = _object([(piece, self.maker.make(piece)) for piece in pieces])
        return {"shard": items["shard"], "pieces": made, "worker": [_worker()]}


def _write_made(items: dict[str, Any], work: Work) -> dict[str, Any]:
    maker, output, metrics = _here(work)
    shard = Shard.from_json(items["shard"][0])
    began = time.monotonic()
    receipt = maker.write(output, shard, (maker.table(piece, made) for piece, made in items["pieces"][0]))
    return metrics.count(maker.plan.size(shard), receipt.bytes, time.monotonic() - began, str(items["worker"][0]))


def _worker() -> str:
    """Which process this is, of all machines."""
    return f"{socket.gethostname()} {os.getpid()}"


def _object(value: Any) -> np.ndarray:
    """An array of one Python object, which is how Ray Data passes one on."""
    array = np.empty(1, object)
    array[0] = value
    return array
