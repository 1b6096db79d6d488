"""What ``augment`` can be asked for, and every combination that is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.dialect import dump as to_yaml
from raygen.errors import SpecError
from raygen.load import load_spec
from raygen.spec import Spec

IMAGE = {"kind": "image", "height": 28, "width": 28, "channels": 1}
DOCUMENT: dict[str, Any] = {
    "name": "digits",
    "dataset": {"path": "sample:digits", "schema": {"image": IMAGE, "label": {"kind": "category"}}},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "spec.yaml"


def augmented(asked: dict[str, Any], **generator: Any) -> Spec:
    return load_spec({**DOCUMENT, "augment": asked, "generator": {"family": "vae", "condition": "label", **generator}})


@pytest.mark.parametrize(
    "asked",
    [
        {"rows": 5},
        {"rows": 5, "balance": "label", "start": 9, "include_real": True},
        {"rows": 5, "format": {"partition_by": "label", "images": "tensor", "compression": "none"}},
        {"rows": 5, "balance": "label", "allocate": "auto", "start": 9, "include_real": True},
        {"balance": "label"},
        {"balance": "label", "to": 9, "start": 2**53 - 1, "format": {"partition_by": "label"}},
        {"classes": {"a": 3}, "start": 5},
        {"classes": {"a": 0, "b": 1}, "include_real": True},
        {"variants": 2},
        {"variants": 2, "include_real": True, "strength": 0.0, "source": "s3://bucket/more", "format": {"images": "png"}},
    ],
    ids=str,
)
def test_what_can_be_asked_for(asked: dict[str, Any]) -> None:
    spec = augmented(asked)
    assert spec.augment is not None
    found = spec.augment.model_dump(exclude_defaults=True)
    assert {key: found.get(key, asked[key]) for key in asked} == asked


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({}, "augment does not say what to make: give rows, balance, classes, variants or complete"),
        ({"include_real": True}, "augment does not say what to make"),
        ({"rows": 5, "classes": {"a": 1}}, "augment has both rows and classes"),
        ({"rows": 5, "variants": 1}, "augment has both rows and variants"),
        ({"classes": {"a": 1}, "variants": 1}, "augment has both classes and variants"),
        ({"variants": 1, "balance": "label"}, "augment.balance does not go with augment.variants"),
        ({"variants": 1, "to": 5}, "augment.to does not go with augment.variants"),
        ({"variants": 1, "start": 5}, "augment.start does not go with augment.variants"),
        ({"variants": 1, "format": {"partition_by": "label"}}, "augment.format.partition_by does not go with augment.var"),
        ({"classes": {"a": 1}, "balance": "label"}, "augment.balance does not go with augment.classes"),
        ({"classes": {"a": 1}, "to": 5}, "augment.to does not go with augment.classes"),
        ({"rows": 5, "allocate": "auto"}, "augment.allocate spends augment.rows on the values of augment.balance; it needs"),
        ({"balance": "label", "allocate": "auto"}, "augment.allocate spends augment.rows"),
        ({"classes": {"a": 1}, "allocate": "auto"}, "augment.allocate spends augment.rows"),
        ({"variants": 1, "allocate": "auto"}, "augment.allocate spends augment.rows"),
        ({"rows": 5, "balance": "label", "allocate": "even"}, "unknown allocate 'even' at augment.allocate"),
        (
            {"rows": 5, "balance": "label", "allocate": "auto", "where": {"label": "a"}},
            "augment.where does not go with augment.allocate",
        ),
        ({"rows": 5, "to": 5}, "augment.to is what augment.balance brings every class up to; it needs balance"),
        ({"rows": 5, "balance": "label", "to": 5}, "augment.to is what augment.balance brings every class up to"),
        ({"to": 5}, "augment does not say what to make"),
        (
            {"rows": 5, "source": "x"},
            "augment.source is the rows to vary or to complete; it needs augment.variants, or complete",
        ),
        ({"balance": "label", "strength": 0.1}, "augment.strength is about variants of rows; it needs augment.variants"),
        (
            {"rows": 5, "include_real": True, "format": {"partition_by": "label"}},
            "augment.include_real does not go with augment.format.partition_by",
        ),
        ({"classes": {}}, "augment.classes asks for no rows at all"),
        ({"classes": {"a": 0}}, "augment.classes asks for no rows at all"),
        ({"classes": {"a": -1}}, "augment.classes.a is -1"),
        ({"classes": {"a": 1.5}}, "augment.classes.a is 1.5"),
        ({"classes": {1.5: 1}}, "augment.classes"),
        ({"rows": 0}, "augment.rows is 0"),
        ({"variants": 0}, "augment.variants is 0"),
        ({"rows": 1, "start": 2**53}, "augment.start is 9007199254740992"),
        ({"rows": 1, "start": -1}, "augment.start is -1"),
        ({"variants": 1, "strength": -0.1}, "augment.strength is -0.1"),
        ({"rows": 1, "format": {"compression": "zip"}}, "unknown compression 'zip' at augment.format.compression"),
        ({"rows": 1, "format": {"images": "jpg"}}, "unknown images 'jpg' at augment.format.images"),
        ({"rows": 1, "format": {"row_group_rows": 0}}, "augment.format.row_group_rows is 0"),
        ({"rows": 1, "format": {"partition_by": "lable"}}, "augment.format.partition_by is 'lable', which is not in"),
        ({"rows": 1, "format": {"partition_by": "image"}}, "augment.format.partition_by is 'image', which is of kind"),
        (
            {"rows": 1, "format": {"partition": "label"}},
            "unknown key augment.format.partition; did you mean 'partition_by'?",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(asked: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError) as caught:
        augmented(asked)
    assert what in caught.value.what


TRANSFORMS = {"family": "transforms", "condition": None}


@pytest.mark.parametrize(
    ("generator", "asked", "what"),
    [
        (TRANSFORMS, {"rows": 5}, "augment.rows asks for new rows, but transforms make variants of rows only"),
        (TRANSFORMS, {"balance": "label"}, "augment.balance asks for new rows, but transforms make variants"),
        (TRANSFORMS, {"classes": {"a": 1}}, "augment.classes asks for new rows, but transforms make variants"),
        (TRANSFORMS, {"variants": 1, "strength": 0.5}, "augment.strength is for vae, autoencoder and autoregressive"),
        ({"family": "gan"}, {"variants": 1, "strength": 0.5}, "augment.strength is for vae, autoencoder and autoregressive"),
        ({"family": "gan", "condition": None}, {"variants": 1}, "augment.variants of a gan are rows of the same class"),
        ({"condition": None}, {"balance": "label"}, "augment.balance is 'label', but the generator cannot be asked for it"),
        ({"condition": None}, {"classes": {"a": 1}}, "augment.classes asks for values, but the generator has no"),
        (
            {"condition": None},
            {"rows": 5, "format": {"partition_by": "label"}},
            "augment.format.partition_by is 'label', but the generator cannot be asked for it",
        ),
    ],
)
def test_what_a_family_cannot_make(generator: dict[str, Any], asked: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError) as caught:
        augmented(asked, **generator)
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("generator", "asked"),
    [
        (TRANSFORMS, {"variants": 1}),
        ({"family": "gan"}, {"variants": 1}),
        ({"condition": None}, {"variants": 1, "strength": 1.0}),
        ({"family": "autoencoder", "condition": None}, {"rows": 5, "include_real": True}),
    ],
)
def test_what_a_family_can_make(generator: dict[str, Any], asked: dict[str, Any]) -> None:
    assert augmented(asked, **generator).augment is not None


@pytest.mark.parametrize("name", ["/label", "_label", ".l", "a=b", "a/b", "a\\b", "a%41", "a\nb", "..", "größe 1.5", "a_b"])
def test_a_column_whose_name_is_to_be_a_folders(name: str) -> None:
    schema = {"image": IMAGE, name: {"kind": "category"}}
    generator = {"family": "vae", "condition": name}
    document = {**DOCUMENT, "dataset": {"path": "x", "schema": schema}, "generator": generator}
    assert load_spec({**document, "augment": {"rows": 1}})
    document["augment"] = {"rows": 1, "format": {"partition_by": name}}
    if name in ("größe 1.5", "a_b"):
        assert load_spec(document)
    else:
        with pytest.raises(SpecError, match=r"partition_by is .* a column whose name cannot be a folder's"):
            load_spec(document)


@pytest.mark.parametrize("name", ["_row", "_variant", "_source", "_holdout"])
def test_names_of_columns_that_are_taken(name: str) -> None:
    schema = {**DOCUMENT["dataset"]["schema"], name: {"kind": "category"}}
    document = {**DOCUMENT, "dataset": {"path": "x", "schema": schema}, "generator": {"family": "gan"}}
    with pytest.raises(SpecError, match=f"dataset.schema has a column '{name}', a name that raygen uses"):
        load_spec(document)


CLASSES: list[dict[Any, int]] = [
    {3: 5, -1: 2, 10**12: 1},
    {"3": 5, "true": 1, "null": 2, "": 3, "~": 4, "1e5": 5, "ä: b": 6, "on": 7, "1.5": 8, "2001-01-01": 9},
    {True: 1, False: 2, None: 3},
    {None: 3, "a": 0},
]


@pytest.mark.parametrize("classes", CLASSES, ids=str)
def test_classes_keep_the_kind_of_their_keys(file: Path, classes: dict[Any, int]) -> None:
    spec = augmented({"classes": classes})
    file.write_text(spec.to_yaml(), encoding="utf-8")
    again = load_spec(file)
    assert again == spec == load_spec(spec)
    assert again.augment is not None
    assert again.augment.classes is not None
    assert [(type(key), key, n) for key, n in again.augment.classes.items()] == [
        (type(key), key, n) for key, n in classes.items()
    ]
    without = {**DOCUMENT, "generator": {"family": "vae", "condition": "label"}}
    set_ = load_spec(without, [f"augment={to_yaml({'classes': classes})}"])
    assert set_.augment is not None
    assert set_.augment.classes == classes


NUMBERED = st.dictionaries(st.integers(), st.integers(0, 9))
NAMED = st.dictionaries(st.none() | st.text(max_size=6), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(classes=(NUMBERED | NAMED).filter(lambda classes: any(classes.values())))
def test_any_classes_read_back(file: Path, classes: dict[Any, int]) -> None:
    spec = augmented({"classes": classes})
    file.write_text(spec.to_yaml(), encoding="utf-8")
    assert load_spec(file) == spec


def test_a_decision_is_about_what_is_judged() -> None:
    asked = {"rows": 5, "balance": "label", "allocate": "auto"}
    schema = {"image": IMAGE, "label": {"kind": "category"}, "other": {"kind": "category"}}
    document = {
        **DOCUMENT,
        "dataset": {"path": "sample:digits", "schema": schema},
        "generator": {"family": "vae", "condition": "label"},
        "augment": asked,
    }
    assert load_spec({**document, "evaluate": {"target": "label"}}).allocates
    with pytest.raises(SpecError, match=r"decides by how well 'label' is told, and evaluate\.target is 'other'"):
        load_spec({**document, "evaluate": {"target": "other"}})
