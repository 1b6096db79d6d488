"""A generator's rows are addressed, typed and asked for by condition; its artifact is whole, or is refused."""

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.generators import artifact, noise
from raygen.generators.base import Sampler
from raygen.generators.generator import Ask, Generator, untrained
from raygen.options import FamilySpec, GanSpec, TransformsSpec, VaeSpec
from raygen.spec import CategoryField, ImageField

MakeSpec = Callable[..., FamilySpec]

CPU = torch.device("cpu")
FAR = 10**12 + 5
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VALUES = ("ant", "bee", "cat", None)
COUNTS = (10, 0, 60, 30)  # the bee is in the holdout only
CATEGORY = Category(VALUES, COUNTS)

FIELDS = {"picture": ImageField(height=12, width=9, channels=3), "animal": CategoryField()}
ARROW = pa.schema(
    [pa.field("animal", pa.dictionary(pa.int8(), pa.string())), pa.field("picture", PICTURE, metadata={"a": "b"})],
    metadata={"z": "1", "huggingface": "{}", "b": "2"},
)


def codec_of(arrow: pa.Schema = ARROW, category: Category = CATEGORY, **size: int) -> Codec:
    fields = {**FIELDS, "picture": ImageField(**{"height": 12, "width": 9, "channels": 3, **size})}  # type: ignore[arg-type]
    return Codec.of(fields, arrow, {"animal": category})


def made(spec: FamilySpec, codec: Codec | None = None) -> Generator:
    """A generator after two steps on random pictures, its weights enlarged so that its rows differ by more than a grey."""
    codec = (codec or codec_of()).select(["picture", spec.condition])
    torch.manual_seed(0)
    learner = untrained(spec, codec, CPU)  # type: ignore[arg-type]
    for _ in range(2):
        classes = torch.arange(32) % learner.classes if learner.classes else None
        learner.step(torch.rand(32, *learner.shape) * 2 - 1, classes)
        learner.average_weights()
    sampler = learner.exported()
    with torch.no_grad():
        for parameter in sampler.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return Generator(spec, codec, sampler, lineage={"data": "f" * 64, "rows": 100, "metrics": {"loss": 0.5}})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["animal", None], ids=["conditional", "unconditional"])
def any_generator(make_spec: MakeSpec, request: pytest.FixtureRequest) -> Generator:
    return made(make_spec(condition=request.param))


