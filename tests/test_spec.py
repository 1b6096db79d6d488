"""The spec reads what it documents, writes back what it read, and answers every mistake with one error that helps."""

import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.errors import SpecError
from raygen.load import load_spec
from raygen.options import AutoencoderSpec, GanSpec, TabularGanSpec, TabularVaeSpec, VaeSpec
from raygen.spec import DatasetSpec, Spec

DOCUMENTED = """\
name: digits
storage: ./store                     # or s3://bucket/prefix; runs, artifacts and the registry live here
dataset:
  path: sample:digits                # or a file, folder, glob or s3:// URI of Parquet
  schema:                            # `raygen init DATA` writes this by looking at the data
    image: {kind: image, height: 28, width: 28, channels: 1}
    label: {kind: category}
  holdout: 0.2                       # never trained on; the ceiling of every metric
generator: {family: gan, condition: label}
train: {workers: auto, epochs: 40, batch_size: 128, precision: auto, seed: 0}
gate:
  - {metric: label_agreement, min: 0.9}
augment: {rows: 50000, balance: label, seed: 7}
serve: {replicas: {min: 0, max: 4}}
"""

BLOCKS = """\
name: digits
dataset:
  path: digits.parquet
  schema:
    image:
      kind: image
      height: 28
      width: 28
      channels: 1
    label:
      kind: category
  holdout: 0.2
generator:
  family: gan
  condition: label
train:
  workers: 2
  epochs: 40
  batch_size: 128
gate:
  - metric: label_agreement
    min: 0.9
augment:
  rows: 50000
  balance: label
serve:
  replicas:
    min: 0
    max: 4
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "spec.yaml"


def refused(file: Path, text: str, *overrides: str) -> SpecError:
    """The error of a spec, which is two lines whatever is wrong."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(file, overrides)
    assert len(str(caught.value).splitlines()) == 2
    assert caught.value.hint
    return caught.value


def without(text: str, line: str) -> str:
    assert line in text
    return text.replace(line, "", 1)


def test_a_spec_without_a_gate_has_one_however_it_is_made() -> None:
    document = {name: value for name, value in yaml.safe_load(DOCUMENTED).items() if name != "gate"}
    read = load_spec(document)
    assert {rule.metric for rule in read.gate} >= {"precision", "label_agreement", "membership_auc", "synthetic_f1"}
    assert Spec(**document) == Spec.model_validate(document) == read
    assert load_spec(Spec(**document)) == read
    assert load_spec({**document, "gate": []}).gate == Spec(**document, gate=[]).gate == []


@pytest.mark.parametrize("file", ["README.md", "examples/digits.yaml"])
def test_what_the_documents_show_is_a_spec(file: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        text, *parts = sorted(
            re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), key=lambda part: "name:" not in part
        )
        for part in parts:
            load_spec({**yaml.safe_load(text), **yaml.safe_load(part)})
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
    spec = load_spec(tmp_path / "spec.yaml")
    assert (spec.name, spec.generator.family, spec.train.workers) == ("digits", "gan", 2)


TABLE = {"age": "number", "born": "datetime", "sex": "category", "id": "identifier", "source": "constant"}


def test_a_table_has_columns_of_many_kinds_and_no_image() -> None:
    asked = {"path": "a.parquet", "schema": {name: {"kind": kind} for name, kind in TABLE.items()}}
    fields = DatasetSpec.model_validate(asked).fields
    assert {name: field.kind for name, field in fields.items()} == TABLE
    assert all(field.model_dump() == {"kind": field.kind} for field in fields.values())


def of_table(generator: str) -> str:
    columns = "".join(f"    {name}: {{kind: {kind}}}\n" for name, kind in TABLE.items())
    return f"name: x\ndataset:\n  path: x\n  schema:\n{columns}generator: {{{generator}}}\n"


@pytest.mark.parametrize("family", ["autoencoder", "transforms"])
def test_families_of_images_refuse_a_table(file: Path, family: str) -> None:
    error = refused(file, of_table(f"family: {family}"))
    assert f"generator.family '{family}' makes images, and dataset.schema has no image column" in error.what
    assert "autoregressive, gan, vae make tables" in error.what


