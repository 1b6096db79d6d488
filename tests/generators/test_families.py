"""One contract for every family × network × condition × shape, and known answers of the losses."""

import copy
import io
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from raygen.errors import RaygenError
from raygen.generators.autoencoder import Autoencoder
from raygen.generators.base import Family, Sampler
from raygen.generators.density import Density
from raygen.generators.families import FAMILIES, family
from raygen.generators.gan import Gan
from raygen.generators.likelihood import Bernoulli
from raygen.generators.networks import Layout, Shape, Tokens
from raygen.generators.vae import Vae, Variational
from raygen.options import AutoencoderSpec, AutoregressiveSpec, FamilySpec, GanSpec, TabularGanSpec, TabularVaeSpec, VaeSpec

CPU = torch.device("cpu")
ROWS, CLASSES = 16, 3

MakeSpec = Callable[..., FamilySpec]
Batch = tuple[Tensor, Tensor | None]


@pytest.fixture(params=[(1, 12, 12), (3, 14, 9)], ids=["1x12x12", "3x14x9"])
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(params=[0, CLASSES], ids=["unconditional", "conditional"])
def classes(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def batch(shape: Shape, classes: int) -> Batch:
    return batch_of(shape, classes)


@pytest.mark.parametrize(
    "spec",
    [
        GanSpec(latent=4, width=4),
        GanSpec(latent=4, width=4, r1=0),
        GanSpec(latent=4, width=4, loss="wgan_gp", r1=0),
        VaeSpec(latent=4, width=4),
    ],
    ids=["r1", "no penalty", "wgan_gp", "vae"],
)
def test_compiled_networks_learn_as_others_do(spec: FamilySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that torch compiles of them but the last, for which it needs a C++ compiler, and half a minute."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled(network, backend="aot_eager"))
    curves = []
    for eager in (True, False):
        made = new(spec, (1, 12, 12), CLASSES)
        if not eager:
            made.compile()
        torch.manual_seed(1)
        curves.append([made.step(*batch_of((1, 12, 12), CLASSES)) for _ in range(3)])
    for expected, found in zip(*curves, strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture
def learner(make_spec: MakeSpec, shape: Shape, classes: int) -> Family:
    return new(make_spec(), shape, classes)


def batch_of(layout: Layout, classes: int, seed: int = 0, rows: int = ROWS) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(layout, Tokens):
        return torch.rand(rows, len(layout), generator=generator, dtype=torch.float64) * torch.tensor(layout), None
    images = torch.rand(rows, *layout, generator=generator) * 2 - 1
    return images, torch.arange(rows) % classes if classes else None


def noise_of(sampler: Sampler, rows: int, seed: int = 2) -> Tensor:
    """What a table's sampler makes rows of."""
    generator = torch.Generator().manual_seed(seed)
    if sampler.uniform:
        return torch.rand(rows, sampler.noise, generator=generator, dtype=torch.float64)
    return torch.randn(rows, sampler.noise, generator=generator)


def new(spec: FamilySpec, layout: Layout, classes: int, seed: int = 0) -> Family:
    torch.manual_seed(seed)
    kind = "tables" if isinstance(layout, Tokens) else "images"
    return family(spec.family, kind)(spec, layout, classes, CPU)  # type: ignore[attr-defined]


def learn(learner: Family, batch: Batch, steps: int = 3, seed: int = 1) -> list[dict[str, Tensor]]:
    torch.manual_seed(seed)
    losses = []
    for _ in range(steps):
        losses.append(learner.step(*batch))
        learner.average_weights()
    return losses


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a - b).detach().pow(2).sum()) for a, b in pairs) ** 0.5


