"""Known answers of the losses and penalties of a GAN, and what its options do to a step."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from raygen.generators.discriminators import Auxiliary
from raygen.generators.gan import Gan, between, discriminator_loss, generator_loss, r1_penalty, slope_penalty
from raygen.generators.networks import Shape
from raygen.options import GanSpec

SHAPE, ROWS, CLASSES = (1, 8, 8), 16, 3


def new(shape: Shape = SHAPE, classes: int = 0, seed: int = 0, **options: Any) -> Gan:
    torch.manual_seed(seed)
    return Gan(GanSpec(**{"network": "dense", "latent": 4, "width": 2, **options}), shape, classes, torch.device("cpu"))


def images_of(shape: Shape = SHAPE, rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def with_judge(judge: nn.Module, **options: Any) -> Gan:
    """A GAN with a discriminator of ours, whose optimizers do not move: its losses are those of the first weights."""
    learner = new(**{"r1": 0, "diff_augment": 0, "width": 1, **options})
    learner.networks["discriminator"] = judge
    learner.optimizers = {n: torch.optim.SGD(m.parameters(), lr=0.0) for n, m in learner.networks.items()}
    return learner


def fakes(learner: Gan, rows: int) -> Tensor:
    """What the next step makes, with the seed set to 3 before each."""
    torch.manual_seed(3)
    fake = torch.tanh(learner.networks["generator"](torch.randn(rows, 4), None))
    torch.manual_seed(3)
    return fake


def gradient_of(learner: Gan, images: Tensor) -> Tensor:
    """Of what the discriminator minimizes, with respect to w."""
    fakes(learner, len(images))
    learner.step(images, None)
    gradient = learner.networks["discriminator"].w.grad
    assert isinstance(gradient, Tensor)
    return gradient.detach().clone()


def learn(learner: Gan, images: Tensor, classes: Tensor | None = None, steps: int = 1) -> list[dict[str, Tensor]]:
    losses = []
    for _ in range(steps):
        losses.append(learner.step(images, classes))
        learner.average_weights()
    return losses


class Linear(nn.Module):
    """A discriminator D(x) = ⟨w, x⟩ + b that remembers what it was shown. It has no idea of classes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape) * 0.1)
        self.b = nn.Parameter(torch.tensor(0.3))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, None]:
        self.seen.append(images.detach().clone())
        return (images * self.w).sum((1, 2, 3)) + self.b, None


class Quadratic(Linear):
    """D(x) = ⟨w, x²⟩ + b: its gradient, 2wx, differs from row to row."""

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, None]:
        return super().forward(images**2, classes)


