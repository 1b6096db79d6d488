"""How far does one driver go? Its time, its memory, and what it asks of a storage, for up to a million shards and as many
workers as this machine can start. Shards are made by nobody here: only what it costs to keep track of them is measured.

1. *Memory*: the highest resident set of the driver and of any worker for 2,000,000 rows, over that for 200,000, of a tiny
   generator (8 x 8 pixels), so that it is the machinery that is seen.
2. *Shards*: a plan is made and claimed; each shard but the last gets a part and a receipt, by nobody's work; then a new
   driver finds out what is left to do, commits, and checks the manifest against the files. Each step is a process of its
   own. With ``--s3`` on a real S3 server too, whose requests are counted and whose own time is told apart.
3. *Hand-out*: Ray Data hands the shards to workers that do nothing but wait, and their receipts come back.
4. *Job*: all of ``raygen augment`` for as many shards, by two workers that write a byte for each: first, and again after one
   shard in a thousand was lost.

    python benchmarks/scale.py [--rows 200000 2000000] [--shards 100000] [--s3 0] [--workers 2] [--wait 0] [--only PART …]
"""

import argparse
import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

GROWTH_TARGET, SECONDS_TARGET, MEGABYTES_TARGET = 1.10, 10.0, 500.0
ROWS = 10_000  # of a shard
X = hashlib.sha256(b"x").hexdigest()
STEPS = ("plan", "write", "resume", "commit", "verify")


def tiny(folder: Path) -> dict[str, Any]:
    """A spec of a generator that costs next to nothing."""
    draw = np.random.default_rng(0)
    pixels = pa.array(draw.integers(0, 256, 2000 * 64, np.uint8))
    images = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.uint8(), (8, 8)), pa.FixedSizeListArray.from_arrays(pixels, 64)
    )
    pq.write_table(pa.table({"image": images, "label": draw.integers(0, 4, 2000)}), folder / "tiny.parquet")
    image = {"kind": "image", "height": 8, "width": 8, "channels": 1}
    return {
        "name": "tiny",
        "storage": str(folder / "store"),
        "dataset": {"path": str(folder / "tiny.parquet"), "schema": {"image": image, "label": {"kind": "category"}}},
        "generator": {"family": "gan", "network": "dense", "condition": "label", "width": 4, "latent": 4},
        "train": {"epochs": 1, "batch_size": 500},
        "gate": [],
        "augment": {"rows": 1, "balance": "label", "seed": 7, "shard_rows": ROWS, "workers": 2},
    }


def trained(folder: Path) -> dict[str, Any]:
    """A spec whose generator is there."""
    import raygen

    document = tiny(folder)
    raygen.train(document)
    return document


def peaks(command: list[str]) -> tuple[float, float]:
    """The highest resident set, in MB, of a command and of any Ray worker below it."""
    driver = worker = 0.0
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                driver = max(driver, root.memory_info().rss / 1e6)
                for child in root.children(recursive=True):
                    if child.name().startswith("ray::"):
                        worker = max(worker, child.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.1)
        assert process.returncode == 0
    return driver, worker


def memory(folder: Path, sizes: list[int]) -> dict[str, Any]:
    document = trained(folder)
    found = []
    for rows in sizes:
        document["augment"] |= {"rows": rows, "output": str(folder / f"out-{rows}")}
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(document))
        began = time.time()
        driver, worker = peaks([str(Path(sys.executable).with_name("raygen")), "augment", str(path)])
        found.append((driver, worker))
        took = time.time() - began
        print(f"{rows:,} rows: driver {driver:.0f} MB, largest worker {worker:.0f} MB, {took:.0f} s", flush=True)
    (driver, worker), (driver_, worker_) = found[0], found[-1]
    return {"driver_growth": round(driver_ / driver, 3), "worker_growth": round(worker_ / worker, 3)}