class Contract:
    """Of every family that learns, whatever it makes."""

    def test_a_step_gives_finite_scalars_and_changes_every_network(self, learner: Family, batch: Batch) -> None:
        before = copy.deepcopy(learner.networks)
        losses = learner.step(*batch)
        assert losses
        for value in losses.values():
            assert value.shape == ()
            assert not value.requires_grad
            assert torch.isfinite(value)
        for name, network in learner.networks.items():
            for (parameter, now), old in zip(network.named_parameters(), before[name].parameters(), strict=True):
                if parameter == "linear.bias" and getattr(learner.spec, "loss", "") in ("hinge", "wgan_gp"):
                    continue  # as much up for real rows as down for made ones
                assert not torch.equal(now, old), f"{name}.{parameter}"

    def test_a_step_leaves_the_batch_as_it_was(self, learner: Family, batch: Batch) -> None:
        images, classes = batch
        kept = images.clone()
        learner.step(images, classes)
        assert torch.equal(images, kept)
        assert not images.requires_grad
        assert images.grad is None

    def test_a_step_in_bfloat16(self, learner: Family, batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = learner.step(*batch)
        assert all(torch.isfinite(value) for value in losses.values())
        assert all(torch.isfinite(p).all() for network in learner.networks.values() for p in network.parameters())

    def test_it_goes_on_from_its_state(
        self, learner: Family, make_spec: MakeSpec, shape: Shape, classes: int, batch: Batch
    ) -> None:
        learn(learner, batch)
        file = io.BytesIO()
        torch.save(learner.state_dict(), file)
        file.seek(0)
        other = new(make_spec(), shape, classes, seed=99)
        other.load_state_dict(torch.load(file, weights_only=True))

        following = batch_of(shape, classes, seed=5)
        for one, two in zip(learn(learner, following), learn(other, following), strict=True):
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
        for one_family in (learner, other):
            one_family.finish([following])
        one, two = learner.exported().state_dict(), other.exported().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_the_average_moves_towards_the_weights(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch, steps=1)
        learner.step(*batch)
        weights = copy.deepcopy(learner.sampler().state_dict())
        far = [distance(learner.average, learner.sampler())]
        for _ in range(5):
            learner.average_weights()
            far.append(distance(learner.average, learner.sampler()))
        assert all(later < earlier for earlier, later in itertools.pairwise(far))
        assert all(torch.equal(now, weights[name]) for name, now in learner.sampler().state_dict().items())
        buffers = dict(learner.average.named_buffers())
        for name, now in learner.sampler().named_buffers():
            if not now.is_floating_point():
                assert torch.equal(buffers[name], now)

    def test_finish_leaves_it_ready_to_learn(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch)
        weights = copy.deepcopy(learner.sampler())
        learner.finish(iter([batch, batch]))
        assert distance(weights, learner.sampler()) == 0
        assert all(module.training for network in learner.networks.values() for module in network.modules())
        assert all(torch.isfinite(value).all() for value in learner.exported().state_dict().values())


class TestContract(Contract):
    @pytest.mark.parametrize("classes", [CLASSES])
    @pytest.mark.parametrize("shape", [(1, 12, 12)])
    def test_it_learns_a_picture_per_class(self, make_spec: MakeSpec, shape: Shape, classes: int) -> None:
        learner = new(make_spec(width=16, learning_rate=5e-3), shape, classes)
        given = torch.arange(30) % classes
        images = torch.full((30, *shape), -0.8)
        for row, of in enumerate(given):
            images[row, :, 3 * of + 1 : 3 * of + 4, 2:10] = 0.8  # a bar, lower for each class
        before = self.error(learner.exported(), images, given)
        learn(learner, (images, given), steps=60)
        learner.finish([(images, given)])
        assert self.error(learner.exported(), images, given) < 0.5 * before

    @torch.no_grad()
    def error(self, sampler: Sampler, images: Tensor, classes: Tensor) -> float:
        made = sampler(torch.randn(len(images), sampler.noise), classes)
        return float((made - images).abs().mean())

    def test_the_exported_sampler_makes_images(self, learner: Family, batch: Batch, shape: Shape) -> None:
        learn(learner, batch)
        learner.finish([batch])
        sampler = learner.exported()
        assert not sampler.training
        with torch.no_grad():
            images = sampler(3 * torch.randn(ROWS, sampler.noise), batch[1])
        assert images.shape == (ROWS, *shape)
        assert images.abs().max() <= 1
        assert len(images.flatten(1).unique(dim=0)) == ROWS

    def test_a_row_depends_on_its_own_noise_and_class_only(self, learner: Family, batch: Batch, classes: int) -> None:
        learn(learner, batch)
        learner.finish([batch])
        sampler = learner.exported()
        tile = 64
        one, two = torch.randn(2, tile, sampler.noise)
        of_one = torch.randint(classes, (tile,)) if classes else None
        of_two = torch.randint(classes, (tile,)) if classes else None
        with torch.inference_mode():
            alone = sampler(one, of_one)
            for row in (0, 1, 31, 62, 63):
                mixed, of_mixed = two.clone() * 100, None if of_two is None else of_two.clone()
                mixed[row] = one[row]
                if of_mixed is not None and of_one is not None:
                    of_mixed[row] = of_one[row]
                assert torch.equal(sampler(mixed, of_mixed)[row], alone[row])
                if of_mixed is not None:
                    of_mixed[row] = (of_mixed[row] + 1) % classes
                    assert not torch.equal(sampler(mixed, of_mixed)[row], alone[row])

    def test_a_variant_depends_on_its_own_row_noise_and_class_only(
        self, learner: Family, shape: Shape, batch: Batch, classes: int
    ) -> None:
        learn(learner, batch)
        learner.finish([batch])
        sampler, tile = learner.exported(), 64
        shown, others = torch.rand(2, tile, *shape) * 2 - 1
        one, two = torch.randn(2, tile, sampler.noise)
        of_one, of_two = torch.randint(classes, (2, tile)) if classes else (None, None)
        with torch.inference_mode():
            alone = sampler.vary(shown, one, of_one, 0.7)
            assert alone.shape == shown.shape
            assert alone.abs().max() <= 1
            for row in (0, 1, 31, 62, 63):
                images, noises, given = others.clone(), two.clone() * 100, None if of_two is None else of_two.clone()
                images[row], noises[row] = shown[row], one[row]
                if given is not None and of_one is not None:
                    given[row] = of_one[row]
                assert torch.equal(sampler.vary(images, noises, given, 0.7)[row], alone[row])
                noises[row] += 1
                assert not torch.equal(sampler.vary(images, noises, given, 0.7)[row], alone[row])

    def test_the_farther_a_variant_goes_the_less_it_is_its_row(self, learner: Family, batch: Batch) -> None:
        """Families that encode; what others make does not come from the row."""
        learn(learner, batch)
        learner.finish([batch])
        images, given = batch
        sampler = learner.exported()
        noises = torch.randn(ROWS, sampler.noise)
        with torch.inference_mode():
            made = [sampler.vary(images, noises, given, strength) for strength in (0.0, 0.1, 0.5, 2.0)]
            other = sampler.vary(images.flip(0), noises, given, 0.0)
        if isinstance(learner, Gan):
            assert all(torch.equal(sampler(noises, given), one) for one in (*made, other))
            return
        far = [float((one - made[0]).pow(2).mean()) for one in made]
        assert 0 == far[0] < far[1] < far[2] < far[3]
        assert not torch.equal(made[0], other)


OF_TABLES: dict[str, tuple[type[FamilySpec], dict[str, Any]]] = {
    "autoregressive": (AutoregressiveSpec, {}),
    "gan": (TabularGanSpec, {"latent": 6}),
    "gan-pack": (TabularGanSpec, {"latent": 6, "pack": 3, "loss": "hinge", "r1": 0.0}),
    "vae": (TabularVaeSpec, {"latent": 6}),
}


class TestContractOfTables(Contract):
    """The same for what makes cells, some of which may be given."""

    @pytest.fixture(params=OF_TABLES.values(), ids=OF_TABLES.keys())
    def make_spec(self, request: pytest.FixtureRequest) -> MakeSpec:
        spec, options = request.param
        return partial(spec, **{"embedding": 4, "width": 8, "features": 4, **options})

    @pytest.fixture
    def shape(self) -> Layout:
        return Tokens((3, 7, 1, 2))

    @pytest.fixture
    def classes(self) -> int:
        return 0

    def test_the_exported_sampler_makes_cells(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch)
        sampler = learner.exported()
        assert not sampler.training
        edges = [torch.full((1, sampler.noise), edge, dtype=torch.float64) for edge in (0, 1 - 2**-53)]
        with torch.no_grad():
            cells = sampler(torch.cat([noise_of(sampler, 100), *edges]), None)
        assert cells.shape == (102, 4)
        assert cells.dtype == torch.float64
        assert cells.min() >= 0
        assert (cells.floor() < torch.tensor(learner.tokens)).all()
        assert len(cells[:100].unique(dim=0)) == 100

    def test_what_is_given_comes_back_bit_for_bit(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch)
        sampler = learner.exported()
        cells, _ = batch_of(learner.layout, 0, seed=5)
        for hidden in (torch.rand(ROWS, 4) < 0.5, torch.tensor([False, True, True, True]), torch.tensor([False])):
            given = cells.masked_fill(hidden, torch.nan)
            kept = given.clone()
            with torch.no_grad():
                made = sampler(noise_of(sampler, ROWS), given)
            assert torch.equal(torch.where(given.isnan(), torch.nan, made).nan_to_num(-1), given.nan_to_num(-1))
            assert not made.isnan().any()
            assert torch.equal(kept.nan_to_num(-1), given.nan_to_num(-1))

    def test_a_row_depends_on_its_own_noise_and_what_is_given_of_it_only(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch, steps=30)
        sampler, tile = learner.exported(), 64
        one, two = noise_of(sampler, 2 * tile).chunk(2)
        of_one, of_two = (batch_of(learner.layout, 0, seed=seed, rows=tile)[0] for seed in (5, 6))
        of_one, of_two = (cells.masked_fill(torch.rand(tile, 4) < 0.6, torch.nan) for cells in (of_one, of_two))
        with torch.inference_mode():
            alone = sampler(one, of_one)
            for row in (0, 1, 31, 62, 63):
                mixed, given = two.clone(), of_two.clone()
                mixed[row], given[row] = one[row], of_one[row]
                assert torch.equal(sampler(mixed, given)[row], alone[row])
                of_others = torch.full_like(given, torch.nan)
                of_others[row] = of_one[row]
                assert torch.equal(sampler(mixed, of_others)[row], alone[row])

    def test_a_variant_depends_on_its_own_row_and_noise_only(self, learner: Family, batch: Batch) -> None:
        learn(learner, batch, steps=30)
        sampler, tile = learner.exported(), 64
        one, two = noise_of(sampler, 2 * tile).chunk(2)
        shown, others = (batch_of(learner.layout, 0, seed=seed, rows=tile)[0] for seed in (5, 6))
        given = torch.full_like(shown, torch.nan)
        given[::2, 1] = 4.0
        with torch.inference_mode():
            alone = sampler.vary(shown, one, given, 0.7)
            assert torch.equal(alone[::2, 1], given[::2, 1])
            for row in (0, 1, 31, 62, 63):
                cells, mixed, asked = others.clone(), two.clone(), torch.full_like(given, torch.nan)
                cells[row], mixed[row], asked[row] = shown[row], one[row], given[row]
                assert torch.equal(sampler.vary(cells, mixed, asked, 0.7)[row], alone[row])


def test_the_average_is_an_exponential_one() -> None:
    learner = new(VaeSpec(network="dense", latent=4, width=2, ema=0.1), (1, 8, 8), 0)
    expected = [p.detach().clone() for p in learner.average.parameters()]
    for step in range(1, 5):
        learner.step(*batch_of((1, 8, 8), 0))
        learner.average_weights()
        decay = min(0.1, step / (step + 10))
        current = learner.sampler().parameters()
        expected = [decay * old + (1 - decay) * p.detach() for old, p in zip(expected, current, strict=True)]
        torch.testing.assert_close(list(learner.average.parameters()), expected)


def test_an_unknown_family_names_the_known_and_the_nearest() -> None:
    with pytest.raises(RaygenError) as caught:
        family("autoencodr")
    assert "'autoencodr'" in caught.value.what
    assert "did you mean 'autoencoder'?" in caught.value.what
    assert all(name in caught.value.hint for name in FAMILIES)


class Answer(nn.Module):
    """A network that answers the same whatever it sees."""

    def __init__(self, *answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.ParameterList(answer)

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(self.answer)


def with_answer(learner: Family, *answer: Tensor) -> Answer:
    network = Answer(*answer)
    learner.networks["autoencoder"] = network
    learner.optimizers["autoencoder"] = torch.optim.SGD(network.parameters(), lr=0.0)
    return network


class TestVae:
    shape = (3, 9, 8)

    def with_answer(self, learner: Family, logits: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """An encoder and a decoder that answer the same whatever they see; returns their parameters."""

        class Always(nn.Module):
            def __init__(self, answer: Tensor) -> None:
                super().__init__()
                self.answer = nn.Parameter(answer)

            def forward(self, x: Tensor, classes: Tensor | None) -> Tensor:
                return self.answer

        network = Variational(Always(torch.cat([mean, log_variance], 1)), Always(logits), Bernoulli())
        learner.networks["autoencoder"] = network
        learner.optimizers["autoencoder"] = torch.optim.SGD(network.parameters(), lr=0.0)
        statistics, answer = network.parameters()
        return answer, statistics

    def test_loss_is_cross_entropy_plus_divergence_per_row(self) -> None:
        learner = new(VaeSpec(network="dense", latent=4, width=2), self.shape, 0)
        images, _ = batch_of(self.shape, 0)
        logits, mean, log_variance = torch.randn(ROWS, *self.shape), torch.randn(ROWS, 4), torch.randn(ROWS, 4)
        self.with_answer(learner, logits, mean, log_variance)
        losses = learner.step(images, None)

        p, x = torch.sigmoid(logits.double()), (images.double() + 1) / 2
        reconstruction = -(x * p.log() + (1 - x) * (1 - p).log()).sum() / ROWS
        posterior = Normal(mean, (0.5 * log_variance).exp())
        divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
        torch.testing.assert_close(losses["reconstruction"].double(), reconstruction, rtol=1e-5, atol=0)
        torch.testing.assert_close(losses["divergence"], divergence, rtol=1e-5, atol=0)
        torch.testing.assert_close(losses["loss"], losses["reconstruction"] + losses["divergence"])

    def test_it_descends_the_loss(self) -> None:
        learner = new(VaeSpec(network="dense", latent=4, width=2), self.shape, 0)
        images, _ = batch_of(self.shape, 0)
        answers = torch.randn(ROWS, *self.shape), torch.randn(ROWS, 4), torch.randn(ROWS, 4)
        logits, statistics = self.with_answer(learner, *answers)
        learner.step(images, None)
        assert statistics.grad is not None
        mean, log_variance = statistics.detach().chunk(2, dim=1)
        torch.testing.assert_close(logits.grad, (torch.sigmoid(logits) - (images + 1) / 2).detach() / ROWS)
        torch.testing.assert_close(statistics.grad, torch.cat([mean, 0.5 * (log_variance.exp() - 1)], 1) / ROWS)

    def test_the_latent_is_a_draw_of_the_posterior(self) -> None:
        class Pick(nn.Module):
            def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
                return latent

        class Given(nn.Module):
            def forward(self, images: Tensor, classes: Tensor | None) -> Tensor:
                return images

        class Identity(Bernoulli):
            def forward(self, images: Tensor, values: Tensor) -> Tensor:
                return values

        torch.manual_seed(0)
        statistics = torch.tensor([[1.0, -2.0, 0.5, -1.0]]).repeat(40_000, 1)  # two means, two log variances
        latent, mean, log_variance = Variational(Given(), Pick(), Identity())(statistics, None, torch.randn(40_000, 2))
        assert torch.equal(torch.cat([mean, log_variance], 1), statistics)
        torch.testing.assert_close(latent.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.03)
        torch.testing.assert_close(latent.var(0), torch.tensor([0.5, -1.0]).exp(), rtol=0.03, atol=0)

    def test_a_row_is_the_mean_of_its_pixels(self) -> None:
        learner = new(VaeSpec(network="dense", latent=4, width=2), self.shape, 0)
        assert isinstance(learner, Vae)
        z = torch.randn(5, 4)
        expected = 2 / (1 + (-learner.exported().decoder(z, None)).exp()) - 1  # type: ignore[operator]
        torch.testing.assert_close(learner.exported()(z, None), expected)

    @torch.no_grad()
    def test_a_variant_is_decoded_around_the_mean_of_the_posterior(self) -> None:
        learner = new(VaeSpec(network="dense", latent=4, width=2), self.shape, CLASSES)
        assert isinstance(learner, Vae)
        images, given = batch_of(self.shape, CLASSES)
        noises, sampler = torch.randn(ROWS, 4), learner.exported()
        _, mean, log_variance = learner.networks["autoencoder"](images, given, noises)
        assert not torch.equal(mean, log_variance)
        expected = sampler(mean + 0.3 * noises, given)
        torch.testing.assert_close(sampler.vary(images, noises, given, 0.3), expected)


class TestAutoencoder:
    shape = (3, 9, 8)

    @torch.no_grad()
    @pytest.mark.parametrize("classes", [0, CLASSES])
    def test_a_variant_moves_by_standard_deviations_of_the_density(self, classes: int) -> None:
        learner = new(AutoencoderSpec(network="dense", latent=4, width=2), self.shape, classes)
        images, given = batch_of(self.shape, classes, rows=90)
        learner.finish([(images, given)])
        sampler, noises = learner.exported(), torch.randn(90, 4)
        _, latent = learner.networks["autoencoder"](images, given)
        density = sampler.density
        assert isinstance(density, Density)
        moved = latent + 0.3 * (density(noises, given) - density(torch.zeros(90, 4), given))
        expected = torch.tanh(sampler.decoder(moved, given))  # type: ignore[operator]
        torch.testing.assert_close(sampler.vary(images, noises, given, 0.3), expected)
        many, of_one = torch.randn(20_000, 4), torch.full((20_000,), classes - 1) if classes else None
        of = latent if given is None else latent[given == classes - 1]
        torch.testing.assert_close(density.deviation(many, of_one).std(0), of.std(0, correction=0), rtol=0.05, atol=1e-4)

    def test_loss_is_the_squared_error_and_the_latents_penalty(self) -> None:
        learner = new(AutoencoderSpec(network="dense", latent=4, width=2, latent_penalty=0.7), self.shape, 0)
        images, _ = batch_of(self.shape, 0)
        reconstructed, latent = torch.randn(ROWS, *self.shape), torch.randn(ROWS, 4)
        network = with_answer(learner, reconstructed, latent)
        losses = learner.step(images, None)
        error = (reconstructed - images).pow(2).flatten(1).sum(1).mean()
        torch.testing.assert_close(losses["squared_error"], error)
        torch.testing.assert_close(losses["loss"], error + 0.7 * latent.pow(2).sum(1).mean())
        torch.testing.assert_close(network.answer[0].grad, 2 * (reconstructed - images) / ROWS)
        torch.testing.assert_close(network.answer[1].grad, 0.7 * 2 * latent / ROWS)

    @pytest.mark.parametrize("classes", [0, CLASSES])
    def test_finish_fits_the_latents_however_they_are_batched(self, classes: int) -> None:
        learner = new(AutoencoderSpec(network="conv", latent=4, width=2), self.shape, classes)
        assert isinstance(learner, Autoencoder)
        images, given = batch_of(self.shape, classes, rows=60)
        learn(learner, (images, given))
        encoder = copy.deepcopy(learner.average.encoder).eval()  # type: ignore[operator]
        with torch.no_grad():
            latents = encoder(images, given).double().numpy()
        parts = [slice(0, 7), slice(7, 8), slice(8, 60)]
        learner.finish((images[part], None if given is None else given[part]) for part in parts)
        density = learner.exported().density
        assert isinstance(density, Density)
        for component in range(max(1, classes)):
            chosen = latents if given is None else latents[given.numpy() == component]
            covariance = density.scale[component] @ density.scale[component].T
            np.testing.assert_allclose(density.mean[component].numpy(), chosen.mean(0), atol=1e-5)
            np.testing.assert_allclose(covariance.numpy(), np.cov(chosen.T, bias=True), rtol=1e-2, atol=1e-4)