class TestGan:
    def test_losses_and_their_gradients(self) -> None:
        judge = Linear(SHAPE)
        learner = with_judge(judge)
        images = images_of()
        fake = fakes(learner, len(images))
        d = lambda x: torch.sigmoid((x.double() * judge.w.double()).sum((1, 2, 3)) + judge.b.double())  # noqa: E731
        d_loss = (-torch.log(d(images)) - torch.log(1 - d(fake.detach()))).mean()
        g_loss = -torch.log(d(fake)).mean()
        accuracies = (d(images) > 0.5).float().mean(), (d(fake) < 0.5).float().mean()
        generator = list(learner.networks["generator"].parameters())
        d_gradient = torch.autograd.grad(d_loss, list(judge.parameters()))
        g_gradient = torch.autograd.grad(g_loss, generator)

        losses = learner.step(images, None)
        torch.testing.assert_close(losses["discriminator_loss"].double(), d_loss.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(losses["generator_loss"].double(), g_loss.detach(), rtol=1e-5, atol=0)
        assert (losses["real_accuracy"], losses["fake_accuracy"]) == accuracies
        torch.testing.assert_close([p.grad for p in judge.parameters()], list(d_gradient), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close([p.grad for p in generator], list(g_gradient), rtol=1e-4, atol=1e-6)
        assert all(p.requires_grad for p in judge.parameters())

    def test_the_penalty_of_a_linear_discriminator(self) -> None:
        """dD/dx is w everywhere, so R1 is r1/2·‖w‖², and its gradient r1·w."""
        judge = Linear(SHAPE)
        images = images_of()
        real = images.clone().requires_grad_(True)
        torch.testing.assert_close(r1_penalty(judge(real, None)[0], real), 0.5 * judge.w.pow(2).sum())
        difference = gradient_of(with_judge(judge, r1=0.7), images) - gradient_of(with_judge(judge), images)
        torch.testing.assert_close(difference, 0.7 * judge.w)

    def test_the_penalty_is_of_the_real_images(self) -> None:
        """dD/dx is 2wx, so the gradient of R1 with respect to w is r1·4w·x², averaged over the real rows."""
        judge = Quadratic(SHAPE)
        images = images_of()
        difference = gradient_of(with_judge(judge, r1=0.7), images) - gradient_of(with_judge(judge), images)
        torch.testing.assert_close(difference, 0.7 * 4 * judge.w * images.pow(2).mean(0))

    def test_the_penalty_is_not_part_of_the_loss_shown(self) -> None:
        judge = Linear(SHAPE)
        images = images_of()
        shown = []
        for r1 in (0.0, 0.7):
            learner = with_judge(judge, r1=r1)
            fakes(learner, len(images))
            shown.append(learner.step(images, None)["discriminator_loss"])
        assert torch.equal(*shown)

    def test_the_discriminator_sees_real_and_made_rows_shifted(self, shifts_of: Any) -> None:
        for shift in (0.0, 0.25):
            judge = Linear(SHAPE)
            learner = with_judge(judge, diff_augment=shift)
            images = images_of()
            fake = fakes(learner, len(images)).detach()
            learner.step(images, None)
            both, for_generator = judge.seen
            shown, originals = torch.cat([both, for_generator]), torch.cat([images, fake, fake])
            offsets = [shifts_of(one, other, 2) for one, other in zip(originals, shown, strict=True)]
            assert all(offsets)
            unmoved = [(0, 0) in found for found in offsets]
            assert all(unmoved) if not shift else not all(unmoved[:16]) and not all(unmoved[16:32]) and not all(unmoved[32:])


def test_without_augmentation_the_batch_is_left_as_it_was() -> None:
    images = images_of()
    new(diff_augment=0, r1=1).step(images, None)
    assert not images.requires_grad
    assert images.grad is None


class TestLosses:
    """By hand: real logits 2, 0.5 and −1, made ones −3, 0 and 1."""

    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])

    @pytest.mark.parametrize(
        ("kind", "discriminator", "generator"),
        [
            ("non_saturating", (0.126928 + 0.474077 + 1.313262 + 0.048587 + 0.693147 + 1.313262) / 3, 1.351665),
            ("hinge", (0 + 0.5 + 2 + 0 + 1 + 2) / 3, 2 / 3),
            ("wgan_gp", -2 / 3 - 0.5, 2 / 3),
        ],
    )
    def test_values(self, kind: str, discriminator: float, generator: float) -> None:
        assert float(discriminator_loss(kind, self.real, self.fake)) == pytest.approx(discriminator, rel=1e-5)
        assert float(generator_loss(kind, self.fake)) == pytest.approx(generator, rel=1e-5)

    @pytest.mark.parametrize(
        ("kind", "of_real", "of_fake", "of_generator"),
        [
            ("hinge", [0, -1, -1], [0, 1, 1], [-1, -1, -1]),  # beyond the margin there is nothing to learn
            ("wgan_gp", [-1, -1, -1], [1, 1, 1], [-1, -1, -1]),
        ],
    )
    def test_gradients(self, kind: str, of_real: list[int], of_fake: list[int], of_generator: list[int]) -> None:
        real, fake = self.real.clone().requires_grad_(True), self.fake.clone().requires_grad_(True)
        one, two = torch.autograd.grad(discriminator_loss(kind, real, fake), [real, fake])
        (three,) = torch.autograd.grad(generator_loss(kind, fake), fake)
        for gradient, expected in ((one, of_real), (two, of_fake), (three, of_generator)):
            torch.testing.assert_close(gradient * 3, torch.tensor(expected, dtype=torch.float32))

    @pytest.mark.parametrize("kind", ["hinge", "wgan_gp"])
    def test_a_step_descends_them(self, kind: str) -> None:
        judge = Linear(SHAPE)
        learner = with_judge(judge, loss=kind, gradient_penalty=1e-9) if kind == "wgan_gp" else with_judge(judge, loss=kind)
        images = images_of()
        fake = fakes(learner, ROWS)
        d_loss = discriminator_loss(kind, judge(images, None)[0], judge(fake.detach(), None)[0])
        g_loss = generator_loss(kind, judge(fake, None)[0])
        generator = list(learner.networks["generator"].parameters())
        d_gradient, g_gradient = torch.autograd.grad(d_loss, judge.w)[0], torch.autograd.grad(g_loss, generator)
        fakes(learner, ROWS)
        losses = learner.step(images, None)
        torch.testing.assert_close(losses["discriminator_loss"], d_loss.detach())
        if kind == "hinge":
            torch.testing.assert_close(losses["generator_loss"], g_loss.detach())
        else:  # the level of a critic means nothing
            assert "generator_loss" not in losses
        torch.testing.assert_close(judge.w.grad, d_gradient)
        torch.testing.assert_close([p.grad for p in generator], list(g_gradient))


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("penalty", "by_hand"),
    [
        (r1_penalty, lambda slope: slope.pow(2).sum() / 2),
        (slope_penalty, lambda slope: (slope.pow(2).sum().sqrt() - 1) ** 2),
    ],
    ids=["r1", "slope"],
)
def test_the_gradient_of_a_penalty(penalty: Any, by_hand: Any, normalized: bool, network: str) -> None:
    """Differentiated twice by another machinery, row by row."""
    judge = new(network=network, spectral_norm=normalized).networks["discriminator"].eval()
    images = images_of(rows=5).requires_grad_(True)
    got = torch.autograd.grad(penalty(judge(images, None)[0], images), list(judge.parameters()), materialize_grads=True)

    def reference(parameters: dict[str, Tensor]) -> Tensor:
        logit = lambda image: functional_call(judge, parameters, (image[None], None))[0][0]  # noqa: E731
        return torch.stack([by_hand(grad(logit)(image)) for image in images.detach()]).mean()

    expected = grad(reference)({name: p.detach() for name, p in judge.named_parameters()})
    assert sum(float(p.abs().sum()) for p in got) > 0
    torch.testing.assert_close(list(got), list(expected.values()), rtol=1e-4, atol=1e-5)


