"""The autoregressive family learns a known joint distribution, and makes rows of it whatever is given."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from raygen.datasets.codec import CELLS, Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.autoregressive import Autoregressive, ConditionalSampler, visible
from raygen.generators.base import Sampler
from raygen.generators.conditionals import Conditionals
from raygen.generators.generator import Generator, untrained
from raygen.generators.networks import Tokens
from raygen.options import AutoencoderSpec, AutoregressiveSpec
from raygen.spec import CategoryField, ImageField

LEARNT = {"width": 64, "features": 32, "learning_rate": 0.005}
CPU = torch.device("cpu")
TOKENS = Tokens((3, 4, 2))
FIELDS = {"a": CategoryField(), "b": CategoryField(), "c": CategoryField()}
CATEGORIES = {
    "a": Category(("x", "y", "z"), (50, 30, 20)),
    "b": Category((1, 2, 3, None), (40, 30, 20, 10)),
    "c": Category((False, True), (60, 40)),
}
ARROW = pa.schema([("a", pa.string()), ("b", pa.int16()), ("c", pa.bool_())])


def known_joint() -> Tensor:
    """p(a, b, c), in which every column depends on the others: ``(3, 4, 2)``."""
    a = torch.tensor([0.5, 0.3, 0.2])
    b = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], [0.05, 0.45, 0.45, 0.05]])
    one = torch.tensor([[0.1, 0.9, 0.1, 0.9], [0.9, 0.1, 0.9, 0.1], [0.5, 0.2, 0.8, 0.5]])
    return (a[:, None] * b)[..., None] * torch.stack([1 - one, one], -1)


JOINT = known_joint()


def rows_of(joint: Tensor, count: int, seed: int) -> Tensor:
    """Cells of rows that are drawn, the places too."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.flatten(), count, replacement=True, generator=generator)
    tokens = torch.stack(torch.unravel_index(drawn, joint.shape), 1)
    return tokens + torch.rand(tokens.shape, generator=generator, dtype=torch.float64)


def shares(cells: Tensor) -> Tensor:
    """How often each combination of tokens is there."""
    a, b, c = cells.long().unbind(1)
    return torch.bincount((a * 4 + b) * 2 + c, minlength=24).view(3, 4, 2) / len(cells)


def apart(one: Tensor, other: Tensor) -> float:
    """The distance in total variation of two distributions, 0 to 1."""
    return 0.5 * float((one - other).abs().sum())


def spec_of(**options: Any) -> AutoregressiveSpec:
    return AutoregressiveSpec(**{"embedding": 8, "width": 32, "features": 16, **options})


def new(tokens: Tokens = TOKENS, seed: int = 0, **options: Any) -> Autoregressive:
    torch.manual_seed(seed)
    return Autoregressive(spec_of(**options), tokens, 0, CPU)


@pytest.fixture(scope="module")
def learnt() -> Sampler:
    learner = new(**LEARNT)
    steps = 600
    for step in range(steps):
        learner.pace(step / steps, 1 - step / steps)
        torch.manual_seed(step)
        learner.step(rows_of(JOINT, 512, step), None)
        learner.average_weights()
    return learner.exported()


