"""Is a table of ten million rows evaluated in constant memory, and what does counting them cost beside a database?

1. *Evaluate*: a table of 18 mixed columns with dependences and nulls; a small generator that learns from a tenth of it; then
   ``raygen evaluate`` as a user runs it: its time, the largest process, and all processes together.
2. *Count*: the counting pass over all rows alone, and DuckDB, with as many threads, which makes the same one-column and
   two-column counts and correlations of the same files. raygen counts twenty groups of rows each, for intervals.

    python benchmarks/evaluate.py [--rows 10000000] [--folder KEPT]
"""

import argparse
import json
import os
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

SECONDS_TARGET, GIGABYTES_TARGET, RATIO_TARGET = 600.0, 4.0, 0.5
GROUP = 250_000
HOLDOUT = 0.9  # a tenth is learnt from, so that the generator is there soon; and more is counted than would be otherwise
KINDS = {
    "id": "identifier",
    "user": "category",
    "region": "category",
    "city": "category",
    "product": "category",
    "plan": "category",
    "premium": "category",
    "age": "number",
    "income": "number",
    "balance": "number",
    "score": "number",
    "visits": "number",
    "clicks": "number",
    "latitude": "number",
    "longitude": "number",
    "discount": "number",
    "joined": "datetime",
    "seen": "datetime",
}


def rows(first: int, count: int) -> pa.Table:
    """Rows that depend on their number alone."""
    random = np.random.default_rng([7, first])
    region = np.minimum(random.geometric(0.2, count) - 1, 11)
    city = region * 20 + np.minimum(random.geometric(0.15, count) - 1, 19)
    age = np.clip(random.normal(42, 14, count), 18, 95).astype(np.int16)
    income = np.exp(random.normal(9.6 + age / 80 + region / 20, 0.5, count))
    balance = income * random.normal(0.4, 0.3, count)
    score = 1 / (1 + np.exp(-(np.log(income) - 10 + random.normal(0, 1, count))))
    plan = np.digitize(income * random.lognormal(0, 0.3, count), [12_000, 25_000, 60_000])
    visits = np.where(random.random(count) < 0.3, 0, random.poisson(2 + 3 * plan))
    joined = 12_000 + random.integers(0, 7000, count)
    seen = joined * 86_400_000_000 + (random.exponential(4e13, count) + 1).astype(np.int64)
    names = np.array
    return pa.table(
        {
            "id": pa.array(np.arange(first, first + count)),
            "user": pa.array([f"u{n:06d}" for n in (random.pareto(0.7, count) * 50).astype(np.int64) % 100_000]),
            "region": pa.array(names([f"region {n}" for n in range(12)])[region]),
            "city": pa.array(names([f"city {n}" for n in range(240)])[city], mask=random.random(count) < 0.02),
            "product": pa.array(names([f"p{n}" for n in range(300)])[(plan * 75 + random.geometric(0.05, count)) % 300]),
            "plan": pa.array(names(["free", "small", "large", "own"])[plan]),
            "premium": pa.array((plan >= 2) & (random.random(count) < 0.7)),
            "age": pa.array(age, mask=random.random(count) < 0.05),
            "income": pa.array(np.round(income, 2), mask=random.random(count) < 0.1),
            "balance": np.round(balance, 2),
            "score": score.astype(np.float32),
            "visits": visits.astype(np.int32),
            "clicks": random.poisson(visits * 4).astype(np.int32),
            "latitude": 35 + 2 * region + random.normal(0, 0.6, count),
            "longitude": -10 + 3 * region + random.normal(0, 0.8, count),
            "discount": pa.array(np.round(random.random(count) * 4) * 5, mask=plan < 1),
            "joined": pa.array(joined.astype(np.int32)).cast(pa.date32()),
            "seen": pa.array(seen).cast(pa.timestamp("us")),
        }
    )


