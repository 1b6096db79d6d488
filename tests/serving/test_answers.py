"""Answers: the type that is liked best, and the rows themselves, whatever the type."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.serving import answers
from raygen.serving.answers import ARROW, JSON, PARQUET, PNG, ZIP
from raygen.serving.problems import Problem
from raygen.spec import CategoryField, ImageField

ARROW_SCHEMA = pa.schema([pa.field("picture", pa.binary()), pa.field("digit", pa.int64())])


@pytest.fixture(scope="module", params=[1, 3])
def codec(request: pytest.FixtureRequest) -> Codec:
    fields = {"picture": ImageField(height=9, width=8, channels=request.param), "digit": CategoryField()}
    return Codec.of(fields, ARROW_SCHEMA, {"digit": Category((3, 7), (1, 1))})


def tables(codec: Codec, rows: int = 23) -> Iterator[pa.Table]:
    channels = codec.image[1].channels
    for start in range(0, rows, 10):
        n = min(10, rows - start)
        pixels = np.random.default_rng(start).integers(0, 256, (n, channels, 9, 8), np.uint8)
        yield codec.decode({"picture": pixels, "digit": np.arange(n) % 2})


def written(codec: Codec, kind: str, rows: int = 23) -> tuple[bytes, pa.Table]:
    return b"".join(pieces(codec, kind, rows)), pa.concat_tables(tables(codec, rows))


def pieces(codec: Codec, kind: str, rows: int = 23) -> list[bytes]:
    writer = answers.writer(kind, codec)
    return [*(writer.add(table) for table in tables(codec, rows)), writer.end()]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, JSON), ("*/*", JSON), ("image/png", PNG), ("image/*", PNG), ("application/*;q=0.5, image/png", PNG),
        ("text/html, application/vnd.apache.parquet;q=0.9, */*;q=0.1", PARQUET),
        ("application/json;q=0, */*", ARROW), ("APPLICATION/ZIP", ZIP), ("application/json;q=x, image/png;q=0.1", PNG),
    ],
)  # fmt: skip
def test_the_type_that_is_liked_best(accept: str | None, kind: str) -> None:
    assert answers.media_type(accept, has_images=True) == kind


@pytest.mark.parametrize(
    ("accept", "has_images"), [("text/html", True), ("image/png", False), ("*/*;q=0", True), (",;", True)]
)
def test_a_type_that_there_is_not(accept: str, has_images: bool) -> None:
    with pytest.raises(Problem) as raised:
        answers.media_type(accept, has_images)
    assert raised.value.status == 406


def test_arrow_and_parquet_are_the_rows(codec: Codec) -> None:
    data, rows = written(codec, ARROW)
    assert pa.ipc.open_stream(data).read_all().equals(rows)
    data, rows = written(codec, PARQUET)
    assert pq.read_table(io.BytesIO(data)).equals(rows)


def test_arrow_comes_in_pieces(codec: Codec) -> None:
    assert min(len(piece) for piece in pieces(codec, ARROW)[:3]) > 100


def test_json_has_pictures_as_data_uris(codec: Codec) -> None:
    data, rows = written(codec, JSON)
    told = json.loads(data)["rows"]
    assert [row["digit"] for row in told] == rows["digit"].to_pylist()
    head, _, text = told[3]["picture"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(text) == rows["picture"][3].as_py()


def test_numbers_that_json_has_not() -> None:
    table = pa.table({"a": [1.5, float("nan"), float("inf"), None], "b": [b"\xff", "é".encode(), b"", None]})
    writer = answers.writer(JSON, Codec.of({}, pa.schema([]), {}))
    told = json.loads(writer.add(table) + writer.end())["rows"]
    assert [row["a"] for row in told] == [1.5, None, None, None]


def test_times_in_json_are_those_of_iso_8601() -> None:
    at = datetime(2024, 2, 29, 13, 5, 7, 250_000)
    table = pa.table(
        {
            "at": [at, None],
            "zoned": pa.array([at, None], pa.timestamp("ms", "UTC")),
            "day": [at.date(), None],
            "clock": [at.time(), None],
            "lasts": [timedelta(days=1, hours=2, seconds=0.5), None],
            "price": [Decimal("1.50"), None],
        }
    )
    writer = answers.writer(JSON, Codec.of({}, pa.schema([]), {}))
    first, second = json.loads(writer.add(table) + writer.end())["rows"]
    assert first == {
        "at": "2024-02-29T13:05:07.250000",
        "zoned": "2024-02-29T13:05:07.250000+00:00",
        "day": "2024-02-29",
        "clock": "13:05:07.250000",
        "lasts": "P1DT2H0.5S",
        "price": "1.50",
    }
    assert set(second.values()) == {None}


def test_a_picture_and_a_grid(codec: Codec) -> None:
    data, rows = written(codec, PNG, 1)
    assert data == rows["picture"][0].as_py()
    data, rows = written(codec, PNG)
    with Image.open(io.BytesIO(data)) as page:
        assert page.size == (80, 27)
        pixels = np.asarray(page.convert("RGB"))
    with Image.open(io.BytesIO(rows["picture"][12].as_py())) as picture:
        assert (pixels[9:18, 16:24] == np.asarray(picture.convert("RGB"))).all()


def test_a_zip_has_a_file_for_each_row(codec: Codec) -> None:
    data, rows = written(codec, ZIP)
    assert data == written(codec, ZIP)[0]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{row:08}.png" for row in range(23)]
        assert archive.read("00000005.png") == rows["picture"][5].as_py()