@torch.inference_mode()
def make(sampler: Sampler, given: Tensor | None, rows: int = 20_000, seed: int = 1) -> Tensor:
    noise = torch.rand(rows, sampler.noise, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return sampler(noise, given)  # type: ignore[no-any-return]


@torch.inference_mode()
def vary(sampler: Sampler, cells: Tensor, strength: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sampler.vary(
        cells, torch.rand(len(cells), sampler.noise, dtype=torch.float64, generator=generator), None, strength
    )


class TestDistribution:
    def test_of_rows_is_the_one_learnt(self, learnt: Sampler) -> None:
        assert apart(shares(make(learnt, None)), JOINT) < 0.03

    @pytest.mark.parametrize("columns", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
    def test_of_what_is_free_is_that_given_the_rest(self, learnt: Sampler, columns: list[int]) -> None:
        """In any order: the first column given the last, too."""
        for tokens in itertools.product(*(range(TOKENS[column]) for column in columns)):
            of = torch.zeros_like(JOINT)
            place = tuple(tokens[columns.index(column)] if column in columns else slice(None) for column in range(3))
            of[place] = JOINT[place]
            given = torch.full((4000, 3), torch.nan, dtype=torch.float64)
            given[:, columns] = torch.tensor(tokens, dtype=torch.float64)
            assert apart(shares(make(learnt, given, 4000)), of / of.sum()) < 0.08

    def test_of_rows_that_are_given_different_columns(self, learnt: Sampler) -> None:
        """Each row keeps its own, and all together are as if nothing had been given."""
        real = rows_of(JOINT, 20_000, seed=5)
        given = real.masked_fill(torch.rand(real.shape, generator=torch.Generator().manual_seed(2)) < 0.5, torch.nan)
        made = make(learnt, given)
        assert torch.equal(made[~given.isnan()], real[~given.isnan()])
        assert apart(shares(made), JOINT) < 0.03

    def test_of_places_is_uniform_and_depends_on_nothing(self, learnt: Sampler) -> None:
        made = make(learnt, None)
        places = made - made.floor()
        for column in places.unbind(1):
            assert apart(torch.histc(column, 20, 0, 1) / len(column), torch.full((20,), 0.05)) < 0.03
        correlation = torch.corrcoef(torch.cat([places, made.floor()], 1).T)[:3]
        assert (correlation - torch.eye(3, 6)).abs().max() < 0.03

    def test_a_token_of_a_column_can_be_out_of_thousands(self) -> None:
        """What the network needs for it is in proportion to their number, and no row is as wide as that."""
        sizes = [sum(p.numel() for p in Conditionals(Tokens((count, 2)), 8, 32, 16).parameters()) for count in (10, 5010)]
        assert sizes[1] - sizes[0] == 5000 * (8 + 16 + 1)
        learner = new(Tokens((5010, 2)))
        cells = torch.stack([torch.arange(64.0) * 78, torch.arange(64.0) % 2], 1).double()
        assert torch.isfinite(learner.step(cells, None)["loss"])
        assert (make(learner.exported(), None, 64)[:, 0] > 100).any()


class TestVariants:
    def test_each_cell_is_kept_by_chance_and_the_farther_the_fewer(self, learnt: Sampler) -> None:
        real = rows_of(JOINT, 20_000, seed=5)
        made = {strength: vary(learnt, real, strength) for strength in (0.0, 0.25, 0.5, 1.0)}
        assert torch.equal(made[0.0], real)
        kept = {strength: cells == real for strength, cells in made.items()}
        for strength, of in kept.items():
            assert of.float().mean(0).tolist() == pytest.approx([1 - strength] * 3, abs=0.02)
        assert not (kept[0.5] & ~kept[0.25]).any()
        both = kept[0.5].all(1).float().mean()  # each by a chance of its own
        assert both == pytest.approx(0.5**3, abs=0.02)

    @pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
    def test_of_real_rows_are_distributed_as_those_are(self, learnt: Sampler, strength: float) -> None:
        assert apart(shares(vary(learnt, rows_of(JOINT, 20_000, seed=5), strength)), JOINT) < 0.03

    def test_the_farthest_are_new_rows(self, learnt: Sampler) -> None:
        assert torch.equal(vary(learnt, rows_of(JOINT, 20_000, seed=5), 1.0), make(learnt, None))


class TestStep:
    def test_the_loss_is_of_the_hidden_as_if_all_were(self, monkeypatch: pytest.MonkeyPatch) -> None:
        learner, cells = new(), rows_of(JOINT, 64, seed=3)
        seen = torch.rand(64, 3) < 0.4
        seen[seen.all(1), 1] = False
        monkeypatch.setattr("raygen.generators.autoregressive.visible", lambda uniform: seen)
        with torch.no_grad():
            log_likelihood = learner.networks["conditionals"](cells.long(), seen)
        of_rows = [-row[~of].mean() * 3 for row, of in zip(log_likelihood, seen, strict=True)]
        torch.testing.assert_close(learner.step(cells, None)["loss"], torch.stack(of_rows).mean())

    def test_what_is_hidden_is_not_looked_at(self) -> None:
        network = new().networks["conditionals"]
        cells = rows_of(JOINT, 24, seed=3).long()
        seen = torch.tensor([True, False, True]).expand(24, 3)
        other = cells.clone()
        other[:, 1] = (other[:, 1] + 1) % 4
        one, two = network(cells, seen), network(other, seen)
        assert torch.equal(one[:, [0, 2]], two[:, [0, 2]])
        torch.testing.assert_close(self.total(network, cells, seen), torch.ones(24))

    def total(self, network: nn.Module, cells: Tensor, seen: Tensor) -> Tensor:
        """Of the probabilities of all tokens of the second column."""
        every = [cells.index_fill(1, torch.tensor([1]), token) for token in range(4)]
        return torch.stack([network(tokens, seen)[:, 1].exp() for tokens in every]).sum(0).detach()

    def test_two_pieces_are_one_batch(self) -> None:
        learners = new(), new()
        for pieces, learner in enumerate(learners, 1):
            learner.pieces = pieces
            torch.manual_seed(7)
            learner.step(rows_of(JOINT, 64, seed=3), None)
        one, two = (dict(learner.networks["conditionals"].named_parameters()) for learner in learners)
        for name, parameter in one.items():
            assert parameter.grad is not None
            torch.testing.assert_close(two[name].grad, parameter.grad)
            assert parameter.grad.abs().max() > 0

    def test_workers_see_their_part_of_what_one_would(self) -> None:
        shown = []
        for world in (1, 2):
            for rank in range(world):
                learner = new()
                learner.rank, learner.world, learner.draws = rank, world, torch.Generator().manual_seed(7)
                cells = rows_of(JOINT, 64, seed=3).chunk(world)[rank]
                shown.append(learner.step(cells, None)["loss"])
        torch.testing.assert_close(shown[0], (shown[1] + shown[2]) / 2)


class TestVisible:
    @pytest.mark.parametrize("columns", [1, 2, 5])
    def test_some_column_is_hidden_in_every_row(self, columns: int) -> None:
        for uniform in (torch.rand(5000, columns + 3), torch.zeros(1, columns + 3), torch.ones(1, columns + 3)):
            assert not visible(uniform).all(1).any()

    def test_half_of_the_rows_see_the_columns_up_to_one(self) -> None:
        seen = visible(torch.rand(40_000, 9, generator=torch.Generator().manual_seed(0)))
        kinds, counts = seen.unique(dim=0, return_counts=True)
        assert len(kinds) == 2**6 - 1
        of = {tuple(kind.tolist()): count / 40_000 for kind, count in zip(kinds, counts.tolist(), strict=True)}
        for first in range(1, 6):
            up_to = tuple(column < first for column in range(6))
            assert of[up_to] > 0.5 / 6
            assert of[up_to[::-1]] < 0.5 / 6

    def test_as_many_columns_are_seen_as_not(self) -> None:
        seen = visible(torch.rand(40_000, 9, generator=torch.Generator().manual_seed(0))).sum(1)
        assert torch.bincount(seen) / 40_000 == pytest.approx([1 / 6] * 6, abs=0.04)


@pytest.fixture(scope="module", params=["b", None], ids=["conditional", "unconditional"])
def generator(learnt: Sampler, request: pytest.FixtureRequest) -> Generator:
    spec = spec_of(**LEARNT, condition=request.param)
    return Generator(spec, Codec.of(FIELDS, ARROW, CATEGORIES), learnt, learnt.tile, {})


class TestGenerator:
    def test_a_part_is_the_slice_of_the_whole(self, generator: Generator) -> None:
        tile = generator.tile
        assert tile == ConditionalSampler.tile > 64
        whole = generator.sample(range(2 * tile + 100), seed=7)
        for rows in (
            range(1),
            range(5, 9),
            range(tile - 1, tile + 1),
            range(tile, 2 * tile),
            range(2 * tile + 9, len(whole)),
        ):
            assert generator.sample(rows, seed=7).equals(whole.slice(rows.start, len(rows)))
        assert not generator.sample(range(tile), seed=8).equals(whole.slice(0, tile))

    def test_a_condition_is_kept_and_changes_the_rest(self, generator: Generator) -> None:
        if generator.spec.condition is None:
            with pytest.raises(RaygenError, match="takes no condition"):
                generator.sample(range(5), condition=2)
            return
        for index, value in enumerate(CATEGORIES["b"].values):
            table = generator.sample(range(4000), seed=3, condition=[value] * 4000)
            assert set(table["b"].to_pylist()) == {value}
            cells = generator.tensors(range(4000), 3, generator.classes(range(4000), 3, [value] * 4000))[CELLS]
            assert (cells[:, 1] == index).all()
            of = torch.zeros_like(JOINT)
            of[:, index] = JOINT[:, index] / JOINT[:, index].sum()
            assert apart(shares(torch.from_numpy(cells)), of) < 0.08

    def test_a_partial_row_is_completed_the_same_whoever_is_beside_it(self, generator: Generator) -> None:
        given = rows_of(JOINT, 1500, seed=5).numpy()
        given[np.random.default_rng(0).random(given.shape) < 0.5] = np.nan
        made = generator.complete(given, range(100, 1600), seed=7)
        assert (made[~np.isnan(given)] == given[~np.isnan(given)]).all()
        assert not np.isnan(made).any()
        assert (generator.complete(given[700:703], range(800, 803), seed=7) == made[700:703]).all()

    def test_a_variant_is_the_same_whoever_is_beside_it_and_of_the_class_asked_for(self, generator: Generator) -> None:
        cells = rows_of(JOINT, 1500, seed=5).numpy()
        classes = None if generator.spec.condition is None else np.arange(1500) % 4
        made = generator.variants(cells, range(100, 1600), 7, classes, variant=1, strength=0.6)
        of_part = None if classes is None else classes[700:703]
        part = generator.variants(cells[700:703], range(800, 803), 7, of_part, variant=1, strength=0.6)
        assert (part == made[700:703]).all()
        assert (generator.variants(cells, range(100, 1600), 7, classes, variant=2, strength=0.6) != made).any(1).mean() > 0.8
        if classes is None:
            assert (generator.variants(cells, range(100, 1600), 7, None, variant=1, strength=0) == cells).all()
        else:
            assert (made[:, 1] == classes).all()

    @pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
    def test_a_strength_that_is_no_chance_is_refused(self, generator: Generator, strength: float) -> None:
        cells = rows_of(JOINT, 5, seed=5).numpy()
        classes = None if generator.spec.condition is None else np.arange(5) % 4
        with pytest.raises(RaygenError, match="no strength") as caught:
            generator.variants(cells, range(5), 7, classes, variant=1, strength=strength)
        assert caught.value.hint == "give one from 0 to 1"

    def test_it_comes_back_from_its_artifact(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(Folder(tmp_path))
        back = Generator.load(tmp_path, "cpu")
        assert (back.digest, back.tile) == (generator.digest, generator.tile)
        classes = generator.classes(range(2000), 7)
        made, again = (one.tensors(range(2000), 7, classes)[CELLS] for one in (generator, back))
        assert (made == again).all()


def test_a_family_refuses_what_it_does_not_make() -> None:
    table = Codec.of(FIELDS, ARROW, CATEGORIES)
    with pytest.raises(RaygenError, match="'autoencoder' does not make tables") as caught:
        untrained(AutoencoderSpec(), table, CPU)
    assert caught.value.hint == "these do: autoregressive, gan, vae"
    images = Codec.of({"i": ImageField(height=8, width=8)}, pa.schema([("i", pa.binary())]), {})
    with pytest.raises(RaygenError, match="'autoregressive' does not make images"):
        untrained(AutoregressiveSpec(), images, CPU)


def test_sampling_leaves_the_threads_of_torch_as_they_were(generator: Generator) -> None:
    before = torch.get_num_threads()
    seen = set()
    forward = generator.sampler.forward

    def spy(*args: Any, **options: Any) -> Any:
        seen.add(torch.get_num_threads())
        return forward(*args, **options)

    try:
        torch.set_num_threads(2)
        generator.sampler.forward = spy  # type: ignore[method-assign]
        generator.sample(range(10), 7)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        del generator.sampler.forward
        torch.set_num_threads(before)
