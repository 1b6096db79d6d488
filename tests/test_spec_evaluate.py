"""What a spec may say of features, and what is told where it says something else."""

from typing import Any

import pytest

from raygen.errors import SpecError
from raygen.load import load_spec

IMAGE, LABEL = {"kind": "image", "height": 28, "width": 28, "channels": 1}, {"kind": "category"}


def spec_of(features: str, **fields: Any) -> dict[str, Any]:
    schema = fields or {"image": IMAGE, "label": LABEL}
    family = "vae" if "image" in schema else "autoregressive"
    dataset = {"path": "digits.parquet", "schema": schema}
    return {"name": "x", "dataset": dataset, "generator": {"family": family}, "evaluate": {"features": features}}


@pytest.mark.parametrize(
    ("features", "file"),
    [
        *((name, None) for name in ("auto", "classifier", "pixels", "efficientnet")),
        *((name, name) for name in ("nets/mine.pt", "s3://bucket/mine.onnx", "./auto.pts", "mine.torchscript")),
        ("inception:weights/inception-2015-12-05.pt", "weights/inception-2015-12-05.pt"),
        ("inception:s3://bucket/inception", "s3://bucket/inception"),
    ],
)
def test_features_that_are_known(features: str, file: str | None) -> None:
    assert load_spec(spec_of(features)).evaluate.file == file


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (spec_of("clasifier"), ".torchscript, .onnx); did you mean 'classifier'?"),
        (spec_of("mine.pth"), "unknown features 'mine.pth' at evaluate.features; known: auto, classifier, pixels"),
        (spec_of("inception:"), "inception:FILE, and files of TorchScript or ONNX (.pt, .pts, .torchscript, .onnx)"),
        (spec_of(".pt/"), "unknown features '.pt/'"),
        (spec_of("pixels", a=LABEL, b=LABEL), "evaluate.features is 'pixels', but dataset.schema has no image column"),
        (spec_of("classifier", image=IMAGE), "'classifier', but dataset.schema has no category column to train one on"),
    ],
)
def test_other_features_are_one_error(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError) as refusal:
        load_spec(spec)
    assert what in refusal.value.what
    assert "\n" not in refusal.value.what
