"""``init``: look at Parquet and write the first spec for it, with a word on every choice."""

import math
import re
import tempfile

import yaml

from raygen.datasets import samples, schema, stream
from raygen.datasets.storage import Folder
from raygen.errors import DataError
from raygen.spec import DataField, ImageField

STORAGE, BESIDE = "./store", "./_store"
"""Where a project keeps things; and where, if the data is all around: names that begin with _ are not read as data."""
LOOKED_AT = 1000


def first_spec(data: str) -> str:
    """The YAML of a spec for a dataset.

    Args:
        data: a Parquet file, folder, glob or URI, or ``sample:NAME``.

    Raises:
        DataError: it cannot be read, or no column of it can be used.
    """
    with tempfile.TemporaryDirectory() as elsewhere:  # where a sample is looked at
        source = stream.scan(data, Folder(elsewhere))
        table = stream.head(source, LOOKED_AT)
    if not source.rows:
        raise DataError(f"{data}: the dataset has no rows", "give Parquet with rows")
    fields, left_out = schema.infer(table, data)
    images = [name for name, field in fields.items() if isinstance(field, ImageField)]
    if not images:
        found = "; ".join([f"{name}: {field.kind}" for name, field in fields.items()] + [*map(": ".join, left_out.items())])
        raise DataError(f"{data}: has no image column ({found})", "the families of today make images")
    for name in images[1:]:
        left_out[name] = "a generator makes one image column; this is the second"
        del fields[name]
    # One value alone is nothing to ask for, nor could a classifier be trained to check it.
    categories = [name for name, field in fields.items() if field.kind == "category"]
    label = next((name for name in categories if len(table[name].unique()) > 1), None)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", data.removeprefix(samples.PREFIX).rstrip("/").rsplit("/", 1)[-1])
    name = name.removesuffix(".parquet").strip("-._*") or "dataset"
    return _yaml(name, data, source.rows, fields, left_out, label)


def _yaml(name: str, data: str, rows: int, fields: dict[str, DataField], left_out: dict[str, str], label: str | None) -> str:
    columns = [f"    {_quoted(column)}: {_flow(field)}{_resized(field)}" for column, field in fields.items()]
    columns += [f"    # {_printable(column)}: left out: {_printable(reason)}" for column, reason in left_out.items()]
    condition = f", condition: {_quoted(label)}" if label else ""
    balance = f", balance: {_quoted(label)}" if label else ""
    gate = [
        "gate:                           # rules that a generator must meet before rows are written",
        "  - {metric: label_agreement, min: 0.9}",
    ]
    storage = BESIDE if stream.holds(data, Folder(STORAGE)) else STORAGE
    return "\n".join(
        [
            f"name: {_quoted(name)}",
            f"storage: {storage:<22} # or s3://bucket/prefix; runs, generators and datasets live here",
            "dataset:",
            f"  path: {_quoted(data)}",
            f"  schema:                       # the columns to use, as {min(LOOKED_AT, rows):,} of {rows:,} rows look",
            *columns,
            "  holdout: 0.2                  # never trained on; what every metric is compared with",
            f"generator: {{family: gan{condition}}}   # gan, vae or autoencoder; asked for rows by its condition",
            "train:",
            "  workers: auto                 # one per GPU, or one; more train data-parallel",
            "  epochs: 40",
            f"  batch_size: {64 if rows >= 500 else 8}                # over all workers",
            "  precision: auto               # bf16 where the GPU has it, else fp32",
            "  seed: 0",
            *(gate if label else []),
            f"augment: {{rows: {max(rows, 1000) * 2}{balance}, seed: 7}}",
            "",
        ]
    )


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