def test_families_of_both_have_options_of_their_own_for_a_table(file: Path) -> None:
    for family, model in (("gan", TabularGanSpec), ("vae", TabularVaeSpec)):
        file.write_text(of_table(f"family: {family}, width: 32, condition: sex"))
        spec = load_spec(file)
        assert spec.generator == model(width=32, condition="sex")
        file.write_text(spec.to_yaml())
        assert load_spec(file) == spec


@pytest.mark.parametrize(
    ("generator", "key", "known"),
    [
        ("family: gan, diff_augment: 0.1", "diff_augment", "temperature"),
        ("family: gan, network: dcgan", "network", "pack"),
        ("family: vae, likelihood: gaussian", "likelihood", "beta"),
    ],
)
def test_options_for_images_are_refused_for_a_table(file: Path, generator: str, key: str, known: str) -> None:
    error = refused(file, of_table(generator))
    assert f"unknown key generator.{key}" in error.what
    assert known in error.hint
    assert key not in error.hint


def test_options_for_tables_are_refused_for_images(file: Path) -> None:
    images = "name: x\ndataset:\n  path: x\n  schema: {i: {kind: image, height: 8, width: 8}}\n"
    assert "unknown key generator.pack" in refused(file, f"{images}generator: {{family: gan, pack: 10}}\n").what
    error = refused(file, f"{images}generator: {{family: gan, of: tables}}\n")
    assert "generator.family 'gan' makes tables, and dataset.schema has an image column" in error.what


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("{kind: number, min: 0}", "unknown key dataset.schema.label.min"),
        ("{kind: numbr}", "unknown kind 'numbr' at dataset.schema.label.kind; did you mean 'number'?"),
        ("{kind: number}", "dataset.schema.label is of kind 'number', which goes with tables; beside the image column"),
        ("{kind: identifier}", "dataset.schema.label is of kind 'identifier', which goes with tables"),
    ],
)
def test_columns_that_do_not_go_with_an_image(file: Path, field: str, said: str) -> None:
    assert said in refused(file, BLOCKS.replace("      kind: category", f"      {field}")).what


def test_a_table_with_nothing_to_learn(file: Path) -> None:
    text = "name: x\ndataset:\n  path: x\n  schema:\n    id: {kind: identifier}\n    y: {kind: constant}\n"
    error = refused(file, text + "generator: {family: gan}\n")
    assert "dataset.schema has nothing to learn: no column of kind category, number, datetime or image" in error.what


@pytest.mark.parametrize("way", ["crop", "pad", "stretch", None])
def test_resize(file: Path, way: str | None) -> None:
    text = DOCUMENTED.replace("channels: 1}", f"channels: 1, resize: {way or 'null'}}}")
    file.write_text(text)
    spec = load_spec(file)
    assert spec.dataset.fields["image"].model_dump().get("resize") == way
    assert load_spec(yaml.safe_load(spec.to_yaml())) == spec
    error = refused(file, text.replace(f"resize: {way or 'null'}", "resize: cropp"))
    assert "unknown resize 'cropp' at dataset.schema.image.resize; did you mean 'crop'?" in error.what
    assert error.hint == "known: crop, pad, stretch"


def test_the_documented_spec_loads(file: Path) -> None:
    file.write_text(DOCUMENTED)
    spec = load_spec(file)
    assert (spec.name, spec.storage, spec.dataset.path, spec.dataset.holdout) == ("digits", "./store", "sample:digits", 0.2)
    assert spec.dataset.fields["image"].model_dump() == {"kind": "image", "height": 28, "width": 28, "channels": 1}
    assert spec.dataset.fields["label"].kind == "category"
    assert isinstance(spec.generator, GanSpec)
    assert spec.generator.condition == "label"
    assert (spec.train.workers, spec.train.epochs, spec.train.batch_size) == ("auto", 40, 128)
    assert [rule.model_dump() for rule in spec.gate] == [{"metric": "label_agreement", "min": 0.9}]
    assert spec.augment is not None
    assert (spec.augment.rows, spec.augment.balance, spec.augment.seed) == (50000, "label", 7)
    assert spec.serve.replicas.max == 4