def made(folder: Path, count: int) -> dict[str, Any]:
    """The table and a generator, where they are not there yet; the spec."""
    data = folder / f"data-{count}"
    if not data.exists():
        unfinished = folder / "unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        for first in range(0, count, 4 * GROUP):
            parts = [rows(start, min(GROUP, count - start)) for start in range(first, min(first + 4 * GROUP, count), GROUP)]
            pq.write_table(
                pa.concat_tables(parts), unfinished / f"part-{first // (4 * GROUP):03d}.parquet", row_group_size=GROUP
            )
        unfinished.rename(data)
    return {
        "name": f"many-{count}",
        "storage": str(folder / "store"),
        "dataset": {"path": str(data), "schema": {name: {"kind": kind} for name, kind in KINDS.items()}, "holdout": HOLDOUT},
        "generator": {"family": "autoregressive", "width": 64, "embedding": 8, "features": 16},
        "evaluate": {"target": "plan"},
        "train": {"epochs": 2, "batch_size": 4096, "schedule": "cosine"},
    }


def command(folder: Path, document: dict[str, Any], verb: str) -> dict[str, float]:
    """Seconds of a command, and gigabytes: of its largest process, and of all, what is shared counted once."""
    (folder / "spec.yaml").write_text(yaml.safe_dump(document))
    largest = together = 0.0
    began = time.time()
    with subprocess.Popen([str(Path(sys.executable).with_name("raygen")), verb, str(folder / "spec.yaml")]) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0.0
            for each in [root, *root.children(recursive=True)]:
                try:
                    found = each.memory_full_info()
                except psutil.Error:
                    continue
                largest, total = max(largest, found.rss / 1e9), total + found.pss / 1e9
            together = max(together, total)
            time.sleep(0.5)
        assert process.returncode == 0
    return {"seconds": round(time.time() - began, 1), "largest_gb": round(largest, 2), "together_gb": round(together, 2)}


def count(document: dict[str, Any], threads: int) -> tuple[float, float]:
    """Seconds of raygen's counting pass over all rows, and of DuckDB's counts."""
    from raygen.cluster.connect import connected
    from raygen.datasets import stream
    from raygen.datasets.storage import Folder
    from raygen.jobs.tally import counted
    from raygen.load import load_spec
    from raygen.metrics.grid import Grid

    spec = load_spec(document)
    source = stream.open_source(spec.dataset, Folder(document["storage"]))
    kinds = {name: kind for name, kind in KINDS.items() if kind != "identifier"}
    grid = Grid.of(stream.spread(source, 100_000), kinds)
    with connected(training=False):
        began = time.time()
        halves, _ = counted(source, 1.0, 1.0, grid, np.empty(0, np.uint64), lambda _: None)
        ours = time.time() - began
    assert sum(half.total for half in halves) == source.rows
    began = time.time()
    columns, pairs = duckdb_counts(document["dataset"]["path"], grid, threads)
    theirs = time.time() - began
    check(grid, halves, columns, pairs)
    print(f"{source.rows:,} rows, {len(grid.columns)} columns, {len(grid.pairs)} pairs, {len(grid.correlated)} of numbers")
    print(f"counted the same: raygen {ours:.1f} s, DuckDB {theirs:.1f} s", flush=True)
    return ours, theirs


