"""The figures of images on features of the user's choice; what says something about labels stays the classifier's."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import raygen
from raygen.errors import SpecError
from raygen.jobs import evaluate, evaluate_images, glossary, report
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.project import Project
from raygen.metrics.features import Classifier, Pixels

Spec = dict[str, Any]


class Lines(nn.Module):
    """The mean of each line; one that is strict divides by 0 where a pixel in the middle is 77."""

    def __init__(self, strict: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.strict = strict
        self.scale = scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lines = images.mean(dim=(1, 3)) * self.scale
        if self.strict:
            return lines / (images[:, 0, 14, 14:15] - 77 / 255)
        return lines


def exported(file: Path, **options: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is how such files are made, still
        torch.jit.script(Lines(**options)).save(file)
    return str(file)


def test_every_metric_is_named_after_its_features(
    ray: None, base: Spec, trained: Callable[[Spec], Project], tmp_path: Path
) -> None:
    file = exported(tmp_path / "mine.pt")
    judged = {**base, "evaluate": {"features": file, "usefulness": False}}
    project = trained(judged)
    found = evaluate.evaluate(project)
    on = {metric["name"]: metric.get("features") for metric in found["metrics"]}
    assert found["features"] == "mine.pt"
    for name in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
        assert on[name] == "mine.pt"
    assert on["label_agreement"] == on["classifier_score"] == "classifier"
    assert [row["class"] for row in found["by_class"]] == ["0", "1", "2", "3"]
    assert project.report.exists("neighbours.png")
    report.write(project)
    assert b"Features: mine.pt" in project.report.read(report.PAGE)

    assert evaluate.evaluated(project) == found
    assert evaluate.evaluated(trained({**judged, "evaluate": {**judged["evaluate"], "features": "pixels"}})) is None
    exported(tmp_path / "mine.pt", scale=100.0)  # another network of the same name
    assert evaluate.evaluated(project) is None


def test_features_that_are_not_finite_give_no_figure(
    ray: None, base: Spec, trained: Callable[[Spec], Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {"features": exported(tmp_path / "strict.pt", strict=True), "usefulness": False}
    project = trained({**base, "storage": str(tmp_path / "store"), "evaluate": judged})
    make = evaluate_images.Generator.tensors

    def marked(*arguments: Any) -> Any:
        made = make(*arguments)
        made["image"][:, 0, 14, 14] = 77
        return made

    monkeypatch.setattr(evaluate_images.Generator, "tensors", marked)
    found = {metric["name"]: metric for metric in evaluate.evaluate(project)["metrics"]}
    for name in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
        assert found[name]["value"] is None
        assert "images are not finite, first of image 0" in found[name]["because"]
    assert found["label_agreement"]["value"] is not None
    assert found["classifier_score"]["value"] is not None
    assert project.report.exists("neighbours.png")
    report.write(project)
    assert b"images are not finite, first of image 0" in project.report.read(report.PAGE)


def test_a_run_finds_out_before_it_trains(ray: None, small: Spec, tmp_path: Path) -> None:
    colour = tmp_path / "colour.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())).save(colour)
    for features, what in ((tmp_path / "none.pt", "there is no such file"), (colour, "to have 3 channels, but got 1")):
        with pytest.raises(SpecError, match=what):
            raygen.run({**small, "evaluate": {"features": str(features)}})
    assert not (Path(small["storage"]) / "small" / "train").exists()


def test_on_inception_distances_have_the_names_that_they_are_published_by() -> None:
    names = ("frechet_distance", "kernel_distance", "precision")
    shown = [glossary.features({"name": name, "features": "inception"}) for name in names]
    assert shown == ["on inception (FID of few rows)", "on inception (KID)", "on inception"]
    assert "FID" not in glossary.features({"name": "frechet_distance", "features": "mine.pt"})


def test_which_features_are_taken() -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), np.arange(40) % 2
    classifier = Classifier.fit(images, labels, 2, seed=0, epochs=1)
    for name, given, kind in (
        ("auto", classifier, Classifier),
        ("auto", None, Pixels),
        ("classifier", classifier, Classifier),
        ("pixels", classifier, Pixels),
    ):
        assert isinstance(evaluate_images._features(name, Rows(images, labels), given, ""), kind)
    with pytest.raises(SpecError, match="'classifier', but the training rows have one value"):
        evaluate_images._features("classifier", Rows(images, labels), None, "the training rows have one value")
    efficientnet = evaluate_images._features("efficientnet", Rows(images, labels), classifier, "")
    assert (efficientnet.name, efficientnet(images[:2]).shape) == ("efficientnet", (2, 1280))