def test_a_mapping_a_path_and_a_spec_are_the_same(file: Path) -> None:
    file.write_text(DOCUMENTED)
    spec = load_spec(file)
    assert load_spec(yaml.safe_load(DOCUMENTED)) == load_spec(str(file)) == load_spec(spec) == spec


@pytest.mark.parametrize(
    "override", ["name=x", "name='1e5'", "name='1.'", "name='2001-01-01'", "name='0x10'", "name=yes-1", "storage='~'"]
)
@pytest.mark.parametrize("family", ["gan", "vae", "autoencoder"])
def test_what_is_written_reads_back_as_the_same_spec(file: Path, family: str, override: str) -> None:
    file.write_text(DOCUMENTED)
    spec = load_spec(file, [f"generator.family={family}", override])
    written = spec.to_yaml()
    file.write_text(written)
    again = load_spec(file)
    assert again == spec
    assert type(again.generator) is {"gan": GanSpec, "vae": VaeSpec, "autoencoder": AutoencoderSpec}[family]
    assert again.to_yaml() == written
    assert yaml.safe_load(written)["train"]["precision"] == "auto"  # defaults are written out


@pytest.mark.parametrize("column", ["1e5", "on", "5", "null", "a: b", "it's", "ü", "~", "", " x ", "#", "image\nof", "\x85"])
def test_odd_column_names_read_back(file: Path, column: str) -> None:
    document = yaml.safe_load(DOCUMENTED)
    document["dataset"]["schema"][column] = document["dataset"]["schema"].pop("label")
    document["generator"]["condition"] = document["augment"]["balance"] = column
    spec = load_spec(document)
    assert column in spec.dataset.fields
    file.write_text(spec.to_yaml(), encoding="utf-8")
    assert load_spec(file) == spec


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("storage=s3://bucket/prefix", "storage", "s3://bucket/prefix"),
        ("storage=a=b", "storage", "a=b"),
        ("generator.learning_rate=5e-4", "generator.learning_rate", 5e-4),
        ("generator.learning_rate=1E-3", "generator.learning_rate", 1e-3),
        ("generator.r1=0", "generator.r1", 0.0),
        ("train.workers=2", "train.workers", 2),
        ("generator={family: vae, condition: label, latent: 8}", "generator.latent", 8),
        ("augment=null", "augment", None),
        ("gate=[{metric: recall, max: 0.5}]", "gate", [{"metric": "recall", "max": 0.5}]),
        ("serve.replicas.max=9", "serve.replicas.max", 9),
        ("dataset.schema.label.kind=category", "dataset.schema.label.kind", "category"),
        (" train.seed = 5", "train.seed", 5),
    ],
)
def test_overrides(file: Path, override: str, path: str, value: Any) -> None:
    file.write_text(DOCUMENTED)
    found: Any = load_spec(file, [override]).model_dump(by_alias=True)
    for step in path.split("."):
        found = found[step]
    assert found == value
    assert type(found) is type(value)


def test_a_class_is_guessed_only_where_there_is_one(file: Path) -> None:
    text = without(without(DOCUMENTED, ", condition: label"), ", balance: label")
    file.write_text(without(text, "gate:\n  - {metric: label_agreement, min: 0.9}\n"))
    load_spec(file)
    with pytest.raises(SpecError, match=r"'auxiliary' guesses the condition: it needs generator\.condition"):
        load_spec(file, ["generator.conditioning=auxiliary"])


@pytest.mark.parametrize(
    "options",
    [
        "{family: gan, loss: wgan_gp, r1: 0, gradient_penalty: 5, discriminator_steps: 5, beta1: 0, beta2: 0.9}",
        "{family: gan, network: resnet, loss: hinge, spectral_norm: true, conditioning: auxiliary, r1_every: 16}",
        "{family: gan, diff_augment_policy: [colour, translation, cutout], auxiliary_weight: 1}",
    ],
)
def test_recipes_of_a_gan_read_back_the_same(file: Path, options: str) -> None:
    file.write_text(DOCUMENTED)
    spec = load_spec(file, [f"generator={options}", "generator.condition=label"])
    file.write_text(spec.to_yaml())
    assert load_spec(file) == spec


