"""``init``: look at Parquet and write the first spec for it, with a word on every choice."""

import math
import re
import tempfile

import pyarrow as pa
import yaml

from raygen.datasets import samples, schema, stream
from raygen.datasets.storage import Folder
from raygen.errors import DataError
from raygen.load import load_spec
from raygen.spec import DataField, ImageField

STORAGE, BESIDE = "./store", "./_store"
"""Where a project keeps things; and where, if the data is all around: names that begin with _ are not read as data."""
LOOKED_AT = 1000
LOOKED_AT_TABLES = 10_000
CELLS_LOOKED_AT = 2_000_000
CLASSES = 20
"""A category of at most so many values may be one to balance."""


def first_spec(data: str) -> str:
    """The YAML of a spec for a dataset.

    Args:
        data: a Parquet file, folder, glob or URI, or ``sample:NAME``.

    Raises:
        DataError: it cannot be read, or no column of it can be used.
    """
    with tempfile.TemporaryDirectory() as elsewhere:  # where a sample is looked at
        source = stream.scan(data, Folder(elsewhere))
        table = _look(source)
    if not source.rows:
        raise DataError(f"{data}: the dataset has no rows", "give Parquet with rows")
    fields, left_out = schema.infer(table, data, whole=len(table) == source.rows)
    images = [name for name, field in fields.items() if isinstance(field, ImageField)]
    for name in images[1:]:
        left_out[name] = "a generator makes one image column; this is the second"
        del fields[name]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", data.removeprefix(samples.PREFIX).rstrip("/").rsplit("/", 1)[-1])
    name = name.removesuffix(".parquet").strip("-._*") or "dataset"
    columns = [f"    {_quoted(column)}: {_flow(field)}{_resized(field)}" for column, field in fields.items()]
    columns += [f"    # {_printable(column)}: left out: {_printable(reason)}" for column, reason in left_out.items()]
    # One value alone is nothing to ask for, nor could a classifier be trained to check it.
    classes = {column: len(table[column].unique()) for column, field in fields.items() if field.kind == "category"}
    labels = [column for column, count in classes.items() if count > 1]
    if images:
        learnt, asked = _of_images(source.rows, labels[0] if labels else None)
    else:  # the label of a table is the last column more often than the first
        label = next((label for label in reversed(labels) if classes[label] <= CLASSES), None)
        learnt, asked = _of_table(source.rows, label)
    storage = BESIDE if stream.holds(data, Folder(STORAGE)) else STORAGE
    head = [
        f"name: {_quoted(name)}",
        f"storage: {storage:<22} # or s3://bucket/prefix; runs, generators and datasets live here",
        "dataset:",
        f"  path: {_quoted(data)}",
        f"  schema:                       # the columns to use, as {len(table):,} of {source.rows:,} rows look",
        *columns,
        "  holdout: 0.2                  # never trained on; what every metric is compared with",
        *learnt,
    ]
    return "\n".join([*head, *_gate("\n".join([*head, *asked])), *asked, ""])


def _look(source: stream.Source) -> pa.Table:
    """The first rows of images; rows from all over a table."""
    if schema.has_images(source.arrow):
        return stream.head(source, LOOKED_AT)
    rows = min(LOOKED_AT_TABLES, max(LOOKED_AT, CELLS_LOOKED_AT // max(1, len(source.arrow))))
    return stream.spread(source, rows)


def _gate(spec: str) -> list[str]:
    """The gate that a spec has which does not write one, written."""
    rules = [rule.model_dump() for rule in load_spec(yaml.safe_load(spec)).gate]
    return [
        "gate:                           # what a generator must reach before rows are written; [] for nothing",
        *(f"  - {{{', '.join(f'{key}: {value}' for key, value in rule.items())}}}" for rule in rules),
    ]


def _of_images(rows: int, label: str | None) -> tuple[list[str], list[str]]:
    """What comes before the gate, and what after it."""
    condition = f", condition: {_quoted(label)}" if label else ""
    balance = f", balance: {_quoted(label)}" if label else ""
    learnt = [
        f"generator: {{family: gan{condition}}}   # gan, vae or autoencoder; asked for rows by its condition",
        *_train(40, 64 if rows >= 500 else 8, []),
    ]
    return learnt, [f"augment: {{rows: {max(rows, 1000) * 2}{balance}, seed: 7}}"]


def _of_table(rows: int, label: str | None) -> tuple[list[str], list[str]]:
    """Likewise. A batch is at most a tenth of the rows, so that there are enough steps."""
    batch = min(1024, max(2, 2 ** int(math.log2(max(2, rows // 10)))))
    column = "" if label is None else _quoted(label)
    hint = [f"  # or, with condition: {column} above, as many rows of each: balance: {column}"] if label else []
    learnt = [
        "generator: {family: autoregressive}   # or vae, or gan",
        *_train(25 if rows >= LOOKED_AT_TABLES else 100, batch, ["  schedule: cosine              # of the learning rate"]),
        *([f"evaluate: {{target: {column}}}   # what models that learn from synthetic rows predict"] if label else []),
    ]
    asked = [
        "augment:",
        f"  rows: {max(rows, 1000)}",
        "  # only such rows as: where: {column: value, another: [least, most]}",
        *hint,
        "  seed: 7",
    ]
    return learnt, asked


def _train(epochs: int, batch_size: int, more: list[str]) -> list[str]:
    return [
        "train:",
        "  workers: auto                 # one per GPU, or one; more train data-parallel",
        f"  epochs: {epochs}",
        f"  batch_size: {batch_size:<18}# over all workers",
        *more,
        "  precision: auto               # bf16 where the GPU has it, else fp32",
        "  seed: 0",
    ]


def _flow(field: DataField) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in field.model_dump().items()) + "}"


def _resized(field: DataField) -> str:
    """A comment on a choice that has to be made, where pictures are of several sizes."""
    if not isinstance(field, ImageField) or field.resize is None:
        return ""
    return "  # or pad, or stretch: sizes differ"


def _quoted(text: str) -> str:
    """As it is where YAML reads it as text, else in quotes."""
    if re.fullmatch(r"[A-Za-z_/]([\w./:*-]*[\w./*-])?", text, re.ASCII) and yaml.safe_load(text) == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)).strip()


def _printable(text: str) -> str:
    """For a comment, which ends with its line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
