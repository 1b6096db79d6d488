"""Rows within bounds are those of the distribution that are within them; it is known here, and nothing has to learn it."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raygen.datasets.codec import CELLS, Codec
from raygen.datasets.columns import Category
from raygen.errors import RaygenError
from raygen.generators import bounds
from raygen.generators.autoregressive import ConditionalSampler
from raygen.generators.bounds import Choice
from raygen.generators.conditionals import Conditionals
from raygen.generators.generator import Generator
from raygen.generators.networks import Tokens
from raygen.options import AutoregressiveSpec
from raygen.spec import CategoryField

ROWS = 20_000
SHAPE = (3, 4, 2)


def joint() -> Tensor:
    """p(a, b, c): the second column depends on the first, and the third on both."""
    a = torch.tensor([0.5, 0.3, 0.2])
    b = torch.tensor([[0.7, 0.1, 0.19, 0.01], [0.1, 0.1, 0.1, 0.7], [0.05, 0.45, 0.45, 0.05]])
    one = torch.tensor([[0.1, 0.9, 0.1, 0.9], [0.9, 0.1, 0.9, 0.1], [0.5, 0.2, 0.8, 0.5]])
    return (a[:, None] * b)[..., None] * torch.stack([1 - one, one], -1)


class Known(Conditionals):
    """What is known of a row are its tokens, and −1 for those that are not; the scores come from a joint distribution."""

    def __init__(self, of: Tensor) -> None:
        super().__init__(Tokens(of.shape), 1, 1, 1)
        self.joint = of

    def nothing(self, rows: int) -> Tensor:
        return torch.full((rows, self.joint.ndim), -1)

    def tell(self, known: Tensor, column: int, token: Tensor, seen: Tensor) -> None:
        known[:, column] = torch.where(seen, token, known[:, column])

    def logits(self, known: Tensor, column: int) -> Tensor:
        chances = self.joint.expand(len(known), *self.joint.shape)
        for other, count in enumerate(self.joint.shape):
            of = known[:, other, None]
            match = (of == torch.arange(count)) | (of < 0)
            chances = chances * match.view(-1, *(count if at == other else 1 for at in range(self.joint.ndim)))
        return chances.sum([at + 1 for at in range(self.joint.ndim) if at != column]).log()


SAMPLER = ConditionalSampler(Known(joint()))


def whole(tokens: int, *may: int) -> Tensor:
    """Bounds: these tokens, all of each."""
    of = torch.zeros(tokens, 2, dtype=torch.float64)
    of[list(may), 1] = 1
    return of


def make(within: Mapping[int, Tensor], given: Tensor | None = None, sampler: ConditionalSampler = SAMPLER) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(ROWS, sampler.noise_within(len(within)), generator=generator, dtype=torch.float64)
    return sampler(noise, given, within)  # type: ignore[no-any-return]


def apart(made: Tensor, of: Tensor) -> float:
    """The distance in total variation of rows from a distribution that is not scaled, 0 to 1."""
    strides = torch.tensor([8, 2, 1])
    shares = torch.bincount((made.long() * strides).sum(1), minlength=24).view(SHAPE) / len(made)
    return 0.5 * float((shares - of / of.sum()).abs().sum())


def cut(within: Mapping[int, Tensor]) -> Tensor:
    """The joint distribution within bounds, not scaled."""
    found = joint()
    for column, of in within.items():
        size = (of[:, 1] - of[:, 0]).float()
        found = found * size.view([-1 if at == column else 1 for at in range(3)])
    return found


def assert_within(made: Tensor, within: Mapping[int, Tensor]) -> None:
    for column, of in within.items():
        cells = made[:, column]
        low, high = of[cells.long()].unbind(1)
        places = cells - cells.floor()
        assert (low <= places).all()
        assert (places < high).all()


HALF = torch.tensor([[0.0, 0.5], [0.75, 1.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
CASES = {
    "one column": {1: whole(4, 0, 2)},
    "the last column": {2: whole(2, 1)},
    "parts of tokens": {1: HALF},
    "two columns, the second rare under the likely first": {0: whole(3, 0, 1), 1: whole(4, 3)},
    "all columns": {0: whole(3, 0, 2), 1: HALF, 2: whole(2, 1)},
    "all that there is": {0: whole(3, 0, 1, 2), 1: whole(4, 0, 1, 2, 3)},
}


class TestDistribution:
    @pytest.mark.parametrize("within", CASES.values(), ids=CASES)
    def test_of_rows_is_that_of_all_rows_which_are_within(self, within: dict[int, Tensor]) -> None:
        made = make(within)
        assert_within(made, within)
        assert apart(made, cut(within)) < 0.015

    def test_of_places_is_uniform_between_the_bounds(self) -> None:
        made = make({1: HALF})[:, 1]
        places = made[made.floor() == 1] - 1
        assert len(places) > 200
        assert torch.histc(places, 5, 0.75, 1) / len(places) == pytest.approx([0.2] * 5, abs=0.06)

    def test_given_cells_count_and_are_kept_whether_or_not_they_are_within(self) -> None:
        given = torch.full((ROWS, 3), torch.nan, dtype=torch.float64)
        given[:, 2] = 1
        within = {0: whole(3, 0, 1), 1: whole(4, 3)}
        assert apart(make(within, given), cut({**within, 2: whole(2, 1)})) < 0.015
        made = make({**within, 2: whole(2, 0)}, given)
        assert (made[:, 2] == 1).all()
        assert apart(made, cut({**within, 2: whole(2, 1)})) < 0.015

    def test_rows_within_bounds_that_are_rare_are_close_to_it(self) -> None:
        """The chance of a candidate is 1/1000: nearly every row is chosen by weight."""
        rare = torch.tensor([[[0.999, 0.001], [0.997, 0.003]], [[0.9995, 0.0005], [0.9999, 0.0001]]])
        rare = rare * torch.tensor([[0.3, 0.2], [0.4, 0.1]])[..., None]
        within = {0: whole(2, 0, 1), 1: whole(2, 0, 1), 2: whole(2, 1)}
        made = make(within, sampler=ConditionalSampler(Known(rare)))
        of = rare[..., 1] / rare[..., 1].sum()
        shares = torch.bincount((made[:, :2].long() * torch.tensor([2, 1])).sum(1), minlength=4).view(2, 2) / ROWS
        assert (made[:, 2].long() == 1).all()
        assert 0.5 * float((shares - of).abs().sum()) < 0.03

    def test_a_row_without_a_chance_is_within_all_the_same(self) -> None:
        none = torch.full(SHAPE, 1e-38)
        none[2, 0, 0] = 1
        within = {0: whole(3, 0, 1), 1: whole(4, 1, 3), 2: whole(2, 1)}
        assert_within(make(within, sampler=ConditionalSampler(Known(none))), within)

        class Sure(Known):
            def logits(self, known: Tensor, column: int) -> Tensor:
                scores = torch.full((len(known), self.tokens[column]), -1e5)
                scores[:, 0] = 1e5
                return scores

        within = {0: whole(3, 2), 1: whole(4, 1, 3), 2: whole(2, 1)}
        assert_within(make(within, sampler=ConditionalSampler(Sure(none))), within)

    def test_rows_that_nothing_excludes_need_no_second_candidate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looked: list[int] = []
        logits = Known.logits
        monkeypatch.setattr(Known, "logits", lambda *of: looked.append(of[2]) or logits(*of))  # type: ignore[func-returns-value]
        make({1: whole(4, 0, 2)})
        assert looked == [1, 0, 2]
        looked.clear()
        make({0: whole(3, 0, 1), 1: whole(4, 3)})
        assert len(looked) > 2 * 2 + 1


class TestCells:
    @given(st.integers(0, 10**4), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.floats(1e-9, 1))
    @settings(max_examples=300, deadline=None)
    def test_they_are_within_the_bounds_however_narrow(self, token: int, place: float, low: float, size: float) -> None:
        high = min(low + size, 1.0)
        if high - low < 4 * math.ulp(token + 1):
            return
        of = torch.zeros(token + 1, 2, dtype=torch.float64)
        of[token] = torch.tensor([low, high], dtype=torch.float64)
        for at in (place, 0.0, math.nextafter(1, 0)):
            cell = float(bounds.cells(torch.tensor([token]), torch.tensor([at], dtype=torch.float64), of))
            assert math.floor(cell) == token
            assert low <= cell - token < high


def test_a_candidate_is_taken_with_the_chance_of_its_weight_or_else_chosen_by_it() -> None:
    rows, generator = 40_000, torch.Generator().manual_seed(0)
    choice = Choice(rows, 1, torch.device("cpu"))
    weights = (0.3, 0.2)
    for token, weight in enumerate(weights):
        log_weight = torch.full((rows,), math.log(weight), dtype=torch.float64)
        uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
        choice.offer(torch.full((rows, 1), token), log_weight, uniform)
    assert choice.taken.float().mean() == pytest.approx(0.3 + 0.7 * 0.2, abs=0.01)
    second = (choice.tokens == 1).float().mean()
    assert second == pytest.approx(0.7 * (0.2 + 0.8 * 0.2 / (0.3 + 0.2)), abs=0.01)


CODEC = Codec.of(
    {name: CategoryField() for name in "abc"},
    pa.schema([("a", pa.string()), ("b", pa.int16()), ("c", pa.bool_())]),
    {
        "a": Category(("x", "y", "z"), (50, 30, 20)),
        "b": Category((1, 2, 3, None), (40, 30, 20, 10)),
        "c": Category((False, True), (60, 40)),
    },
)


class TestGenerator:
    @pytest.fixture
    def generator(self) -> Generator:
        torch.manual_seed(0)
        network = Conditionals(Tokens(SHAPE), 8, 32, 16)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(2)
        return Generator(AutoregressiveSpec(), CODEC, ConditionalSampler(network).eval(), ConditionalSampler.tile)

    def test_a_row_within_bounds_is_the_same_whoever_is_beside_it(self, generator: Generator) -> None:
        within = {0: whole(3, 0, 1).numpy(), 1: HALF.numpy()}
        free = np.full((1500, 3), np.nan)
        free[::3, 2] = 1
        made = generator.complete(free, range(100, 1600), 7, within)
        assert_within(torch.from_numpy(made), {column: torch.from_numpy(of) for column, of in within.items()})
        for first, last in ((0, 1), (700, 703), (900, 1500)):
            part = generator.complete(free[first:last], range(100 + first, 100 + last), 7, within)
            assert (part == made[first:last]).all()
        in_order = dict(reversed(within.items()))
        assert (generator.complete(free, range(100, 1600), 7, in_order) == made).all()
        assert (generator.complete(free, range(100, 1600), 8, within) != made).any(1).mean() > 0.9

    def test_rows_of_other_bounds_have_noise_of_their_own(self, generator: Generator) -> None:
        """The places of a row within bounds are nowhere among those of other rows."""
        free = np.full((3000, 3), np.nan)
        every = {0: whole(3, 0, 1, 2).numpy()}
        both = {**every, 2: whole(2, 0, 1).numpy()}
        made = [generator.complete(free, range(3000), 7, within) % 1 for within in (None, every, both)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.isin(made[one], made[other]).mean() < 0.001

    def test_no_bounds_are_as_none(self, generator: Generator) -> None:
        free = np.full((50, 3), np.nan)
        cells = generator.tensors(range(50), 7, None)[CELLS]
        assert (generator.complete(free, range(50), 7, {}) == cells).all()

    def test_a_family_that_cannot_says_so(self, generator: Generator) -> None:
        class Unbound(ConditionalSampler):
            has_bounds = False

        other = dataclasses.replace(generator, sampler=Unbound(Known(joint())))
        with pytest.raises(RaygenError, match="cannot be asked for ranges"):
            other.complete(np.full((5, 3), np.nan), range(5), 0, {0: whole(3, 0).numpy()})