def test_overrides_make_what_is_not_there_and_the_last_one_wins(file: Path) -> None:
    file.write_text(without(without(BLOCKS, "train:\n  workers: 2\n  epochs: 40\n  batch_size: 128\n"), "  holdout: 0.2\n"))
    spec = load_spec(file, ["train.epochs=3", "dataset.holdout=0.5", "train.epochs=4"])
    assert (spec.train.epochs, spec.dataset.holdout) == (4, 0.5)


@pytest.mark.parametrize(
    ("old", "new", "what", "hint"),
    [
        # unknown keys, with the nearest one, and the line they are in
        ("  epochs:", "  epoch:", ":18: unknown key train.epoch; did you mean 'epochs'?", "known keys of train: workers"),
        ("name: digits", "nme: digits", ":1: unknown key nme; did you mean 'name'?", "known keys of a spec: name, storage"),
        ("      height:", "      hight:", ":7: unknown key dataset.schema.image.hight; did you mean 'height'?", "width"),
        ("  holdout", "  zzz", ":12: unknown key dataset.zzz", "known keys of dataset: path, schema, holdout"),
        ("    max: 4", "    maxx: 4", ":29: unknown key serve.replicas.maxx; did you mean 'max'?", "min, max"),
        ("    min: 0.9", "    mim: 0.9", ":22: unknown key gate.0.mim; did you mean 'min'?", "metric, min, max"),
        ("  condition:", "  conditon:", ":15: unknown key generator.conditon; did you mean 'condition'?", "latent"),
        # unknown values
        ("family: gan", "family: gam", ":14: unknown family 'gam' at generator.family; did you mean 'gan'?", "gan, vae"),
        ("kind: category", "kind: categry", ":11: unknown kind 'categry' at dataset.schema.label.kind; did", "image, categ"),
        ("family: gan", "family: gan\n  network: dens", ":15: unknown network 'dens' at generator.network", "dcgan"),
        ("label_agreement", "label_agrement", ":21: unknown metric 'label_agrement' at gate.0.metric", "recall"),
        ("channels: 1", "channels: 2", ":9: unknown channels 2 at dataset.schema.image.channels", "known: 1, 3"),
        ("family: gan", "family: gan\n  diff_augment_policy: [cutot]", "unknown diff_augment_policy 'cutot' at", "cut"),
        # wrong kinds
        ("epochs: 40", "epochs: many", ":18: train.epochs is 'many': input should be a valid integer", "README"),
        ("epochs: 40", "epochs: 0", ":18: train.epochs is 0: input should be greater than 0", "README"),
        ("epochs: 40", "epochs: 1.5", ":18: train.epochs is 1.5", "README"),
        ("epochs: 40", "epochs: true", ":18: train.epochs is True: input should be a valid integer", "README"),
        ("workers: 2", "workers: all", ":17: train.workers is 'all'", "it should be 'auto' or"),
        ("workers: 2", "workers: 0", ":17: train.workers is 0", "'auto' or greater than 0"),
        ("height: 28", "height: 4", ":7: dataset.schema.image.height is 4", "README"),
        ("name: digits", "name: a/b", ":1: name is 'a/b'", "README"),
        ("name: digits", "name: 5", ":1: name is 5: input should be a valid string", "README"),
        ("holdout: 0.2", "holdout: 1", ":12: dataset.holdout is 1", "README"),
        ("holdout: 0.2", "holdout: .nan", ":12: dataset.holdout is nan", "README"),
        ("min: 0.9", "min: .nan", ":22: gate.0.min is nan: input should be a finite number", "README"),
        ("min: 0.9", "min: .inf", ":22: gate.0.min is inf: input should be a finite number", "README"),
        ("rows: 50000", "rows: 1e5", ":24: augment.rows is 100000.0", "README"),
        ("name: digits", "name: digits\nserve: 3", ":27: serve is there twice", "line 2 has it"),
        ("  replicas:\n    min: 0\n    max: 4\n", "  replicas: 3\n", ":27: serve.replicas is 3", "README"),
        ("  - metric: label_agreement\n    min: 0.9\n", "  metric: recall\n", ":20: gate is {'metric': 'recall'}", "README"),
        ("name: digits", "name: digits\n5: 3", ": 5 is 5: keys should be strings", "README"),
        # missing keys
        ("name: digits\n", "", "spec.yaml: name is missing", "add it"),
        ("  rows: 50000\n  balance: label\n", "  seed: 7\n", ":23: augment does not say what to make", "README"),
        ("  family: gan\n", "", ":13: generator.family is missing", "add it"),
        ("      kind: category", "      {}", ":10: dataset.schema.label.kind is missing", "add it"),
        ("      width: 28\n", "", ":5: dataset.schema.image.width is missing", "add it"),
        ("    min: 0.9\n", "", ":21: a rule for label_agreement has none of min, at_least, max, at_most", "README"),
        # YAML
        ("  workers: 2", "  epochs: 2", ":18: train.epochs is there twice", "line 17 has it already"),
        ("name: digits", "name: [digits", ": is not YAML: ", "mend the syntax there"),
        ("name: digits", "\tname: digits", ":1: is not YAML: ", "mend the syntax there"),
        ("name: digits", "name: *digits", ":1: is not YAML: ", "mend the syntax there"),
        ("name: digits", "name: !!python/name:os.system x", ":1: is not YAML: ", "mend the syntax there"),
        ("name: digits", "? [a, b]\n: c", ":1: is not YAML: a key is not plain text", "mend the syntax there"),
        ("name: digits", "name: 2001-13-45", ": has a value that cannot be read (month must be in 1..12)", "quotes"),
        ("name: digits", "name: 0b_", ": has a value that cannot be read", "quotes"),
        ("name: digits", "name: &a [*a]", ": has a value that cannot be read", "quotes"),
        ("name: digits", "name: " + "[" * 3000, ": has a value that cannot be read", "quotes"),
        (BLOCKS, "", ": is not a spec: no keys at its top", "raygen init"),
        (BLOCKS, "- 3", ": is not a spec: no keys at its top", "raygen init"),
        # parts that do not fit together
        ("condition: label", "condition: labl", "generator.condition is 'labl', which is not in dataset.schema; did", ""),
        ("condition: label", "condition: image", "generator.condition is 'image', which is of kind 'image'", ""),
        ("balance: label", "balance: digit", "augment.balance is 'digit', which is not in dataset.schema", ""),
        ("  condition: label\n", "", "augment.balance is 'label', but the generator cannot be asked for it", ""),
        ("    label:\n      kind: category\n", "", "'label', which is not in dataset.schema", ""),
        ("label_agreement", "negative_log_likelihood", "negative_log_likelihood, which the family 'gan' does not have", ""),
        ("      kind: category", "      {kind: image, height: 28, width: 28}", "dataset.schema has 2 image columns", ""),
        (
            "kind: image\n      height: 28\n      width: 28\n      channels: 1",
            "kind: category",
            "gate: label_agreement is not a metric of tables",
            "",
        ),
        ("family: gan", "family: gan\n  loss: wgan_gp", "slopes of 1 where generator.r1 wants none: set", ""),
        ("family: gan", "family: gan\n  r1: 0\n  r1_every: 4", "generator.r1_every is of no use without generator.r1;", ""),
        ("family: gan", "family: gan\n  gradient_penalty: 1", "no use without generator.loss 'wgan_gp'; leave it", ""),
        ("family: gan", "family: gan\n  auxiliary_weight: 2", "no use without generator.conditioning 'auxi", ""),
        ("family: gan", "family: gan\n  diff_augment_policy: [cutout, cutout]", "policy has something twice", ""),
        ("batch_size: 128", "batch_size: 129", ":16: batch_size 129 cannot be shared evenly by 2 workers", ""),
        ("workers: 2", "accumulate: 5", "batch_size 128 cannot be shared evenly by 1 workers, 5 pieces each; 130 can", ""),
        ("workers: 2", "watch: {every: 9999}", "train.watch.every is 9999, and there are ", ""),
    ],
)  # fmt: skip
def test_every_mistake_is_one_error(file: Path, old: str, new: str, what: str, hint: str) -> None:
    assert old in BLOCKS
    error = refused(file, BLOCKS.replace(old, new, 1))
    assert error.what.startswith(str(file))
    assert what in error.what
    assert hint in error.hint


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        (
            "train.epoch=3",
            "--set train.epoch: unknown key train.epoch; did you mean 'epochs'?",
            "known keys of train: workers",
        ),
        ("trian.epochs=3", "unknown key trian; did you mean 'train'?", "known keys of a spec: name"),
        ("train.epochs=many", "--set train.epochs: train.epochs is 'many': input should be a valid integer", "README"),
        ("train.epochs=", "--set train.epochs: train.epochs is None", "README"),
        ("train.seed=-1", "--set train.seed: train.seed is -1", "README"),
        ("generator.family=gna", "--set generator.family: unknown family 'gna' at generator.family; did you", "gan, vae"),
        ("generator=vae", "--set generator: generator is 'vae'", "README"),
        ("generator={family: vae, likelihood: logistc}", "unknown likelihood 'logistc' at generator.likelihood", "gauss"),
        ("generator={family: vae, kl_warmup: 1.5}", "generator.kl_warmup is 1.5", "README"),
        ("generator={family: autoencoder, density: mixed}", "unknown density 'mixed' at generator.density", "mixture"),
        ("train.epochs", "--set train.epochs: is not of the form key.path=value", "for example: --set train.epochs=3"),
        ("=3", "--set =3: is not of the form key.path=value", "for example"),
        ("train..epochs=3", "--set train..epochs=3: is not of the form", "for example"),
        ("train.epochs=[", "--set train.epochs=[: the value is not YAML", "quote it"),
        ("train.epochs=2001-13-45", "--set train.epochs=2001-13-45: the value is not YAML", "quote it"),
        ("name.first=x", "--set name.first=x: name holds no keys", "as a whole"),
        ("gate.0.min=0.5", "--set gate.0.min=0.5: gate holds no keys", "as a whole"),
        ("train.workers=3", "batch_size 128 cannot be shared evenly by 3 workers", "README"),
        ("a\nb=3", "--set a b: unknown key a b", "known keys of a spec"),
    ],
)
def test_every_mistake_in_an_override_is_one_error(file: Path, override: str, what: str, hint: str) -> None:
    error = refused(file, BLOCKS, override)
    assert what in error.what
    assert hint in error.hint


