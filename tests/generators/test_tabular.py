"""The families gan and vae on tables: what goes together is learnt, what is given says what else is likely."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from raygen.datasets.codec import CELLS, Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.base import Family
from raygen.generators.families import family
from raygen.generators.generator import Generator, untrained
from raygen.generators.networks import Tokens
from raygen.generators.tabular import given_in_training
from raygen.generators.tabular_gan import TabularGan, by_sampling
from raygen.options import FamilySpec, GanSpec, TabularGanSpec, TabularVaeSpec, VaeSpec
from raygen.spec import CategoryField, ImageField

CPU = torch.device("cpu")
TOKENS = Tokens((3, 4))
JOINT = torch.tensor([[0.40, 0.05, 0.02, 0.03], [0.02, 0.20, 0.02, 0.06], [0.02, 0.02, 0.15, 0.01]])
CATEGORIES = {"a": Category(("x", "y", "z"), (50, 30, 20)), "b": Category((1, 2, 3, None), (44, 27, 19, 10))}
ARROW = pa.schema([("a", pa.string()), ("b", pa.int16())])
CODEC = Codec.of({"a": CategoryField(), "b": CategoryField()}, ARROW, CATEGORIES)
SPECS: dict[str, tuple[FamilySpec, int, float]] = {  # how many steps it learns, and how far from the joint it may end
    "gan": (TabularGanSpec(latent=8), 400, 0.1),
    "vae": (TabularVaeSpec(latent=4, width=32, embedding=8, features=16, learning_rate=5e-3, condition="a"), 400, 0.09),
}


def rows_of(joint: Tensor, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.flatten(), count, replacement=True, generator=generator)
    return torch.stack(torch.unravel_index(drawn, joint.shape), 1).double()


def apart(cells: Tensor, joint: Tensor) -> float:
    """The distance in total variation between rows and a joint distribution, 0 to 1."""
    a, b = cells.long().unbind(1)
    return 0.5 * float((torch.bincount(a * 4 + b, minlength=12).view(3, 4) / len(cells) - joint).abs().sum())


@pytest.fixture(scope="module", params=SPECS)
def learnt(request: pytest.FixtureRequest) -> tuple[Family, float]:
    spec, steps, tolerance = SPECS[request.param]
    torch.manual_seed(0)
    learner: Family = untrained(spec, CODEC, CPU)  # type: ignore[arg-type]
    for step in range(steps):
        learner.pace(step / steps, 1 - step / steps)
        learner.step(rows_of(JOINT, 500, step), None)
        learner.average_weights()
    return learner, tolerance


@torch.inference_mode()
def make(learner: Family, given: Tensor | None) -> Tensor:
    sampler = learner.exported()
    noise = torch.rand(20_000, sampler.noise, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return sampler(noise, given)  # type: ignore[no-any-return]


class TestDistribution:
    def test_of_rows_is_the_one_learnt(self, learnt: tuple[Family, float]) -> None:
        learner, tolerance = learnt
        assert apart(make(learner, None), JOINT) < tolerance

    @pytest.mark.parametrize("column", [0, 1])
    def test_of_what_is_free_is_that_given_the_rest(self, learnt: tuple[Family, float], column: int) -> None:
        learner, tolerance = learnt
        for token in range(3):
            of = torch.zeros_like(JOINT)
            of.select(column, token).copy_(JOINT.select(column, token))
            given = torch.full((20_000, 2), torch.nan, dtype=torch.float64)
            given[:, column] = token + 0.25
            made = make(learner, given)
            assert (made[:, column] == token + 0.25).all()
            assert apart(made, of / of.sum()) < 2 * tolerance

    def test_of_places_is_uniform(self, learnt: tuple[Family, float]) -> None:
        made = make(learnt[0], None)
        for places in (made - made.floor()).unbind(1):
            shares = torch.histc(places, 20, 0, 1) / len(places)
            assert 0.5 * (shares - 0.05).abs().sum() < 0.03


def test_rows_of_a_generator_and_of_its_artifact(learnt: tuple[Family, float], tmp_path: Path) -> None:
    learner, _ = learnt
    assert isinstance(learner.spec, TabularGanSpec | TabularVaeSpec)
    sampler = learner.exported()
    generator = Generator(learner.spec, CODEC, sampler, sampler.tile)
    rows = range(5, 2000)
    classes = generator.classes(rows, 7)
    made = generator.tensors(rows, 7, classes)[CELLS]
    if classes is not None:
        assert (made[:, 0] == classes).all()
    part = generator.tensors(rows[1000:1003], 7, None if classes is None else classes[1000:1003])[CELLS]
    assert (made[1000:1003] == part).all()
    assert generator.sample(rows, 7).schema == ARROW

    generator.save(Folder(tmp_path))
    back = Generator.load(tmp_path, "cpu")
    assert (back.digest, back.spec) == (generator.digest, generator.spec)
    assert (back.tensors(rows, 7, classes)[CELLS] == made).all()


def test_options_for_images_make_no_tables() -> None:
    images = Codec.of({"i": ImageField(height=8, width=8)}, pa.schema([("i", pa.binary())]), {})
    for of_images, of_tables in ((GanSpec(), TabularGanSpec()), (VaeSpec(), TabularVaeSpec())):
        with pytest.raises(RaygenError, match="are not those for tables"):
            untrained(of_images, CODEC, CPU)
        with pytest.raises(RaygenError, match="are not those for images"):
            untrained(of_tables, images, CPU)


def test_a_token_of_a_column_can_be_out_of_thousands() -> None:
    """What the networks need for it is in proportion to their number, and no layer is as wide as that."""
    for spec in (TabularGanSpec(embedding=4, features=8), TabularVaeSpec(embedding=4, features=8)):
        sizes = []
        for count in (10, 5010):
            learner = family(spec.family, "tables")(spec, Tokens((count, 2)), 0, CPU)
            sizes.append(sum(p.numel() for network in learner.networks.values() for p in network.parameters()))
        assert sizes[1] - sizes[0] == 5000 * (2 * 4 + 8 + 1)
        cells = torch.stack([torch.arange(64.0) * 78, torch.arange(64.0) % 2], 1).double()
        assert all(torch.isfinite(value) for value in learner.step(cells, None).values())


class TestBySampling:
    tokens = rows_of(JOINT, 20_000, 0).long()

    def test_half_are_the_rows_of_the_batch(self) -> None:
        rows, given = by_sampling(self.tokens, torch.rand(20_000, 3), TOKENS)
        own = ~given.any(1)
        assert own.float().mean() == pytest.approx(0.5, abs=0.02)
        assert torch.equal(rows[own], self.tokens[own])
        assert given.sum(1).max() == 1
        assert given[:, 0].float().mean() == pytest.approx(0.25, abs=0.02)

    def test_tokens_that_are_given_are_there_by_the_logarithm_of_their_rows(self) -> None:
        rows, given = by_sampling(self.tokens, torch.rand(20_000, 3), TOKENS)
        for column, count in enumerate(TOKENS):
            logs = torch.bincount(self.tokens[:, column], minlength=count).log1p()
            found = torch.bincount(rows[given[:, column], column], minlength=count)
            torch.testing.assert_close(found / found.sum(), logs / logs.sum(), rtol=0, atol=0.03)
            for token in range(count):  # and otherwise they are as other rows with the token
                of = torch.zeros_like(JOINT)
                of.select(column, token).copy_(JOINT.select(column, token))
                assert apart(rows[given[:, column] & (rows[:, column] == token)], of / of.sum()) < 0.05


def test_a_condition_is_given_of_every_row() -> None:
    tokens = Tokens.of({"a": 3, "b": 4}, "b")
    rows, given = by_sampling(TestBySampling.tokens, torch.rand(20_000, 3), tokens)
    assert given.all(0).tolist() == [False, True]
    assert not given[:, 0].any()
    # Half are the batch's own, and half such that rare ones are there too.
    counts = torch.bincount(TestBySampling.tokens[:, 1], minlength=4)
    expected = counts / counts.sum() / 2 + counts.log1p() / counts.log1p().sum() / 2
    torch.testing.assert_close(torch.bincount(rows[:, 1], minlength=4) / len(rows), expected, rtol=0, atol=0.02)


def test_packs_are_filled_whatever_the_batch() -> None:
    spec = TabularGanSpec(latent=4, width=8, pack=10)
    learner = TabularGan(spec, TOKENS, 0, CPU)
    for rows, pieces in ((256, 1), (7, 1), (12, 3)):
        learner.pieces = pieces
        assert all(torch.isfinite(value) for value in learner.step(rows_of(JOINT, rows, 0), None).values())


def test_a_pack_is_judged_by_its_rows_together() -> None:
    learner = TabularGan(TabularGanSpec(latent=4, width=8, pack=4), TOKENS, 0, CPU)
    tokens = rows_of(JOINT, 12, 0).long()
    given = torch.zeros(12, 2, dtype=torch.bool)
    judge = learner.networks["discriminator"]
    before, _ = judge(tokens, None, given)
    assert before.shape == (3,)
    tokens[5] = (tokens[5] + 1) % 3
    changed = judge(tokens, None, given)[0] != before
    assert changed.tolist() == [False, True, False]


def test_half_of_the_rows_of_a_vae_are_given_nothing_and_a_quarter_one_column() -> None:
    given = given_in_training(torch.rand(40_000, 9, generator=torch.Generator().manual_seed(0)))
    counts = torch.bincount(given.sum(1), minlength=7) / 40_000
    assert counts[0] == pytest.approx(0.5 + 0.25 / 7, abs=0.01)
    assert counts[1] == pytest.approx(0.25 + 0.25 / 7, abs=0.01)
    assert counts[2:].tolist() == pytest.approx([0.25 / 7] * 5, abs=0.01)
    np.testing.assert_allclose(given.float().mean(0), np.full(6, 0.25 / 6 + 0.25 / 2), atol=0.01)