class TestSlopePenalty:
    def test_of_a_linear_discriminator(self) -> None:
        """dD/dx is w everywhere: (‖w‖ − 1)², with the gradient 2(‖w‖ − 1)·w/‖w‖."""
        judge = Linear(SHAPE)
        images = images_of().requires_grad_(True)
        size = judge.w.norm()
        penalty = slope_penalty(judge(images, None)[0], images)
        torch.testing.assert_close(penalty, (size - 1) ** 2)
        torch.testing.assert_close(torch.autograd.grad(penalty, judge.w)[0], 2 * (size - 1) * judge.w / size)

    def test_a_discriminator_that_is_flat_has_a_finite_gradient(self) -> None:
        judge = Linear(SHAPE)
        with torch.no_grad():
            judge.w.zero_()
        images = images_of().requires_grad_(True)
        penalty = slope_penalty(judge(images, None)[0], images)
        assert penalty == 1
        assert torch.isfinite(torch.autograd.grad(penalty, judge.w)[0]).all()

    def test_points_are_between_a_real_and_a_made_row(self) -> None:
        real, fake = images_of(rows=500), images_of(rows=500, seed=1).requires_grad_(True)
        point = between(real, fake)
        assert not point.requires_grad
        shares = (point - real) / (fake.detach() - real)
        share = shares.flatten(1).median(1).values
        torch.testing.assert_close(point, torch.lerp(real, fake.detach(), share[:, None, None, None]), rtol=0, atol=1e-4)
        assert 0 <= share.min() < 0.02
        assert 0.98 < share.max() <= 1
        assert share.mean() == pytest.approx(0.5, abs=0.05)

    def test_a_step_weighs_it_at_points_between(self) -> None:
        """D(x) = ⟨w, x²⟩ has another slope at the points between than at real and made rows."""
        judge = Quadratic(SHAPE)
        images = images_of()
        learner = with_judge(judge, loss="wgan_gp", gradient_penalty=3.0)
        difference = gradient_of(learner, images) - gradient_of(
            with_judge(judge, loss="wgan_gp", gradient_penalty=1.0), images
        )
        seen = judge.seen[0].sqrt()  # of the squares that it was shown; only their size counts
        assert len(seen) == 3 * ROWS
        slope = 2 * judge.w * seen[2 * ROWS :]
        size = slope.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
        expected = (2 * (size - 1) * slope / size * 2 * seen[2 * ROWS :]).mean(0)
        torch.testing.assert_close(difference, 2.0 * expected, rtol=1e-4, atol=1e-5)