def test_what_is_not_a_file_of_text(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for path, what in [(tmp_path / "nope.yaml", "no such spec"), (tmp_path, "cannot be read"), (binary, "cannot be read")]:
        with pytest.raises(SpecError, match=what) as caught:
            load_spec(path)
        assert str(path) in caught.value.what
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec("a\0b")


def test_a_mapping_with_what_yaml_cannot_say() -> None:
    document = yaml.safe_load(DOCUMENTED)
    with pytest.raises(SpecError, match="not YAML") as caught:
        load_spec({**document, "storage": Path("store")})
    assert "'store'" in caught.value.what


def key_lines() -> list[tuple[int, str]]:
    """Where the keys of the spec are, but for the names of columns, which may be anything."""
    keys = []
    for number, line in enumerate(BLOCKS.splitlines()):
        key = line.strip(" -").partition(":")[0]
        if key not in ("image", "label"):
            keys.append((number, key))
    return keys


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_typo_in_a_key_is_let_through(file: Path, data: st.DataObject) -> None:
    number, key = data.draw(st.sampled_from(key_lines()))
    at = data.draw(st.integers(0, len(key) - 1))
    way = data.draw(st.sampled_from(["drop", "replace", "insert", "swap"]))
    letter = data.draw(st.sampled_from(string.ascii_letters + string.digits + "_-.: #'\"[{&*!%@\n\t\0é"))
    typo = {
        "drop": key[:at] + key[at + 1 :],
        "replace": key[:at] + letter + key[at + 1 :],
        "insert": key[:at] + letter + key[at:],
        "swap": key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
    }[way]
    if typo.split("#")[0].strip() in ("", key, "- " + key) or typo.strip("'\"") == key:
        return  # white space, a comment
    lines = BLOCKS.splitlines()
    lines[number] = lines[number].replace(key, typo, 1)
    refused(file, "\n".join(lines))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4)
)  # fmt: skip
KEYS = st.sampled_from([key for _, key in key_lines()] + ["image", "label", "storage", "seed", "network"])
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6)
)