class Watch:
    """What a block took: seconds by the clock and of this process's CPU, its peak memory so far, requests to S3."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()

    @contextlib.contextmanager
    def watching(self) -> Iterator[dict[str, Any]]:
        figures: dict[str, Any] = {}
        began, cpu, load = time.perf_counter(), time.process_time(), os.getloadavg()[0]
        with self._counting():
            yield figures
        figures["seconds"] = round(time.perf_counter() - began, 2)
        figures["cpu"] = round(time.process_time() - cpu, 2)
        figures["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        figures["requests"] = dict(self.requests)
        figures["load"] = round(load, 1)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        from aiobotocore.client import AioBaseClient

        true = AioBaseClient._make_api_call

        def counted(client: Any, operation: str, *arguments: Any) -> Any:
            self.requests[operation] += 1
            return true(client, operation, *arguments)

        AioBaseClient._make_api_call = counted
        try:
            yield
        finally:
            AioBaseClient._make_api_call = true


def shards(place: str, count: int, step: str) -> dict[str, Any]:
    """One step of the driver's work for many shards, in a process of its own, so that its memory is its own."""
    from raygen.datasets.commit import Output, Receipt, intact
    from raygen.datasets.storage import Folder
    from raygen.jobs.plan import NewRows, Plan

    output = Output(Folder(place))
    planned = Plan(NewRows(count * ROWS, 7, ROWS, None), None)
    job = {"generator": "0" * 64, "rows": planned.rows, "shards": planned.shards}
    with Watch().watching() as figures:
        if step == "plan":
            assert sum(planned.size(shard) for shard in planned) == planned.rows
        elif step == "write":  # what workers do: it is not the driver's, and not timed against the target
            output.claim(job)
            with ThreadPoolExecutor(1 if output.folder.local else 8) as threads:
                put = putter(output.folder)
                for start in range(0, count - 1, 10_000):
                    some = [planned.shard(number) for number in range(start, min(start + 10_000, count - 1))]
                    list(threads.map(put, [f"data/{shard.file}" for shard in some]))
                    list(threads.map(put, [f"_raygen/receipts/{Receipt(shard.number, 1, X).name}" for shard in some]))
        elif step == "resume":
            output.claim(job)
            todo = planned.without(output.done(planned))
            assert [shard.number for shard in todo] == [count - 1]
        elif step == "commit":
            output.claim(job)
            last = planned.shard(count - 1)
            with output.data.writer(last.file) as file:
                file.write(b"x")
            output.receipts.write(Receipt(last.number, 1, X).name, b"")
            output.commit(job, ((shard, planned.size(shard)) for shard in planned), {}, [])
            figures["manifest"] = round(len(output.meta.read("manifest.json")) / 1e6, 1)
        elif step == "verify":
            manifest = output.manifest()
            assert manifest is not None
            assert intact(manifest)
            done = output.done(planned)
            assert all(done[part["shard"]].sha256 == part["sha256"] for part in manifest["parts"])
    return figures


def putter(folder: Any) -> Any:
    """Writes a byte below a folder, at as little cost as can be."""
    if folder.local is not None:
        (folder.local / "data").mkdir()
        (folder.local / "_raygen" / "receipts").mkdir()
        return lambda name: (folder.local / name).write_bytes(b"x")
    import pyarrow.fs

    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    arrow = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_delayed_open=True)

    def put(name: str) -> None:
        with arrow.open_output_stream(f"{folder.path}/{name}") as stream:
            stream.write(b"x")

    return put


def all_steps(place: str, count: int, server: psutil.Process | None = None) -> dict[str, Any]:
    total, most = 0.0, 0.0
    for step in STEPS:
        before = sum(server.cpu_times()[:2]) if server else 0.0
        figure = own_process("shards", place, str(count), step)
        if server:
            figure["server_cpu"] = round(sum(server.cpu_times()[:2]) - before, 2)
        print(f"{count:,} shards, {step}: {told(figure)}", flush=True)
        if step != "write":
            total, most = total + figure["seconds"], max(most, figure["megabytes"])
    return {"seconds": round(total, 2), "megabytes": most}


def told(figure: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in figure.items() if value != {})


def own_process(step: str, *arguments: str) -> dict[str, Any]:
    call = [sys.executable, __file__, "--step", step, *arguments]
    found = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return figures


