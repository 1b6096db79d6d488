"""What every server of benchmarks/serve.py answers a batch of questions, by the best that raygen has for it."""

from typing import Any

import numpy as np
import sample
import torch

from raygen.generators.generator import Ask, Generator
from raygen.serving import answers


def generator() -> Generator:
    torch.manual_seed(0)
    return sample.generator()


def asks(made: Generator, asked: list[dict[str, Any]]) -> list[Ask]:
    found = []
    for one in asked:
        rows = range(one["start"], one["start"] + one["rows"])
        found.append(Ask(rows, one["seed"], made.classes(rows, one["seed"], one["condition"])))
    return found


def answered(made: Generator, kind: str, asked: list[dict[str, Any]]) -> list[bytes]:
    batches = made.batch(asks(made, asked))
    table = made.codec.decode({name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]})
    return answers.wholes(kind, made.codec, table, [1] * len(asked))