def read_or_refused(file: Path, text: str, overrides: list[str]) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load_spec(file, overrides), Spec)
    except SpecError as error:
        assert len(str(error).splitlines()) == 2  # noqa: PT017 - a spec that loads is as good


@settings(max_examples=120, deadline=None)
@given(part=KEYS, value=DOCUMENTS, override=st.none() | st.tuples(KEYS, KEYS, st.text(max_size=6)))
def test_no_document_raises_anything_else(file: Path, part: str, value: Any, override: tuple[str, str, str] | None) -> None:
    document = yaml.safe_load(DOCUMENTED)
    document[part] = value
    overrides = ["{}.{}={}".format(*override)] if override else []
    read_or_refused(file, yaml.safe_dump(document), overrides)
    read_or_refused(file, yaml.safe_dump(value), overrides)


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, len(DOCUMENTED)),
    gone=st.integers(0, 12),
    new=st.text(alphabet=st.sampled_from("ab09_.-+:,#'\"[]{}&*!?|>%@~<= \n\t\r\0é\u2028\x85\ufeff"), max_size=8),
)
def test_no_text_raises_anything_else(file: Path, at: int, gone: int, new: str) -> None:
    read_or_refused(file, DOCUMENTED[:at] + new + DOCUMENTED[at + gone :], [])


