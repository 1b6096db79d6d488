"""Rows per second of ``raygen train`` against plain loops of PyTorch over the same networks, and its first step.

For the default conditional GAN and VAE on 5,000 digits, repeated, in turn and from Parquet with row groups of 1,000 rows:

- *plain*: a loop of PyTorch alone, all rows in its memory, with the same precision, memory format and threads;
- *memory*, *streamed*: ``raygen train`` with one worker, its rows kept in memory, and read again in every epoch;
- *torchrun*: that loop by two processes of ``torchrun``, with DistributedDataParallel, half of each batch to each;
- *two*, *shared*: ``raygen train`` with two workers, as is, and normalizing by the statistics of whole batches, each against
  that, which is what the plain loop does.

raygen's rows per second are those of the third epoch, with the look, the curves and the checkpoint at the end of the second,
which are there in every epoch. Only the first look has more to do: it imports what draws curves.

    python benchmarks/train.py [--rows 20000] [--turns 3] [--kinds gan vae] [--ways plain memory …]
"""

import argparse
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

os.environ["OMP_NUM_THREADS"] = "1"  # as Ray and torchrun set it for several processes
TARGETS = {"memory": 0.95, "streamed": 0.80, "two": 0.90, "shared": 0.90}
AGAINST = {"memory": "plain", "streamed": "plain", "two": "torchrun", "shared": "torchrun"}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "memory": {"workers": 1},
    "streamed": {"workers": 1, "cache": False},
    "torchrun": {},
    "two": {"workers": 2},
    "shared": {"workers": 2, "sync_batch_norm": True},
}
BATCH = 64
WARM = 10
"""Steps of a plain loop that are not counted; then come those of an epoch."""


def write(folder: Path, rows: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raygen.datasets import samples
    from raygen.datasets.storage import Folder

    digits = pq.read_table(samples.materialize("sample:digits", Folder(str(folder))))
    path = folder / "data" / "digits.parquet"
    path.parent.mkdir()
    pq.write_table(pa.concat_tables([digits] * -(-rows // len(digits))).slice(0, rows), path, row_group_size=1000)
    return path


def spec(folder: Path, data: Path, kind: str, train: dict[str, Any]) -> dict[str, Any]:
    image = {"kind": "image", "height": 28, "width": 28, "channels": 1}
    return {
        "name": kind,
        "storage": str(folder / "store"),
        "dataset": {"path": str(data), "schema": {"image": image, "label": {"kind": "category"}}, "holdout": 0.01},
        "generator": {"family": kind, "condition": "label"},
        "train": {"epochs": 3, "batch_size": BATCH, **train},
    }


def plain(path: str) -> None:
    """What one would write, for one process or for those of torchrun; prints rows per second."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    import torch.distributed as dist
    from PIL import Image
    from torch.nn.parallel import DistributedDataParallel

    from raygen.generators import families
    from raygen.jobs.loop import reduced
    from raygen.load import load_spec

    asked = load_spec(path)
    table, device = pq.read_table(asked.dataset.path), torch.device("cpu")
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    images, classes = torch.from_numpy(np.stack(pixels)[:, None]), torch.from_numpy(table["label"].to_numpy())
    torch.manual_seed(0)
    family = families.family(asked.generator.family)(asked.generator, (1, 28, 28), 10, device)
    for network in family.networks.values():
        network.to(memory_format=torch.channels_last)
    rank, world, size = 0, int(os.environ.get("WORLD_SIZE", "1")), BATCH
    if world > 1:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        family.distribute(DistributedDataParallel)
    order = torch.randperm(len(images))
    steps = len(images) // size
    for step in range(WARM + steps):
        if step == WARM:
            began = time.perf_counter()
        chosen = order[(torch.arange(rank, size, world) + step * size) % len(order)]
        batch = images[chosen].float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced(asked.train.precision, device)):
            family.step(batch, classes[chosen])
        family.average_weights()
    if rank == 0:
        print(steps * size / (time.perf_counter() - began))
    if world > 1:
        dist.destroy_process_group()


def run(folder: Path, data: Path, kind: str, way: str) -> tuple[float, float]:
    """Rows per second, and seconds from the command to the end of the first step, which plain loops do not tell."""
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(spec(folder, data, kind, WAYS[way])))
    shutil.rmtree(folder / "store", ignore_errors=True)
    scripts = Path(sys.executable)
    if way in ("plain", "torchrun"):
        call = [sys.executable]
        if way == "torchrun":
            call = [str(scripts.with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run([*call, __file__, "--plain", str(path)], check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout.split()[-1]), 0.0
    began = time.time()
    call = [str(scripts.with_name("raygen")), "train", str(path)]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (metrics,) = (folder / "store").rglob("metrics.jsonl")
    _, before, last = (json.loads(line) for line in metrics.read_text().splitlines())
    (curves,) = metrics.parent.rglob("events.*")  # which are written at the end of an epoch
    looped = curves.stat().st_mtime - last["seconds"]
    speed = (last["step"] - before["step"]) * BATCH / (last["seconds"] - before["seconds"])
    return speed, looped + (last["seconds"] - before["seconds"]) / (last["step"] - before["step"]) - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=["gan", "vae"])
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        return plain(asked.plain)

    figures: dict[str, Any] = {}
    waits = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write(folder, asked.rows)
        for kind in asked.kinds:
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            ratios: dict[str, list[float]] = {way: [] for way in AGAINST}
            for turn in range(asked.turns):
                for way in asked.ways[:: (-1) ** turn]:
                    speed, wait = run(folder, data, kind, way)
                    speeds[way].append(speed)
                    waits += [wait] if way == "memory" else []
                    first = f", first step after {wait:.1f} s" if wait else ""
                    print(f"{kind}, turn {turn + 1}, {way}: {speed:,.0f} rows/s{first}", flush=True)
                for way, other in AGAINST.items():
                    if speeds[way] and speeds[other]:
                        ratios[way].append(speeds[way][-1] / speeds[other][-1])
            figures[kind] = {
                "rows_per_second": {way: round(statistics.median(found)) for way, found in speeds.items() if found},
                "ratios": {way: round(statistics.median(found), 3) for way, found in ratios.items() if found},
            }
    found = [figure["ratios"]["memory"] for figure in figures.values() if "memory" in figure["ratios"]]
    print(json.dumps({"name": "train", "ratio": min(found, default=None), "target": TARGETS["memory"], "targets": TARGETS,
                      "first_step": round(statistics.median(waits), 1) if waits else None, **figures}))  # fmt: skip
    return None


if __name__ == "__main__":
    main()