def duckdb_counts(path: str, grid: Any, threads: int) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The same counts: columns in the cells of the grid, pairs in its bins, read once into a table of small integers."""
    import duckdb

    base = duckdb.connect(config={"threads": threads, "memory_limit": "4GB"})
    coded, joined = [], []
    for name, column in grid.columns.items():
        if column.is_category:
            base.register(f"of_{name}", pa.table({"value": column.values, "code": np.arange(len(column.values))}))
            joined.append(f"left join of_{name} on d.{name} = of_{name}.value")
            other = f"{len(column.values)} + hash(d.{name}) % {column.buckets}"
            found = f"case when d.{name} is null then {column.cells} else coalesce(of_{name}.code, {other}) end::int"
        elif KINDS[name] == "datetime":
            found = f"(epoch_us(d.{name}::timestamp) / {86_400_000_000 if name == 'joined' else 1})::double"
        else:
            found = f"d.{name}::double"
        coded.append(f"{found} as {name}")
    base.execute(f"create temp table coded as select {', '.join(coded)} from '{path}/*.parquet' d {' '.join(joined)}")
    columns: dict[str, Any] = {}
    binned = []
    for name, column in grid.columns.items():
        if column.is_category:
            columns[name] = base.execute(f"select {name}, count(*) from coded group by 1").fetchall()
            place = f"case when {name} = {column.cells} then {column.own + 1} else least({name}, {column.own}) end"
        else:
            edges = ", ".join(map(repr, column.edges.tolist()))
            columns[name] = base.execute(f"select histogram({name}, [{edges}]) from coded").fetchall()[0][0]
            first, last = column.ends[0].item(), column.ends[-1].item()
            bin_of = f"1 + floor(({name} - {first!r}) / {(last - first) / 10!r})"
            place = f"case when {name} is null then 11 else greatest(0, least(11, {bin_of})) end"
        binned.append(f"({place})::utinyint as {name}")
    base.execute(f"create temp table binned as select {', '.join(binned)} from coded")
    pairs: dict[Any, Any] = {}
    for a, b in (pair for pair in grid.pairs if pair in grid.places):
        pairs[a, b] = base.execute(f"select {a}, {b}, count(*) from binned group by 1, 2").fetchall()
    asked = ", ".join(f"corr({a}, {b})" for a, b in grid.correlated)
    found = base.execute(f"select {asked} from coded").fetchall()[0]
    return columns, pairs | dict(zip(grid.correlated, found, strict=True))


def check(grid: Any, halves: Any, columns: dict[str, Any], pairs: dict[Any, Any]) -> None:
    """Both counted the same."""
    from raygen.metrics.counts import Counts, correlations

    whole = Counts(grid)
    for half in halves:
        whole.merge(half)
    for name, column in grid.columns.items():
        found = whole.rows[:, grid.places[name]].sum(axis=0)
        if column.is_category:
            own = len(column.values)
            theirs = np.zeros(len(found), np.int64)
            for code, many in columns[name]:
                theirs[code] = many
            assert (found[:own] == theirs[:own]).all(), name  # other values are hashed into other buckets
        else:
            theirs = np.array(list(columns[name].values()))
            ours = np.append(found[: 2 * len(column.edges)].reshape(-1, 2).sum(axis=1), found[-2])
            assert (ours[: len(theirs)] == theirs).all(), name
    for (a, b), theirs in pairs.items():
        if (a, b) in grid.places:
            table = np.zeros((grid.columns[a].bins, grid.columns[b].bins), np.int64)
            for i, j, many in theirs:
                table[i, j] = many
            ours = whole.rows[:, grid.places[a, b]].sum(axis=0).reshape(table.shape)
            assert np.abs(ours - table).sum() < 1e-4 * whole.total, (a, b)  # numbers at the ends of bins, by rounding
    ours = correlations(whole.moments.sum(axis=0))
    np.testing.assert_allclose(ours, [pairs[pair] for pair in grid.correlated], atol=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="keeps the table and the generator")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name)
        document = made(folder, asked.rows)
        document["train"]["seed"] = 0
        print(f"{asked.rows:,} rows are there", flush=True)
        print(f"train: {command(folder, document, 'train')}", flush=True)
        document["gate"] = [{"metric": "quality", "min": time.time() / 1e11}]  # another gate: it is evaluated again
        figures = command(folder, document, "evaluate")
        print(f"evaluate: {figures}", flush=True)
        ours, theirs = count(document, len(os.sched_getaffinity(0)))
    print(json.dumps({"name": "evaluate", "ratio": round(theirs / ours, 3), "target": RATIO_TARGET, **figures,
                      "seconds_target": SECONDS_TARGET, "gigabytes_target": GIGABYTES_TARGET,
                      "counting": round(ours, 1), "duckdb": round(theirs, 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