RULE = "gate:\n  - {metric: label_agreement, min: 0.9}\n"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("metric: recall, of: ceiling", "a rule for recall has none of min, at_least, max, at_most"),
        (
            "metric: recall, min: 0.5, at_least: 0.4",
            "has both min, which is of the figure, and at_least, which is of the worse",
        ),
        (
            "metric: recall, max: 0.5, at_most: 0.6",
            "has both max, which is of the figure, and at_most, which is of the worse",
        ),
        ("metric: recall, min: 0.5, max: 0.4", "a rule for recall has min 0.5 above max 0.4, so nothing meets it"),
        ("metric: recall, at_least: 0.5, at_most: 0.4", "at_least 0.5 above at_most 0.4"),
        ("metric: recall, min: 0.5, at_most: 0.4", "min 0.5 above at_most 0.4"),
        ("metric: recall, at_leest: 0.5", "unknown key gate.0.at_leest; did you mean 'at_least'?"),
        ("metric: recall, min: 0.5, of: celing", "unknown of 'celing' at gate.0.of; did you mean 'ceiling'?"),
        ("metric: lift, at_least: 0, of: ceiling", "a rule for lift is of its ceiling, but it has none; leave out of"),
        (
            "metric: recall, max: 0.5, plus: 0.1",
            "a rule for recall has plus, which is added to a share of its ceiling: add of",
        ),
        ("metric: recall, at_least: .nan", "gate.0.at_least is nan: input should be a finite number"),
    ],
)
def test_rules_that_cannot_be(file: Path, rule: str, said: str) -> None:
    assert said in refused(file, DOCUMENTED.replace("metric: label_agreement, min: 0.9", rule)).what


