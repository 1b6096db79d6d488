"""Densities on a latent space: what is fitted, however the rows are shared by workers, and what is drawn.

As a script, this is one worker of two: its rank, a folder to meet in, and where to write what it has fitted.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from raygen.generators import density, noise
from raygen.generators.density import Density, Mixture
from raygen.generators.gaussians import expectation_maximization

Latents = list[tuple[Tensor, Tensor | None]]


class TestDensity:
    means = np.array([[1.0, -2.0, 0.5], [10.0, 0.0, -10.0]])
    factors = np.array(
        [[[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 0.4]], [[0.2, 0.0, 0.0], [0.0, 3.0, 0.0], [0.1, -1.0, 0.5]]]
    )

    def fitted(self) -> Density:
        """From the exact moments of different numbers of rows."""
        count = torch.tensor([40.0, 7.0], dtype=torch.float64)
        mean, factor = torch.from_numpy(self.means), torch.from_numpy(self.factors)
        second = factor @ factor.mT + mean[:, :, None] * mean[:, None, :]
        density = Density(2, 3)
        density.fit(count, mean * count[:, None], second * count[:, None, None])
        return density

    def test_moments_give_mean_and_covariance(self) -> None:
        density = self.fitted()
        np.testing.assert_allclose(density.mean.numpy(), self.means, rtol=1e-6, atol=1e-6)
        covariance = self.factors @ self.factors.transpose(0, 2, 1)
        largest = np.abs(covariance).max((1, 2), keepdims=True)
        assert (np.abs((density.scale @ density.scale.mT).numpy() - covariance) < 5e-4 * largest).all()
        assert torch.equal(density.scale, density.scale.tril())

    @pytest.mark.parametrize("component", [0, 1])
    def test_draws_have_that_mean_and_covariance(self, component: int) -> None:
        rows = 40_000
        normals = torch.from_numpy(noise.normals(1, "latent", range(rows), 3))
        draws = self.fitted()(normals, torch.full((rows,), component)).double().numpy()
        covariance = self.factors[component] @ self.factors[component].T
        deviation = np.sqrt(covariance.diagonal())
        assert (np.abs(draws.mean(0) - self.means[component]) < 4 * deviation / np.sqrt(rows)).all()
        correlation = np.outer(deviation, deviation)
        assert (np.abs(np.cov(draws.T) - covariance) < 4 * np.sqrt(2 / rows) * correlation).all()

    def test_one_row_and_no_row_still_give_a_density(self) -> None:
        z = torch.tensor([3.0, -1.0], dtype=torch.float64)
        total = torch.stack([z, torch.zeros(2)])
        density = Density(2, 2)
        density.fit(torch.tensor([1.0, 0.0], dtype=torch.float64), total, total[:, :, None] * total[:, None, :])
        torch.testing.assert_close(density.mean, total.float())
        draws = density(torch.randn(6, 2), torch.arange(6) % 2)
        torch.testing.assert_close(draws, total.float()[torch.arange(6) % 2], rtol=0, atol=0.01)

    def test_without_classes_there_is_one_component(self) -> None:
        normals = torch.randn(5, 3)
        assert torch.equal(Density(1, 3)(normals, None), normals)


CENTRES = torch.tensor([[0.0, 0.0], [6.0, 1.0], [-3.0, 5.0]], dtype=torch.float64)
FACTORS = torch.tensor([[[1.0, 0.0], [0.6, 0.5]], [[0.3, 0.0], [0.0, 1.5]], [[0.8, 0.0], [-0.5, 0.4]]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def rows_of_known(n: int, seed: int = 0) -> Tensor:
    """Rows of a mixture of three, float64 ``(n, 2)``."""
    generator = torch.Generator().manual_seed(seed)
    of = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    normals = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return CENTRES[of] + (FACTORS[of] * normals[:, None, :]).sum(2)


def uniforms(n: int, components: int, seed: int = 0) -> Tensor:
    return torch.rand(n, components, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dealt(z: Tensor, classes: Tensor | None, size: int, rank: int = 0, workers: int = 1) -> Latents:
    """The batches of a worker: each takes one in its turn."""
    firsts = range(rank * size, len(z), size * workers)
    return [(z[first : first + size], None if classes is None else classes[first : first + size]) for first in firsts]


def two_classes() -> tuple[Tensor, Tensor]:
    """Rows of the known mixture, and their mirror images as another class."""
    z, classes = rows_of_known(900), torch.arange(900) % 2
    return torch.where(classes[:, None] == 1, -z, z), classes


def fitted_by(rank: int, workers: int) -> tuple[Mixture, dict[str, float]]:
    mixture = Mixture(2, 4, 2)
    z, classes = two_classes()
    figures = mixture.learn(dealt(z, classes, 64 // workers, rank, workers))
    return mixture, figures


class TestExpectationMaximization:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_recovers_a_known_mixture(self, seed: int) -> None:
        fitted = expectation_maximization(rows_of_known(6000), uniforms(6000, 3, seed))
        order = [int((fitted.mean - centre).pow(2).sum(1).argmin()) for centre in CENTRES]
        assert sorted(order) == [0, 1, 2]
        torch.testing.assert_close(fitted.weight[order], WEIGHTS, rtol=0, atol=0.02)
        torch.testing.assert_close(fitted.mean[order], CENTRES, rtol=0, atol=0.1)
        covariance = fitted.scale @ fitted.scale.mT
        torch.testing.assert_close(covariance[order], FACTORS @ FACTORS.mT, rtol=0.1, atol=0.05)

    def test_its_log_likelihood_is_that_of_the_mixture(self) -> None:
        z = rows_of_known(500)
        fitted = expectation_maximization(z, uniforms(500, 3))
        parts = MultivariateNormal(fitted.mean, scale_tril=fitted.scale)
        expected = MixtureSameFamily(Categorical(fitted.weight), parts).log_prob(z).mean().item()
        assert fitted.history[-1] == pytest.approx(expected, rel=1e-12)
        whole = MultivariateNormal(z.mean(0), z.T.cov(correction=0)).log_prob(z).mean().item()
        assert fitted.history[0] == pytest.approx(whole, abs=1e-3)  # but for the ridge
        assert fitted.history[-1] > whole + 0.5
        assert fitted.rows == 500

    @pytest.mark.parametrize("components", [2, 5, 12])
    @pytest.mark.parametrize("rows", [40, 2000])
    def test_what_it_maximizes_never_falls(self, rows: int, components: int) -> None:
        """The log-likelihood, less the penalty by which few rows are not believed."""
        z = rows_of_known(rows)
        spread = z.T.cov(correction=0)
        spread += (1e-6 + 1e-4 * spread.diagonal().mean()) * torch.eye(2)
        objective = []
        for iterations in range(1, 25):
            fitted = expectation_maximization(z, uniforms(rows, components), iterations)
            covariance = fitted.scale @ fitted.scale.mT
            traces = torch.linalg.solve(covariance, spread.expand_as(covariance)).diagonal(dim1=1, dim2=2).sum(1)
            penalty = (covariance.logdet() + traces).sum().item()  # of half a latent's width: 1
            objective.append(fitted.history[-1] * rows - penalty)
        assert objective[-1] > objective[0]
        assert (np.diff(objective) >= -1e-8).all()

    def test_the_log_likelihood_of_many_rows_never_falls(self) -> None:
        for seed in range(3):
            history = expectation_maximization(rows_of_known(5000), uniforms(5000, 6, seed)).history
            assert len(history) > 5
            assert (np.diff(history[1:]) >= -1e-6).all()

    def test_it_ends_where_nothing_is_gained(self) -> None:
        far = expectation_maximization(rows_of_known(3000), uniforms(3000, 3))
        assert len(far.history) < 60
        assert far.history[-1] - far.history[-2] < 1e-4

    @pytest.mark.parametrize("rows", [0, 1, 2, 5])
    def test_fewer_rows_than_components(self, rows: int) -> None:
        z = rows_of_known(8)[:rows]
        fitted = expectation_maximization(z, uniforms(rows, 8))
        assert all(torch.isfinite(part).all() for part in fitted[:3])
        assert np.isfinite(fitted.history).all()
        assert fitted.weight.sum().item() == pytest.approx(1)
        if rows:
            torch.testing.assert_close(fitted.weight @ fitted.mean, z.mean(0))

    def test_rows_that_are_all_the_same(self) -> None:
        z = torch.tensor([[2.0, -1.0]], dtype=torch.float64).repeat(50, 1)
        fitted = expectation_maximization(z, uniforms(50, 4))
        torch.testing.assert_close(fitted.mean, z[:4], rtol=0, atol=1e-9)
        assert torch.isfinite(fitted.scale).all()

    def test_few_rows_do_not_shrink_to_a_point(self) -> None:
        """One far row is a component of its own, but nearly as wide as all rows are: it is one, and two like all."""
        z = torch.cat([rows_of_known(200), torch.tensor([[400.0, 0.0]], dtype=torch.float64)])
        fitted = expectation_maximization(z, uniforms(201, 2))
        lonely = int(fitted.weight.argmin())
        assert fitted.weight[lonely].item() == pytest.approx(1 / 201, rel=0.01)
        variance = (fitted.scale @ fitted.scale.mT)[lonely, 0, 0].item()
        assert variance == pytest.approx(2 / 3 * z[:, 0].var(correction=0).item(), rel=0.01)


class TestMixture:
    def test_two_workers_fit_what_one_does(self, tmp_path: Path) -> None:
        """With real processes, which add up their sums by gloo."""
        command = [sys.executable, __file__]
        ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
        alone, figures = fitted_by(0, 1)
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
        states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
        for name, value in alone.state_dict().items():
            assert torch.equal(states[0][name], states[1][name])
            torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-5)
        for name, figure in figures.items():
            assert states[0]["figures"][name] == pytest.approx(figure, rel=1e-6)

    def test_it_is_the_same_every_time_and_however_batched_in_turns(self) -> None:
        (one, figures), (two, again) = fitted_by(0, 1), fitted_by(0, 1)
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
        assert figures == again
        other = Mixture(2, 4, 2)
        z, classes = two_classes()
        other.learn(dealt(z, classes, 50))
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-4)

    def test_of_many_rows_a_sample_is_fitted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(density, "MOST", 500)
        z = rows_of_known(6000).sort(0).values  # so that no part of them is like all
        sampled, whole = Mixture(1, 1, 2), Density(1, 2)
        sampled.learn(dealt(z, None, 100))
        whole.learn(dealt(z, None, 100))
        assert not torch.allclose(sampled.mean, whole.mean, rtol=1e-3)
        torch.testing.assert_close(sampled.mean, whole.mean, rtol=0.1, atol=0.3)

    def test_every_class_has_its_own(self) -> None:
        mixture, figures = fitted_by(0, 1)
        z, classes = two_classes()
        for of in range(2):
            drawn = mixture(torch.randn(4000, 3), torch.full((4000,), of)).double()
            torch.testing.assert_close(drawn.mean(0), z[classes == of].mean(0), rtol=0, atol=0.25)
            here = slice(4 * of, 4 * of + 4)
            parts = MultivariateNormal(mixture.mean[here].double(), scale_tril=mixture.scale[here].double())
            whole = MixtureSameFamily(Categorical(mixture.weight[of].double()), parts)
            assert whole.log_prob(z[classes == of]).mean() > whole.log_prob(z[classes != of]).mean() + 1
        assert list(figures) == ["latent_log_likelihood", "latent_log_likelihood_of_one_gaussian", "effective_components"]
        assert figures["latent_log_likelihood"] > figures["latent_log_likelihood_of_one_gaussian"] + 0.3
        assert 2 < figures["effective_components"] <= 4

    def test_draws_have_the_weights(self) -> None:
        mixture = Mixture(1, 3, 2)
        z = rows_of_known(6000)
        mixture.learn(dealt(z, None, 500))
        normals = torch.from_numpy(noise.normals(3, "latent", range(20_000), mixture.noise))
        counts = mixture.component(normals, None).bincount(minlength=3) / 20_000
        torch.testing.assert_close(counts, mixture.weight[0], rtol=0, atol=0.02)
        drawn = mixture(normals, None).double()
        torch.testing.assert_close(drawn.T.cov(), z.T.cov(), rtol=0.05, atol=0.1)

    def test_a_component_of_no_weight_is_never_drawn(self) -> None:
        mixture = Mixture(2, 4, 1)
        mixture.weight.copy_(torch.tensor([[0.0, 0.7, 0.0, 0.3], [0.1, 0.0, 0.9, 0.0]]))
        normals = torch.cat([torch.zeros(4001, 1), torch.linspace(-6.8, 6.8, 4001)[:, None]], 1)
        for of, expected in enumerate(([1, 3], [4, 6])):
            picked = mixture.component(normals, torch.full((4001,), of))
            assert picked.unique().tolist() == expected
            assert (picked.diff() >= 0).all()  # in the order of the number that picks

    def test_a_class_without_rows_still_draws(self) -> None:
        mixture = Mixture(3, 4, 2)
        z, classes = two_classes()
        mixture.learn(dealt(z, classes, 64))
        torch.testing.assert_close(mixture.weight.sum(1), torch.ones(3))
        assert torch.isfinite(mixture(torch.randn(9, 3), torch.full((9,), 2))).all()

    def test_one_component_is_a_gaussian(self) -> None:
        z = rows_of_known(3000)
        mixture, gaussian = Mixture(1, 1, 2), Density(1, 2)
        figures = mixture.learn(dealt(z, None, 100))
        assert gaussian.learn(dealt(z, None, 100)) == {}
        torch.testing.assert_close(mixture.mean, gaussian.mean)
        torch.testing.assert_close(mixture.scale, gaussian.scale, rtol=1e-3, atol=1e-4)
        assert figures["effective_components"] == 1
        normals = torch.randn(50, 3)
        torch.testing.assert_close(mixture(normals, None), gaussian(normals[:, :2], None), rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    density, measured = fitted_by(rank, 2)
    torch.save({**density.state_dict(), "figures": measured}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