class TestLazyPenalty:
    def test_every_third_step_and_three_times_as_much(self) -> None:
        judge, images = Linear(SHAPE), images_of()
        plain, always = (gradient_of(with_judge(judge, r1=r1), images) for r1 in (0, 0.7))
        learner = with_judge(judge, r1=0.7, r1_every=3)
        penalties = []
        for _ in range(7):
            penalties.append(gradient_of(learner, images) - plain)
            learner.average_weights()
        for step, penalty in enumerate(penalties):
            torch.testing.assert_close(penalty, (0 if step % 3 else 3) * (always - plain), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.stack(penalties[:6]).mean(0), always - plain, rtol=1e-4, atol=1e-6)

    def test_the_count_goes_on_after_a_restart(self) -> None:
        judge, images = Linear(SHAPE), images_of()
        plain = gradient_of(with_judge(judge), images)
        first, second = (with_judge(judge, r1=0.7, r1_every=3) for _ in range(2))
        learn(first, images, steps=2)
        second.load_state_dict(first.state_dict())
        assert torch.equal(gradient_of(second, images), plain)
        second.average_weights()
        assert not torch.allclose(gradient_of(second, images), plain)


class TestDiscriminatorSteps:
    def test_the_generator_learns_from_every_third_batch_only(self) -> None:
        learner, images = new(discriminator_steps=3), images_of()
        moved = []
        for _ in range(7):
            before = [p.detach().clone() for network in learner.networks.values() for p in network.parameters()]
            (losses,) = learn(learner, images)
            assert torch.isfinite(losses["generator_loss"])
            after = [p.detach() for network in learner.networks.values() for p in network.parameters()]
            count = len(list(learner.networks["generator"].parameters()))
            changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert all(changed[count:])
            assert len(set(changed[:count])) == 1
            moved.append(changed[0])
        assert moved == [True, False, False, True, False, False, True]
        assert all(p.requires_grad for p in learner.networks["discriminator"].parameters())