def test_a_rule_of_use_needs_something_to_predict(file: Path) -> None:
    rule = "gate=[{metric: lift, at_least: 0}]"
    said = refused(file, DOCUMENTED, rule, "evaluate.usefulness=false").what
    assert "gate has a rule for lift, but evaluate.usefulness is false" in said
    several = of_table("family: gan").replace("kind: number", "kind: category")
    assert "for lift, but there are several categories: name one in evaluate.target" in refused(file, several, rule).what
    load_spec(file, [rule, "evaluate.target=sex"])


def test_variants_have_no_ceiling_of_label_agreement(file: Path) -> None:
    rule = "gate=[{metric: label_agreement, at_least: 0.7, of: ceiling}]"
    assert "that of variants has none" in refused(file, DOCUMENTED, rule, "augment={variants: 2}").what
    load_spec(file, [rule])
    load_spec(file, ["gate=[{metric: label_agreement, min: 0.7}]", "augment={variants: 2}"])


def test_a_gate_that_can_never_be_passed_is_refused_before_the_training(file: Path) -> None:
    text = without(DOCUMENTED, RULE)
    plain = ["generator={family: vae}", "augment={rows: 10}"]
    for metric in ("synthetic_f1", "lift"):
        rule = f"gate=[{{metric: {metric}, min: 0}}]"
        said = refused(file, text, *plain, rule).what
        assert f"gate has a rule for {metric}, but the generator has no condition, so its rows have no label" in said
        load_spec(file, [rule, "generator={family: vae}", "augment={variants: 2}"])  # which have those of their rows
    rule = "gate=[{metric: negative_log_likelihood, max: 9999}]"
    said = refused(file, text, rule, "generator={family: vae}", "augment={variants: 2}").what
    assert "gate has a rule for negative_log_likelihood, which variants do not have" in said
    load_spec(file, [rule, *plain])


def test_a_label_that_images_do_not_have_cannot_be_told(file: Path) -> None:
    style = "dataset.schema.style={kind: category}"
    said = refused(file, DOCUMENTED, style, "evaluate.target=style").what
    assert "evaluate.target is 'style', but the generator's images have the label 'label': leave it out" in said
    load_spec(file, [style])
    file.write_text(of_table("family: autoregressive, condition: sex").replace("kind: number", "kind: category"))
    load_spec(file, ["evaluate.target=age"])


def gate_of(file: Path, text: str, *overrides: str) -> dict[str, dict[str, Any]]:
    """The gate of a spec that does not write one, by metric."""
    file.write_text(text)
    spec = load_spec(file, overrides)
    file.write_text(spec.to_yaml())
    assert load_spec(file) == spec
    rules = [rule.model_dump() for rule in spec.gate]
    assert yaml.safe_load(spec.to_yaml())["gate"] == rules  # written out
    return {rule.pop("metric"): rule for rule in rules}


def test_a_spec_without_a_gate_gets_the_one_of_its_data(file: Path) -> None:
    text = without(DOCUMENTED, RULE)
    of_images = gate_of(file, text)
    assert {"coverage", "precision", "label_agreement", "synthetic_f1", "membership_auc"} <= of_images.keys()
    assert of_images["coverage"].keys() == {"at_least", "of"}
    unlabelled = gate_of(file, text, "generator.condition=null", "augment={rows: 10}")
    assert unlabelled.keys() == of_images.keys() - {"label_agreement", "synthetic_f1"}
    assert gate_of(file, text, "evaluate.usefulness=false").keys() == of_images.keys() - {"synthetic_f1"}
    for varied in ("augment={variants: 2}", "generator={family: transforms, condition: label}"):
        of_variants = gate_of(file, text, "augment={variants: 2}", varied)
        # They are like training rows, and their labels are those that the classifier has learnt.
        assert not {"membership_auc", "label_agreement"} & of_variants.keys()
        assert {"precision", "synthetic_f1"} <= of_variants.keys()
    table = gate_of(file, of_table("family: gan"))
    assert {"quality", "membership_auc"} <= table.keys()
    for named in ("generator.condition=sex", "evaluate.target=sex"):
        assert gate_of(file, of_table("family: gan"), named).keys() - table.keys() == {"synthetic_f1"}
    assert gate_of(file, text, "gate=[]") == {}