class Idle:
    """A worker that makes no shard: it waits for some seconds and, where it is told a folder, writes a byte and a receipt.

    It imports nothing of raygen, so that many of them find room.
    """

    def __init__(self, work: tuple[str, float]) -> None:
        self.folder, self.seconds = work

    def __call__(self, items: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import json
        import time

        for text in items["shard"]:
            number, file, start, stop, _ = json.loads(text)
            time.sleep(self.seconds)
            if self.folder:
                with open(f"{self.folder}/data/{file}", "wb") as part:
                    part.write(b"x")
                with open(f"{self.folder}/_raygen/receipts/{number:05d}-1-{X}.json", "wb"):
                    pass
            yield {"rows": [stop - start], "retried": [0], "worker": ["somewhere"]}


def hand_out(count: int, workers: int, seconds: float) -> dict[str, Any]:
    """The driver's loop over workers that wait."""
    from raygen.cluster.connect import connected
    from raygen.datasets.commit import Output
    from raygen.datasets.storage import Folder
    from raygen.jobs import augment, progress, shard_workers
    from raygen.jobs.plan import NewRows, Plan

    shard_workers._Writer, shard_workers.work = Idle, lambda *_: ("", seconds)
    planned = Plan(NewRows(count * ROWS, 7, ROWS, None), None)
    spec = SimpleNamespace(resources=SimpleNamespace(augment=None))
    project: Any = SimpleNamespace(augment=SimpleNamespace(workers=workers), spec=spec)
    moments: list[tuple[float, float]] = []
    update = progress.Bar.update

    def noted(bar: progress.Bar, *arguments: Any) -> None:
        if not moments:
            moments.append((time.perf_counter(), time.process_time()))
        update(bar, *arguments)

    progress.Bar.update = noted
    with connected(training=False), Watch().watching() as figures:
        began = time.perf_counter()
        each = augment._reserved(project.spec, workers)
        augment._write(project, planned, Folder("/nowhere"), Output(Folder("/nowhere")), each, planned.without(()))
        first, cpu = moments[0]
        took = time.perf_counter() - first
        figures |= {"tasks": shard_workers.tasks(count, workers), "first": round(first - began, 1), "after": round(took, 1)}
        figures["shards_per_second"] = round(count / took)
        figures["cpu_per_task_ms"] = round(1000 * (time.process_time() - cpu) / shard_workers.tasks(count, workers), 1)
    return figures


def job(spec: str, count: int) -> dict[str, Any]:
    """``raygen augment`` with workers that write a byte for each shard."""
    from raygen.cluster.connect import connected
    from raygen.jobs import augment, shard_workers
    from raygen.jobs.project import Project
    from raygen.spec import Spec

    document = yaml.safe_load(Path(spec).read_text())
    document["augment"]["rows"] = count * ROWS
    project = Project(Spec.model_validate(document))
    output = Path(project.output.folder.uri)
    shard_workers._Writer, shard_workers.work = Idle, lambda *_: (str(output), 0.0)
    write = augment._write

    def timed(*arguments: Any) -> None:
        figures["before"] = round(time.perf_counter() - began, 1)
        for folder in ("data", "_raygen/receipts"):
            (output / folder).mkdir(exist_ok=True)
        write(*arguments)
        figures["handed_out"] = round(time.perf_counter() - began - figures["before"], 1)
        figures["megabytes_before_commit"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000

    augment._write = timed
    with connected(training=False), Watch().watching() as figures:
        began = time.perf_counter()
        augment.augment(project)
        figures["commit"] = round(time.perf_counter() - began - figures["before"] - figures["handed_out"], 1)
    return figures


def both_jobs(folder: Path, count: int) -> dict[str, Any]:
    spec = folder / "job.yaml"
    document = trained(folder)
    document["augment"]["output"] = str(folder / "job")
    spec.write_text(yaml.safe_dump(document))
    first = own_process("job", str(spec), str(count))
    print(f"{count:,} shards, all of a job: {told(first)}", flush=True)
    for number in range(0, count, 1000):
        (folder / "job" / "_raygen" / "receipts" / f"{number:05d}-1-{X}.json").unlink()
    (folder / "job" / "_raygen" / "manifest.json").unlink()
    again = own_process("job", str(spec), str(count))
    print(f"{count:,} shards, the same job gone on with: {told(again)}", flush=True)
    return {"job_megabytes": max(first["megabytes"], again["megabytes"])}


def on_s3(folder: Path, count: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from s3 import Server

    with Server(folder) as server:
        server.bucket("data")
        os.environ.update(server.environment(), AWS_EC2_METADATA_DISABLED="true")
        assert server.process is not None
        found = all_steps("s3://data/many", count, psutil.Process(server.process.pid))
    return {f"s3_{key}": value for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs=2, default=[200_000, 2_000_000])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--s3", type=int, default=0, help="shards on S3")
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--hand-out", type=int, default=100_000, help="shards for those")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds for each shard")
    parser.add_argument("--only", nargs="+", choices=["memory", "shards", "s3", "hand-out", "job"])
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    if asked.step:
        name, *arguments = asked.step
        if name == "shards":
            place, count, step = arguments
            figures = shards(place, int(count), step)
        elif name == "hand-out":
            figures = hand_out(int(arguments[0]), int(arguments[1]), float(arguments[2]))
        else:
            figures = job(arguments[0], int(arguments[1]))
        print(json.dumps(figures))
        return
    wanted = asked.only or ["memory", "shards", "hand-out", *(["s3"] if asked.s3 else [])]
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "shards" in wanted:
            figures |= all_steps(str(folder / "many"), asked.shards)
        if "s3" in wanted:
            figures |= on_s3(folder, asked.s3)
        for workers in asked.workers if "hand-out" in wanted else ():
            figure = own_process("hand-out", str(asked.hand_out), str(workers), str(asked.wait))
            print(f"{asked.hand_out:,} shards to {workers} workers: {told(figure)}", flush=True)
            figures["shards_per_second"] = figure["shards_per_second"]
        if "job" in wanted:
            figures |= both_jobs(folder, asked.shards)
        if "memory" in wanted:
            figures |= memory(folder, asked.rows)
    growth = max(figures.get("driver_growth", 1.0), figures.get("worker_growth", 1.0))
    print(json.dumps({"name": "scale", "ratio": round(1 / growth, 3), "target": round(1 / GROWTH_TARGET, 3), **figures,
                      "seconds_target": SECONDS_TARGET, "megabytes_target": MEGABYTES_TARGET}))  # fmt: skip


if __name__ == "__main__":
    main()
