"""Does the cost of a dataset's size stay where it belongs? Memory of driver and workers, and the driver's cost of a shard.

1. *Memory*: the highest resident set of the driver and of any worker for 2,000,000 rows, over that for 200,000, of a tiny
   generator (8 × 8 pixels), so that it is the machinery that is seen.
2. *Shards*: a plan of 100,000 shards is made and claimed; each gets a part and a receipt by a generator that does nothing;
   then a new driver finds out what is left to do, commits, and checks the manifest against the files.

    python benchmarks/scale.py [--rows 200000 2000000] [--shards 100000]
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

GROWTH_TARGET, SECONDS_TARGET, MEGABYTES_TARGET = 1.10, 10.0, 500.0


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
        "augment": {"rows": 1, "balance": "label", "seed": 7, "shard_rows": 10_000, "workers": 2},
    }


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
    import raygen

    document = tiny(folder)
    raygen.train(document)
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


def shards(folder: Path, count: int, step: str) -> dict[str, float]:
    """One step of the driver's work for many shards, in a process of its own, so that its memory is its own."""
    from raygen.datasets.commit import Output, Receipt
    from raygen.datasets.storage import Folder
    from raygen.jobs.plan import NewRows, Plan

    output = Output(Folder(folder / "many"))
    began = time.perf_counter()
    planned = Plan(NewRows(count * 10_000, 7, 10_000, None), None)
    parts = list(planned)
    job = {"generator": "0" * 64, "rows": planned.rows, "shards": planned.shards}
    if step == "write":  # what workers do: it is not the driver's, and not timed against the target
        output.claim(job)
        (folder / "many" / "data").mkdir()
        (folder / "many" / "_raygen" / "receipts").mkdir()
        sha256 = hashlib.sha256(b"x").hexdigest()
        for part in parts[:-1]:
            (folder / "many" / "data" / part.file).write_bytes(b"x")
            (folder / "many" / "_raygen" / "receipts" / Receipt(part.number, 1, sha256).name).touch()
    elif step == "resume":
        output.claim(job)
        done = output.done(parts)
        assert [part.number for part in parts if part.number not in done] == [count - 1]
    elif step == "commit":
        output.claim(job)
        with output.data.writer(parts[-1].file) as file:
            file.write(b"x")
        output.receipts.write(Receipt(count - 1, 1, hashlib.sha256(b"x").hexdigest()).name, b"")
        output.commit(job, ((part, 10_000) for part in parts), {}, [])
    elif step == "verify":
        from raygen.datasets.commit import intact

        manifest = output.manifest()
        assert manifest is not None
        assert intact(manifest)
        done = output.done(parts)
        assert all(done[part["shard"]].sha256 == part["sha256"] for part in manifest["parts"])
    return {"seconds": time.perf_counter() - began, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs=2, default=[200_000, 2_000_000])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(shards(Path(asked.step[1]), asked.shards, asked.step[0])))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = 0.0
        for step in ("plan", "write", "resume", "commit", "verify"):
            call = [sys.executable, __file__, "--shards", str(asked.shards), "--step", step, name]
            figure = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
            print(f"{asked.shards:,} shards, {step}: {figure['seconds']:.2f} s, {figure['megabytes']:.0f} MB", flush=True)
            if step != "write":
                total += figure["seconds"]
                figures["megabytes"] = max(figures.get("megabytes", 0.0), figure["megabytes"])
        figures["seconds"] = round(total, 2)
        figures |= memory(folder, asked.rows)
    growth = max(figures["driver_growth"], figures["worker_growth"])
    print(json.dumps({"name": "scale", "ratio": round(1 / growth, 3), "target": round(1 / GROWTH_TARGET, 3), **figures,
                      "seconds_target": SECONDS_TARGET, "megabytes_target": MEGABYTES_TARGET}))  # fmt: skip


if __name__ == "__main__":
    main()