@pytest.fixture(scope="module")
def wholes(any_generator: Generator) -> dict[int, pa.Table]:
    return {start: any_generator.sample(range(start, start + 200), seed=7) for start in (0, FAR)}


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A small one that takes a condition, for what does not depend on the family."""
    return made(VaeSpec(network="dense", latent=6, width=4, condition="animal"))


@pytest.fixture(scope="module")
def unconditional() -> Generator:
    return made(VaeSpec(network="dense", latent=6, width=4))


@pytest.fixture(scope="module", params=["animal", None], ids=["conditional", "unconditional"])
def scoring(request: pytest.FixtureRequest) -> Generator:
    """One that says how likely images of any grey are."""
    return made(VaeSpec(network="conv", latent=6, width=4, likelihood="logistic", condition=request.param))


@pytest.fixture
def saved(generator: Generator, tmp_path: Path) -> Path:
    generator.save(Folder(tmp_path / "artifact"))
    return tmp_path / "artifact"


def pixels(generator: Generator, table: pa.Table) -> np.ndarray:
    return generator.codec.encode(table)["picture"]


class TestBatch:
    def test_rows_of_several_who_ask_are_those_of_each_alone(self, any_generator: Generator) -> None:
        asked = [
            Ask(rows, seed, any_generator.classes(rows, seed))
            for rows, seed in [(range(3), 7), (range(FAR, FAR + 70), 7), (range(1), 8), (range(60, 66), 8), (range(3), 7)]
        ]
        for ask, batch in zip(asked, any_generator.batch(asked), strict=True):
            alone = any_generator.tensors(*ask)
            assert batch.keys() == alone.keys()
            assert all(np.array_equal(batch[name], alone[name]) for name in alone)

    def test_networks_that_mind_the_slot_make_each_range_by_itself(self, generator: Generator) -> None:
        asked = [Ask(range(3), seed, generator.classes(range(3), seed)) for seed in (1, 2)]
        alone = [generator.tensors(*ask)["picture"] for ask in asked]
        careful = dataclasses.replace(generator)
        careful.__dict__["any_slot"] = False
        assert all(np.array_equal(a["picture"], b) for a, b in zip(careful.batch(asked), alone, strict=True))


class TestBetween:
    @pytest.mark.parametrize("ends", [(3, 70), (FAR, 2), (5, 5)])
    def test_its_ends_are_the_rows_themselves(self, any_generator: Generator, ends: tuple[int, int]) -> None:
        way = any_generator.between(ends, 70, seed=7)
        assert len(way) == 70
        for place, row in zip((0, 69), ends, strict=True):
            assert way.slice(place, 1).equals(any_generator.sample(range(row, row + 1), seed=7))

    def test_each_step_is_a_small_one(self, any_generator: Generator) -> None:
        condition = any_generator.spec.condition and "ant"
        way = pixels(any_generator, any_generator.between((1, 2), 64, seed=7, condition=condition)).astype(float)
        steps, whole = (np.sqrt((of**2).mean()) for of in (np.diff(way, axis=0), way[-1] - way[0]))
        assert 0 < steps < whole / 8

    def test_it_does_not_depend_on_how_many_are_asked_for(self, any_generator: Generator) -> None:
        assert any_generator.between((1, 2), 9).slice(4, 1).equals(any_generator.between((1, 2), 3).slice(1, 1))

    def test_all_show_the_condition_or_what_the_nearer_end_does(self, generator: Generator) -> None:
        assert generator.between((1, 2), 5, condition="cat")["animal"].to_pylist() == ["cat"] * 5
        own = generator.sample(range(200), seed=7)["animal"].to_pylist()
        ends = own.index("ant"), own.index("cat")
        assert generator.between(ends, 5, seed=7)["animal"].to_pylist() == ["ant"] * 3 + ["cat"] * 2

    def test_where_nothing_is_between(self) -> None:
        spec = TransformsSpec()
        codec = codec_of().select(["picture"])
        with pytest.raises(RaygenError, match="has no latent space"):
            Generator(spec, codec, untrained(spec, codec, CPU).sampler().eval()).between((1, 2), 5)


class TestRows:
    def test_they_differ(self, any_generator: Generator, wholes: dict[int, pa.Table]) -> None:
        for table in wholes.values():
            images = pixels(any_generator, table)
            assert len(np.unique(images.reshape(200, -1), axis=0)) == 200
            assert images.std() > 10
        assert not wholes[0].equals(wholes[FAR])
        assert not any_generator.sample(range(200), seed=8).equals(wholes[0])

    @given(data=st.data())
    @settings(max_examples=15, deadline=None)
    def test_a_part_is_the_slice_of_the_whole(
        self, any_generator: Generator, wholes: dict[int, pa.Table], data: st.DataObject
    ) -> None:
        start = data.draw(st.sampled_from([0, FAR]))
        first = data.draw(st.one_of(st.sampled_from([0, 63, 64, 65, 128]), st.integers(0, 199)))
        length = data.draw(st.one_of(st.sampled_from([1, 64]), st.integers(1, 200)).map(lambda n: min(n, 200 - first)))
        part = any_generator.sample(range(start + first, start + first + length), seed=7)
        assert part.equals(wholes[start].slice(first, length), check_metadata=True)

    @pytest.mark.parametrize("start", [0, FAR])
    @given(data=st.data())
    @settings(max_examples=15, deadline=None)
    def test_a_variant_is_the_same_whatever_else_is_asked_for(
        self, any_generator: Generator, data: st.DataObject, start: int
    ) -> None:
        images = np.random.default_rng(3).integers(0, 256, (200, 3, 12, 9), np.uint8)
        classes = None if any_generator.spec.condition is None else np.arange(200) % 4
        whole = any_generator.variants(images, range(start, start + 200), 7, classes, 2)
        assert whole.dtype == np.uint8
        assert len(np.unique(whole.reshape(200, -1), axis=0)) == 200
        first = data.draw(st.one_of(st.sampled_from([0, 63, 64, 65, 128]), st.integers(0, 199)))
        length = data.draw(st.one_of(st.sampled_from([1, 64]), st.integers(1, 200)).map(lambda n: min(n, 200 - first)))
        part = slice(first, first + length)
        rows = range(start + first, start + first + length)
        given = None if classes is None else classes[part]
        np.testing.assert_array_equal(any_generator.variants(images[part], rows, 7, given, 2), whole[part])
        others = 255 - images  # in the neighbouring slots
        others[first] = images[first]
        mixed = any_generator.variants(others, range(start, start + 200), 7, classes, 2)
        np.testing.assert_array_equal(mixed[first], whole[first])

    def test_every_variant_is_another(self, any_generator: Generator) -> None:
        images = np.random.default_rng(3).integers(0, 256, (1, 3, 12, 9), np.uint8).repeat(70, 0)
        classes = None if any_generator.spec.condition is None else np.zeros(70, np.int64)
        made = [
            any_generator.variants(images, range(start, start + 70), seed, classes, variant)
            for start, seed, variant in ((0, 7, 1), (0, 7, 2), (0, 8, 1), (70, 7, 1))
        ]
        assert len(np.unique(np.concatenate(made).reshape(280, -1), axis=0)) == 280

    def test_they_come_out_of_a_range_that_is_one_tile_and_one_that_is_not(self, unconditional: Generator) -> None:
        whole = unconditional.sample(range(192), seed=1)
        tiles = [unconditional.sample(range(start, start + 64), seed=1) for start in (0, 64, 128)]
        assert pa.concat_tables(tiles).equals(whole)
        assert pa.concat_tables([unconditional.sample(range(row, row + 1), seed=1) for row in range(130)]).equals(
            whole[:130]
        )

    def test_the_networks_always_see_whole_and_aligned_tiles(self, unconditional: Generator) -> None:
        """So the rows of networks whose bits depend on the other rows, or on the place in the batch, are addressed too."""

        class Gossip(Sampler):
            noise = 4

            def __init__(self) -> None:
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(()))

            def forward(self, noise: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
                shade = noise.mean(1) + noise.mean() + torch.arange(len(noise)) / len(noise) + self.bias
                return torch.tanh(shade)[:, None, None, None].expand(-1, 3, 12, 9)

        for tile in (64, 10):
            generator = dataclasses.replace(unconditional, sampler=Gossip(), tile=tile)
            whole = generator.tensors(range(FAR, FAR + 200), 7, None)["picture"]
            assert whole.std() > 10
            for first, last in ((0, 1), (1, 2), (3, 9), (59, 60), (58, 130), (100, 200)):
                part = generator.tensors(range(FAR + first, FAR + last), 7, None)["picture"]
                np.testing.assert_array_equal(part, whole[first:last])

    def test_with_their_own_conditions_they_do_not_depend_on_the_range(self, generator: Generator) -> None:
        conditions = [VALUES[row * row % 4] for row in range(150)]
        whole = generator.sample(range(30, 180), 7, conditions)
        assert whole["animal"].to_pylist() == conditions
        for first, last in ((0, 1), (33, 35), (20, 150), (100, 101)):
            part = generator.sample(range(30 + first, 30 + last), 7, conditions[first:last])
            assert part.equals(whole.slice(first, last - first))

    def test_one_thread_or_two(self, make_spec: MakeSpec) -> None:
        """In the size people use, where PyTorch does share the work between threads."""
        size = {"height": 28, "width": 28, "channels": 1}
        big = made(make_spec(condition="animal", latent=100, width=32), codec_of(**size))
        one = big.sample(range(FAR, FAR + 70), seed=7)
        torch.set_num_threads(2)
        try:
            two = big.sample(range(FAR, FAR + 70), seed=7)
        finally:
            torch.set_num_threads(1)
        assert one.equals(two)
        assert big.sample(range(FAR + 40, FAR + 43), seed=7).equals(one.slice(40, 3))

    def test_they_do_not_depend_on_the_seed_of_torch(self, generator: Generator) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = generator.sample(range(5), seed=7)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert generator.sample(range(5), seed=7).equals(one)

    @pytest.mark.parametrize("rows", [range(-1, 5), range(0, 10, 2), range(5, 0, -1), range(5, 5)], ids=str)
    def test_other_ranges_are_refused(self, generator: Generator, unconditional: Generator, rows: range) -> None:
        for one in (generator, unconditional):
            with pytest.raises(RaygenError) as caught:
                one.sample(rows, seed=7)
            assert str(rows) in caught.value.what
            assert "range(1000, 1100)" in caught.value.hint

    def test_tensors_are_what_the_table_shows(self, generator: Generator) -> None:
        rows = range(60, 70)
        batch = generator.tensors(rows, 7, generator.classes(rows, 7))
        table = generator.sample(rows, 7)
        assert (batch["picture"].dtype, batch["picture"].shape) == (np.uint8, (10, 3, 12, 9))
        np.testing.assert_array_equal(batch["picture"], pixels(generator, table))
        assert [VALUES[index] for index in batch["animal"]] == table["animal"].to_pylist()

    def test_pixels_cover_minus_one_to_one(self, unconditional: Generator) -> None:
        """−1 is 0, 1 is 255, and what is between is rounded to the nearest."""

        class Ramp(Sampler):
            noise = 1

            def __init__(self) -> None:
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(()))

            def forward(self, noise: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
                return torch.linspace(-1, 1, 3 * 12 * 9).view(1, 3, 12, 9).repeat(len(noise), 1, 1, 1) + self.bias

        batch = dataclasses.replace(unconditional, sampler=Ramp()).tensors(range(2), 7, None)
        np.testing.assert_array_equal(batch["picture"][1].ravel(), np.rint(np.linspace(0, 255, 3 * 12 * 9)))


class TestLikelihood:
    images = np.random.default_rng(3).integers(0, 256, (150, 3, 12, 9), np.uint8)

    def classes(self, generator: Generator) -> np.ndarray | None:
        return None if generator.spec.condition is None else np.arange(150) % 4

    def test_a_row_scores_the_same_whatever_else_is_asked_for(self, scoring: Generator) -> None:
        classes = self.classes(scoring)
        whole = scoring.log_likelihood(self.images, range(FAR, FAR + 150), 7, classes, samples=5)
        assert (whole.dtype, whole.shape) == (np.float64, (150,))
        assert len(np.unique(whole)) == 150
        assert (whole < 0).all()  # probabilities, of one of 256 values each
        for first, last in ((0, 1), (33, 70), (63, 65), (149, 150)):
            part, given = slice(first, last), None if classes is None else classes[first:last]
            again = scoring.log_likelihood(self.images[part], range(FAR + first, FAR + last), 7, given, samples=5)
            np.testing.assert_array_equal(again, whole[part])

    def test_it_is_by_the_samplers_bound(self, scoring: Generator) -> None:
        classes = self.classes(scoring)
        normals = noise.normals(7, "likelihood", range(150), 3 * 6).reshape(150, 3, 6).transpose(1, 0, 2)
        pictures = torch.from_numpy(self.images).float() / 127.5 - 1
        given = None if classes is None else torch.from_numpy(classes)
        with torch.no_grad():
            expected = scoring.sampler.log_likelihood(pictures, torch.from_numpy(normals), given).numpy()
        found = scoring.log_likelihood(self.images, range(150), 7, classes, samples=3)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_more_samples_are_a_higher_bound(self, scoring: Generator) -> None:
        means = [
            scoring.log_likelihood(self.images, range(150), 7, self.classes(scoring), samples).mean()
            for samples in (1, 5, 50)
        ]
        assert means[0] < means[1] < means[2]

    def test_it_depends_on_the_number_the_seed_and_the_class(self, generator: Generator) -> None:
        same = np.zeros((4, 3, 12, 9), np.uint8)
        classes = np.array([0, 0, 0, 2])
        found = generator.log_likelihood(same, range(4), 7, classes, 2)
        assert len(np.unique(found)) == 4
        assert (generator.log_likelihood(same, range(4), 8, classes, 2) != found).all()

    def test_families_that_say_nothing_of_it_say_so(self) -> None:
        with pytest.raises(RaygenError, match="'gan' does not say how likely"):
            made(GanSpec(network="dense", latent=4, width=1)).log_likelihood(self.images, range(150), 7, None)

    def test_grey_pixels_have_none_under_a_bernoulli(self, unconditional: Generator) -> None:
        with pytest.raises(RaygenError, match="not all black or white"):
            unconditional.log_likelihood(self.images, range(150), 7, None)
        binary = np.where(self.images > 127, 255, 0).astype(np.uint8)
        assert np.isfinite(unconditional.log_likelihood(binary, range(150), 7, None, 2)).all()


TENSOR = pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 9), 12)


@pytest.mark.parametrize(
    "picture", [PICTURE, pa.binary(), pa.large_binary(), TENSOR, pa.fixed_shape_tensor(pa.float32(), [12, 9, 3])], ids=str
)
@pytest.mark.parametrize(
    ("animal", "values"),
    [
        (pa.string(), ("a", "b", None)),
        (pa.dictionary(pa.int32(), pa.large_string()), ("a", "b", None)),
        (pa.int8(), (-3, 5)),
        (pa.uint64(), (0, 2**63)),
        (pa.bool_(), (False, True, None)),
    ],
    ids=str,
)
def test_types_are_those_of_the_source(picture: pa.DataType, animal: pa.DataType, values: tuple[Any, ...]) -> None:
    arrow = pa.schema([("picture", picture), ("left out", pa.int8()), ("animal", animal)], metadata={"k": "v"})
    codec = codec_of(arrow, Category(values, (5,) * len(values)))
    generator = made(VaeSpec(network="dense", latent=2, width=1, condition="animal"), codec)
    table = generator.sample(range(50), seed=7)
    expected = pa.schema([("picture", picture), ("animal", animal)], metadata={"k": "v"})
    assert table.schema.equals(expected, check_metadata=True)
    table.validate(full=True)
    assert set(table["animal"].to_pylist()) == set(values)
    for value in values:
        if value is not None:
            assert generator.sample(range(3), 7, value)["animal"].to_pylist() == [value] * 3


def test_the_columns_are_the_picture_and_the_condition(generator: Generator, unconditional: Generator) -> None:
    assert generator.sample(range(2), 0).schema.equals(ARROW, check_metadata=True)
    assert unconditional.sample(range(2), 0).schema.equals(ARROW.remove(0), check_metadata=True)


class TestCondition:
    rows = range(100, 106)
    values = ("cat", "ant", None, "bee", "cat", None)

    def test_one_value_for_all_rows(self, generator: Generator) -> None:
        table = generator.sample(self.rows, 7, "cat")
        assert table["animal"].to_pylist() == ["cat"] * 6
        assert table.equals(generator.sample(self.rows, 7, ["cat"] * 6))
        assert table.equals(generator.sample(self.rows, 7, np.str_("cat")))

    def test_one_value_for_each_row(self, generator: Generator) -> None:
        expected = generator.sample(self.rows, 7, self.values)
        assert expected["animal"].to_pylist() == list(self.values)
        halves = pa.chunked_array([self.values[:2], self.values[2:]])
        for same in (list(self.values), np.array(self.values, object), pa.array(self.values), halves):
            assert generator.sample(self.rows, 7, same).equals(expected)
        assert generator.sample(self.rows, 7, expected["animal"]).equals(expected)  # as it stands in the table

    def test_it_changes_what_a_row_shows(self, any_generator: Generator) -> None:
        if any_generator.spec.condition is None:
            return
        cat, ant = (pixels(any_generator, any_generator.sample(range(20), 7, value)) for value in ("cat", "ant"))
        assert (cat != ant).reshape(20, -1).any(axis=1).all()

    @pytest.mark.parametrize(
        ("kind", "values"), [(pa.int64(), (1, 2, 7)), (pa.bool_(), (False, True))], ids=["integers", "booleans"]
    )
    def test_numbers_and_booleans(self, kind: pa.DataType, values: tuple[Any, ...]) -> None:
        arrow = pa.schema([("picture", PICTURE), ("animal", kind)])
        codec = codec_of(arrow, Category(values, (1,) * len(values)))
        generator = made(VaeSpec(network="dense", latent=2, width=1, condition="animal"), codec)
        array = np.array(values)
        expected = generator.sample(range(len(values)), 7, list(values))
        assert expected["animal"].to_pylist() == list(values)
        assert generator.sample(range(len(values)), 7, array).equals(expected)
        for index, value in enumerate(values):
            for same in (value, array[index], np.array(value)):
                assert generator.sample(range(3), 7, same)["animal"].to_pylist() == [value] * 3
        wrong = True if kind == pa.int64() else 1  # equal in Python, but not meant
        with pytest.raises(RaygenError, match="animal has no value"):
            generator.sample(range(3), 7, wrong)

    def test_by_default_it_has_the_frequencies_of_the_training_data(self, generator: Generator) -> None:
        n = 40_000
        drawn = generator.classes(range(FAR, FAR + n), 7)
        assert drawn is not None
        counts = Counter(VALUES[index] for index in drawn)
        assert counts["bee"] == 0
        for value, count in zip(VALUES, COUNTS, strict=True):
            share = count / sum(COUNTS)
            assert abs(counts[value] - n * share) <= 4 * (n * share * (1 - share)) ** 0.5
        table = generator.sample(range(FAR + 100, FAR + 170), 7)
        assert table["animal"].to_pylist() == [VALUES[index] for index in drawn[100:170]]
        assert table.equals(generator.sample(range(FAR + 100, FAR + 170), 7, table["animal"]))
        other = generator.classes(range(FAR, FAR + n), 8)
        assert other is not None
        assert (drawn != other).any()

    def test_a_value_without_training_rows_is_never_drawn(
        self, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codec = codec_of(category=Category(VALUES, (0, 1, 0, 3)))
        draws = np.array([[0.0], [np.nextafter(0.25, 0)], [0.25], [np.nextafter(1, 0)]])
        monkeypatch.setattr(noise, "uniforms", lambda *_: draws)
        assert dataclasses.replace(generator, codec=codec).classes(range(4), 7).tolist() == [1, 1, 3, 3]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "wrong",
        [
            "dog",
            3,
            3.5,
            True,
            ["cat"] * 5 + ["dog"],
            np.array(["cat"] * 5 + ["dog"]),
            pa.array(["dog"] * 6),
            np.float64(3.5),
        ],
        ids=repr,
    )
    def test_a_value_never_seen(self, generator: Generator, wrong: Any) -> None:
        with pytest.raises(RaygenError) as caught:
            generator.sample(self.rows, 7, wrong)
        assert "animal has no value" in caught.value.what
        assert "'ant', 'bee', 'cat', None" in caught.value.hint

    def test_a_name_near_to_a_value_is_not_it(self, generator: Generator) -> None:
        with pytest.raises(RaygenError, match="no value 'None'"):
            generator.sample(self.rows, 7, "None")

    @pytest.mark.parametrize("wrong", [["cat"] * 5, [], np.array(["cat"] * 7), pa.array(["cat"])], ids=repr)
    def test_another_number_of_values_than_rows(self, generator: Generator, wrong: Any) -> None:
        with pytest.raises(RaygenError) as caught:
            generator.sample(self.rows, 7, wrong)
        assert caught.value.what == f"{len(wrong)} conditions for 6 rows"

    @pytest.mark.parametrize("wrong", [[["cat"]] * 6, np.full((6, 2), "cat"), [{"animal": "cat"}] * 6], ids=repr)
    def test_values_that_are_no_values(self, generator: Generator, wrong: Any) -> None:
        with pytest.raises(RaygenError, match="one value"):
            generator.sample(self.rows, 7, wrong)

    def test_where_there_is_none_to_give(self, unconditional: Generator) -> None:
        with pytest.raises(RaygenError, match="takes no condition"):
            unconditional.sample(range(5), 7, "cat")


class TestArtifact:
    def test_it_comes_back_as_it_was(self, any_generator: Generator, wholes: dict[int, pa.Table], tmp_path: Path) -> None:
        any_generator.save(Folder(tmp_path))
        for uri in (tmp_path, str(tmp_path), tmp_path.as_uri()):
            loaded = Generator.load(uri, "cpu")
            assert loaded.digest == any_generator.digest
            assert loaded.spec == any_generator.spec
            assert loaded.sample(range(FAR, FAR + 200), 7).equals(wholes[FAR], check_metadata=True)

    def test_its_files(self, generator: Generator, saved: Path) -> None:
        assert sorted(path.name for path in saved.iterdir()) == ["README.md", "generator.json", "weights.safetensors"]
        weights = safetensors.torch.load_file(saved / "weights.safetensors")
        assert weights.keys() == generator.sampler.state_dict().keys()
        document = json.loads((saved / "generator.json").read_text())
        assert document["digest"] == generator.digest
        assert document["lineage"]["data"] == "f" * 64
        assert document["lineage"]["versions"]["torch"] == torch.__version__
        card = (saved / "README.md").read_text()
        assert generator.digest in card
        assert "asked for by `animal`" in card
        assert "loss: 0.5" in card

    def test_saving_it_again_changes_no_byte(self, generator: Generator, saved: Path) -> None:
        before = {path.name: path.read_bytes() for path in saved.iterdir()}
        Generator.load(saved).save(Folder(saved))
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    def test_the_lineage_comes_back(self, generator: Generator, saved: Path) -> None:
        assert dict(generator.lineage).items() <= dict(Generator.load(saved).lineage).items()

    def test_another_process_makes_the_same_rows_and_needs_no_ray(self, generator: Generator, saved: Path) -> None:
        code = (
            "import sys\n"
            "import raygen.generators.generator\n"
            "assert 'ray' not in sys.modules\n"
            f"generator = raygen.Generator.load({str(saved)!r}, 'cpu')\n"
            "table = generator.sample(range(100, 170), seed=7)\n"
            "assert 'ray' not in sys.modules\n"
            "import pyarrow as pa\n"
            f"with pa.ipc.new_file({str(saved / 'rows.arrow')!r}, table.schema) as file: file.write(table)\n"
            "print(generator.digest)\n"
        )
        result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == generator.digest
        table = pa.ipc.open_file(saved / "rows.arrow").read_all()
        assert table.equals(generator.sample(range(100, 170), seed=7), check_metadata=True)


class TestDigest:
    def test_it_is_the_hash_of_the_canonical_content(self) -> None:
        """Artifacts are found by it: another way to write the content would rename them all."""
        weights = {"w": torch.tensor([[1.0], [-2.0]]), "n": torch.tensor(3)}
        content = b'{"a":[1.5,null],"z":"\xc3\xbc"}\nn torch.int64 ()\n' + (3).to_bytes(8, "little")
        content += b"\nw torch.float32 (2, 1)\n" + np.array([1, -2], "<f4").tobytes()
        assert artifact.digest({"z": "ü", "a": [1.5, None]}, weights) == hashlib.sha256(content).hexdigest()

    def test_the_same_content_has_the_same(self, generator: Generator) -> None:
        again = made(VaeSpec(network="dense", latent=6, width=4, condition="animal"))
        assert again.digest == generator.digest
        assert len(generator.digest) == 64
        assert set(generator.digest) <= set("0123456789abcdef")

    def test_every_weight_is_in_it(self, any_generator: Generator) -> None:
        digests = {any_generator.digest}
        state = any_generator.sampler.state_dict()
        for name, tensor in state.items():
            kept = tensor.clone()
            if tensor.is_floating_point():
                first = tensor[(0,) * tensor.ndim]
                first.copy_(torch.nextafter(first, torch.tensor(torch.inf)))
            else:
                tensor.add_(1)
            digests.add(dataclasses.replace(any_generator).digest)
            tensor.copy_(kept)
            assert torch.equal(any_generator.sampler.state_dict()[name], kept)
        assert len(digests) == len(state) + 1
        assert dataclasses.replace(any_generator).digest == any_generator.digest

    def test_so_are_options_codec_and_tile(self, generator: Generator) -> None:
        other = [
            {"tile": 128},
            {"spec": generator.spec.model_copy(update={"ema": 0.5})},
            {"codec": codec_of(category=Category(VALUES, (10, 1, 60, 30)))},
            {"codec": codec_of(category=Category(("ant", "bee", "cow", None), COUNTS))},
            {"codec": codec_of(ARROW.with_metadata({"k": "v"}))},
            {"codec": codec_of(ARROW.set(0, pa.field("animal", pa.string())))},
            {"codec": codec_of(height=13)},
        ]
        assert len({generator.digest, *(dataclasses.replace(generator, **change).digest for change in other)}) == 8

    def test_the_lineage_is_not(self, generator: Generator) -> None:
        assert dataclasses.replace(generator, lineage={"data": "another"}).digest == generator.digest


class TestBroken:
    """A broken artifact is one line that names it, never rows and never a traceback."""

    def refused(self, folder: Path) -> str:
        with pytest.raises(OutputError) as caught:
            Generator.load(folder)
        error = caught.value
        assert str(folder) in error.what
        assert "\n" not in error.what
        assert error.hint
        return error.what

    @pytest.mark.parametrize("name", ["generator.json", "weights.safetensors"])
    def test_a_file_is_missing(self, saved: Path, name: str) -> None:
        (saved / name).unlink()
        assert name in self.refused(saved)

    def test_nothing_is_there(self, tmp_path: Path) -> None:
        assert "is not a generator" in self.refused(tmp_path)
        assert "is not a generator" in self.refused(tmp_path / "nowhere")

    def test_the_card_is_not_needed(self, saved: Path, generator: Generator) -> None:
        (saved / "README.md").unlink()
        assert Generator.load(saved).digest == generator.digest

    @pytest.mark.parametrize("name", ["generator.json", "weights.safetensors"])
    @pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
    def test_a_file_is_truncated(self, saved: Path, name: str, share: float) -> None:
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[: int(len(content) * share)])
        self.refused(saved)

    def test_a_byte_of_the_weights_is_flipped(self, saved: Path) -> None:
        path = saved / "weights.safetensors"
        content = path.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        for position in [*range(header), *range(header, len(content), 997), len(content) - 1]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            if content[position] == ord(" "):  # padding of the header
                continue
            self.refused(saved)

    def test_a_byte_of_the_document_is_flipped(self, saved: Path, generator: Generator) -> None:
        """Refused, or what was flipped (a space, a letter of the lineage) does not decide the rows."""
        path = saved / "generator.json"
        content = path.read_bytes()
        kept = 0
        for position in range(0, len(content), 5):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            with contextlib.suppress(OutputError):
                assert Generator.load(saved).digest == generator.digest
                kept += 1
        assert 0 < kept < len(content) / 10

    @pytest.mark.parametrize(
        "text", ["", "null", "[]", "3", "{}", '{"format": 1}', '{"format": 1, "identity": 3, "digest": ""}']
    )
    def test_the_document_is_another_json(self, saved: Path, text: str) -> None:
        (saved / "generator.json").write_text(text)
        self.refused(saved)

    def test_weights_of_another_generator(self, saved: Path, unconditional: Generator, tmp_path: Path) -> None:
        unconditional.save(Folder(tmp_path / "other"))
        (tmp_path / "other" / "weights.safetensors").replace(saved / "weights.safetensors")
        assert "not what its digest says" in self.refused(saved)

    def test_a_newer_format(self, saved: Path) -> None:
        self.edit(saved, lambda document: {"format": 2, "whatever": document})
        (saved / "weights.safetensors").rename(saved / "weights-00001.safetensors")
        assert "format is 2" in self.refused(saved)

    @pytest.mark.parametrize(
        "change", [{"family": "diffusion"}, {"spectral_norm": True}, {"width": 5}], ids=["family", "option", "network"]
    )
    def test_what_another_raygen_made(self, saved: Path, change: dict[str, Any]) -> None:
        """Its digest is right, but this raygen knows no such family, option or network: the version that does is named."""
        weights = safetensors.torch.load_file(saved / "weights.safetensors")

        def newer(document: dict[str, Any]) -> dict[str, Any]:
            document["identity"]["generator"].update(change)
            document["lineage"]["versions"]["raygen"] = "9.8.7"
            return {**document, "digest": artifact.digest(document["identity"], weights)}

        self.edit(saved, newer)
        self.refused(saved)
        with pytest.raises(OutputError, match=r"9\.8\.7"):
            Generator.load(saved)

    def edit(self, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        path = folder / "generator.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("seed", [-1, 7.0, "7", True])
def test_a_seed_is_a_whole_number(generator: Generator, seed: object) -> None:
    with pytest.raises(RaygenError, match="is not a seed"):
        generator.sample(range(3), seed)  # type: ignore[arg-type]
