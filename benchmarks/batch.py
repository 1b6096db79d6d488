"""Rows per second of ``raygen augment`` against plain processes, and against what one would write with Ray Data alone.

For GAN images as PNG, the same as tensors, and variants of real rows by a VAE, in turn and from the same generator:

- *plain*: two processes without Ray, each making every other shard and writing it: the same files, byte for byte;
- *raygen*: the command line, from a cold start, with two workers;
- *naive* (PNG only): ``ray.data.range → map_batches → write_parquet`` with two actors and no addresses.

Steady state is the rows of all shards but the first wave's, over the time from the first to the last finished file.

    python benchmarks/batch.py [--rows 120000] [--turns 3]
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

TARGET, NAIVE_TARGET, FIRST_SHARD_TARGET = 0.90, 1.2, 15.0
SHARD_ROWS, WORKERS = 5000, 2
os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for its workers
KINDS: dict[str, dict[str, Any]] = {
    "png": {"family": "gan", "augment": {}},
    "tensor": {"family": "gan", "augment": {"format": {"images": "tensor"}}},
    "variants": {"family": "vae", "augment": {"variants": 12}},
}


def spec(folder: Path, kind: str, rows: int) -> dict[str, Any]:
    image = {"kind": "image", "height": 28, "width": 28, "channels": 1}
    asked = {"shard_rows": SHARD_ROWS, "workers": WORKERS, "seed": 7, "output": str(folder / "out")}
    asked |= KINDS[kind]["augment"]
    if "variants" not in asked:
        asked |= {"rows": rows, "balance": "label"}
    return {
        "name": KINDS[kind]["family"],
        "storage": str(folder / "store"),
        "dataset": {"path": "sample:digits", "schema": {"image": image, "label": {"kind": "category"}}},
        "generator": {"family": KINDS[kind]["family"], "condition": "label"},
        "train": {"epochs": 1},
        "gate": [],
        "augment": asked,
    }


def plain(path: str, which: int, output: str) -> None:
    """One of the plain processes."""
    import torch

    from raygen.datasets.commit import Output
    from raygen.datasets.storage import Folder
    from raygen.generators.generator import Generator
    from raygen.jobs import augment, shard_workers
    from raygen.jobs.project import Project
    from raygen.load import load_spec

    torch.set_num_threads(1)
    project = Project(load_spec(path))
    artifact, out = project.trained(), Output(Folder(output))
    out.claim({})
    planned = augment.of_project(project, Generator.load(artifact.uri))
    maker = shard_workers.work(project.augment, planned, artifact, out).maker()
    for shard in list(planned)[which::WORKERS]:
        maker.write(out, shard, maker.tables(shard))


def naive(path: str, rows: int, output: str) -> float:
    """What one would write: seconds from the first call of Ray Data to the last file, with Ray up already."""
    import ray
    import ray.data
    import torch
    from PIL import Image

    from raygen.generators.generator import Generator
    from raygen.jobs.project import Project
    from raygen.load import load_spec

    artifact = Project(load_spec(path)).trained().uri

    class Make:
        def __init__(self) -> None:
            self.sampler = Generator.load(artifact).sampler

        @torch.inference_mode()
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            labels = batch["id"] % 10
            images = self.sampler(torch.randn(len(labels), self.sampler.noise), torch.from_numpy(labels))
            pngs = []
            for pixels in ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).byte().numpy():
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                pngs.append({"bytes": buffer.getvalue(), "path": None})
            return {"image": pngs, "label": labels, "id": batch["id"]}

    ray.init(log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    began = time.perf_counter()
    made = ray.data.range(rows).map_batches(Make, batch_size=1024, num_cpus=0.5, concurrency=WORKERS)
    made.write_parquet(output)
    took = time.perf_counter() - began
    ray.shutdown()
    return took


def steady(folder: Path, began: float) -> tuple[float, float]:
    """Rows per second between the first and the last file, and seconds until the first one."""
    import pyarrow.parquet as pq

    files = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in folder.glob("*.parquet"))
    first, last = files[0][0], files[-1][0]
    return sum(rows for _, rows in files[1:]) / (last - first), first - began


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.parquet")))).hexdigest()


def measure(kind: str, folder: Path, path: Path, turns: int) -> dict[str, Any]:
    out = folder / "out"
    script = [sys.executable, __file__]
    found: dict[str, list[float]] = {"ratio": [], "plain": [], "raygen": [], "first": [], "wall": []}
    for turn in range(turns):
        shutil.rmtree(out, ignore_errors=True)
        began = time.time()
        both = [subprocess.Popen([*script, "--plain", str(path), str(which), str(out)]) for which in range(WORKERS)]
        assert not any(process.wait() for process in both)
        alone, _ = steady(out / "data", began)
        expected = digest(out / "data")
        shutil.rmtree(out)
        began = time.time()
        call = [str(Path(sys.executable).with_name("raygen")), "augment", str(path)]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        wall = time.time() - began
        ours, first = steady(out / "data", began)
        assert digest(out / "data") == expected, "the plain processes wrote something else"
        for name, value in (("ratio", ours / alone), ("plain", alone), ("raygen", ours), ("first", first), ("wall", wall)):
            found[name].append(value)
        print(f"{kind}, turn {turn + 1}: plain {alone:,.0f} rows/s, raygen {ours:,.0f} rows/s ({ours / alone:.2f}), "
              f"first shard after {first:.1f} s, all after {wall:.1f} s", flush=True)  # fmt: skip
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def measure_naive(folder: Path, path: Path, rows: int, turns: int) -> dict[str, float]:
    """Time of the job alone, Ray being up: ours from the spec to the manifest, theirs to the last file."""
    found = []
    for turn in range(turns):
        seconds = []
        for which in ("--naive", "--ours"):
            call = [sys.executable, __file__, which, str(path), str(rows), str(folder / "out")]
            seconds.append(float(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]))
        theirs, ours = seconds
        found.append(theirs / ours)
        print(f"naive, turn {turn + 1}: Ray Data {theirs:.1f} s, raygen {ours:.1f} s ({theirs / ours:.2f})", flush=True)
    return {"faster": round(statistics.median(found), 3)}


def ours(path: str) -> float:
    from raygen.cluster.connect import connected
    from raygen.jobs import augment
    from raygen.jobs.project import Project
    from raygen.load import load_spec

    with connected():
        began = time.perf_counter()
        augment.augment(Project(load_spec(path)))
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    for internal in ("--plain", "--naive", "--ours"):
        parser.add_argument(internal, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        return plain(asked.plain[0], int(asked.plain[1]), asked.plain[2])
    for timed, job in ((asked.naive, "naive"), (asked.ours, "ours")):
        if timed:
            path, rows, output = timed
            shutil.rmtree(output, ignore_errors=True)
            print(naive(path, int(rows), output) if job == "naive" else ours(path))
            return None

    import raygen

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in asked.kinds:
            path = folder / f"{kind}.yaml"
            document = spec(folder, kind, asked.rows)
            path.write_text(yaml.safe_dump(document))
            with contextlib.redirect_stderr(io.StringIO()):
                raygen.train(document)
            figures[kind] = measure(kind, folder, path, asked.turns)
            if kind == "png":
                figures["naive"] = measure_naive(folder, path, asked.rows, asked.turns)
    ratio = min(figure["ratio"] for kind, figure in figures.items() if kind != "naive")
    print(json.dumps({"name": "batch", "ratio": ratio, "target": TARGET, "naive_target": NAIVE_TARGET,
                      "first_shard_target": FIRST_SHARD_TARGET, **figures}))  # fmt: skip
    return None


if __name__ == "__main__":
    main()