class Guess(Linear):
    """A discriminator whose guess of the class is linear in the image."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.v = nn.Parameter(torch.randn(CLASSES, *shape) * 0.1)

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(images, classes)[0], torch.einsum("nchw,kchw->nk", images, self.v)


class TestAuxiliary:
    classes = torch.arange(ROWS) % CLASSES

    def test_both_networks_descend_the_cross_entropy(self) -> None:
        """The discriminator's is of real rows only, the generator's of what it makes."""
        images, found = images_of(), {}
        judge = Guess(SHAPE)
        for weight in (1.0, 3.0):
            learner = with_judge(judge, classes=CLASSES, conditioning="auxiliary", auxiliary_weight=weight)
            torch.manual_seed(3)
            losses = learner.step(images, self.classes)
            assert judge.v.grad is not None
            found[weight] = judge.v.grad.clone(), judge.w.grad, [p.grad for p in learner.networks["generator"].parameters()]
        loss = F.cross_entropy(judge(images, None)[1], self.classes)
        torch.testing.assert_close(losses["class_loss"], loss.detach())
        (expected,) = torch.autograd.grad(loss, judge.v)
        for weight, (gradient, _, _) in found.items():
            torch.testing.assert_close(gradient, weight * expected)

        torch.manual_seed(3)
        fake = torch.tanh(learner.networks["generator"](torch.randn(ROWS, 4), self.classes))
        loss = F.cross_entropy(judge(fake, None)[1], self.classes)
        parts = torch.autograd.grad(loss, list(learner.networks["generator"].parameters()))
        for one, three, expected in zip(found[1.0][2], found[3.0][2], parts, strict=True):
            torch.testing.assert_close(three - one, 2 * expected, rtol=1e-4, atol=1e-6)

    def test_the_loss_shown_is_the_one_of_real_and_made(self) -> None:
        shown = []
        for weight in (1.0, 3.0):
            judge = with_judge(self.seeded(), classes=CLASSES, conditioning="auxiliary", auxiliary_weight=weight)
            torch.manual_seed(3)
            shown.append(judge.step(images_of(), self.classes))
        assert shown[0] == shown[1]

    def seeded(self) -> Guess:
        torch.manual_seed(1)
        return Guess(SHAPE)

    @pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
    def test_it_learns_to_guess(self, loss: str) -> None:
        images = torch.full((30, *SHAPE), -0.8)
        classes = torch.arange(30) % CLASSES
        for row, of in enumerate(classes):
            images[row, :, 2 * of : 2 * of + 2] = 0.8
        options = {"network": "dcgan", "width": 8, "learning_rate": 5e-3, "r1": 0, "diff_augment": 0}
        learner = new(classes=CLASSES, conditioning="auxiliary", loss=loss, **options)
        losses = learn(learner, images, classes, steps=100)
        assert losses[0]["class_loss"] > 1
        assert losses[-1]["class_loss"] < 0.2
        judge = learner.networks["discriminator"].eval()
        assert isinstance(judge, Auxiliary)
        assert torch.equal(judge(images, None)[1].argmax(1), classes)
        made = learner.exported()(torch.randn(30, 4), classes)
        assert (judge(made, None)[1].argmax(1) == classes).float().mean() > 0.8


def test_policies_decide_what_the_discriminator_sees() -> None:
    seen = {}
    for policy in ([], ["translation"], ["colour"], ["cutout"], ["translation", "cutout"]):
        judge = Linear(SHAPE)
        learner = with_judge(judge, diff_augment=0.25, diff_augment_policy=policy)
        images = images_of()
        fake = fakes(learner, ROWS).detach()
        learner.step(images, None)
        originals, shown = torch.cat([images, fake, fake]), torch.cat(judge.seen)
        assert shown.shape == originals.shape
        seen[tuple(policy)] = (
            shown,
            [
                float((a != b).flatten(1).any(1).float().mean())
                for a, b in zip(shown.split(ROWS), originals.split(ROWS), strict=True)
            ],
        )
    assert seen.pop(())[1] == [0, 0, 0]
    assert all(min(changed) > 0.5 for _, changed in seen.values())
    black = {policy: float((shown == -1).float().mean()) for policy, (shown, _) in seen.items()}
    assert black["colour",] == 0
    assert black["translation", "cutout"] > black["cutout",] > 0.1


def test_the_optimizers_take_the_betas() -> None:
    for options, betas in (({}, (0.5, 0.999)), ({"beta1": 0.0, "beta2": 0.9}, (0.0, 0.9))):
        assert [o.defaults["betas"] for o in new(**options).optimizers.values()] == [betas, betas]


TWO_WORKERS = """
import gc
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from raygen.generators.gan import Gan
from raygen.options import GanSpec

rank, rendezvous, options = int(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=60))
torch.manual_seed(0)
learner = Gan(GanSpec(latent=4, width=4, **options), (1, 8, 8), 3, torch.device("cpu"))
learner.distribute(lambda network: DistributedDataParallel(network, broadcast_buffers=False))
torch.manual_seed(rank)  # other rows, other noise
for _ in range(5):
    learner.step(torch.rand(8, 1, 8, 8) * 2 - 1, torch.arange(8) % 3)
    learner.average_weights()
for network in learner.networks.values():
    buffers = [b for name, b in network.named_buffers() if "parametrizations" in name]
    for mine in (*network.parameters(), *buffers):
        theirs = mine.detach().clone()
        dist.broadcast(theirs, 0)
        assert torch.equal(mine, theirs)
learner = network = None  # what the process group is used by goes first: else torch may abort at exit
gc.collect()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    "options",
    [
        {"network": "resnet", "loss": "hinge", "spectral_norm": True, "conditioning": "auxiliary", "r1_every": 2},
        {"network": "dcgan", "loss": "wgan_gp", "r1": 0.0, "discriminator_steps": 2},
    ],
    ids=["hinge", "wgan_gp"],
)
def test_two_workers_stay_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(TWO_WORKERS)
    where = (tmp_path / "rendezvous").as_uri()
    command = [sys.executable, str(tmp_path / "worker.py")]
    workers = [
        subprocess.Popen([*command, str(rank), where, repr(options)], stderr=subprocess.PIPE, text=True, env=os.environ)
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
