"""Discriminators are told the class or guess it, and may have their weights bounded."""

import copy

import pytest
import torch
from torch import Tensor, nn

from raygen.generators import networks
from raygen.generators.discriminators import Auxiliary, Projection, normalize
from raygen.generators.networks import Shape

SHAPES = [(1, 28, 28), (3, 33, 20), (3, 128, 96), (1, 9, 65)]
ROWS, CLASSES, WIDTH = 10, 5, 4

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
kinds = pytest.mark.parametrize("network", ["dense", "dcgan", "resnet"])
conditions = pytest.mark.parametrize("classes", [0, CLASSES], ids=["unconditional", "conditional"])
both = pytest.mark.parametrize("judge", [Projection, Auxiliary])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def of(judge: type[nn.Module], network: str, shape: Shape = (1, 12, 12), classes: int = CLASSES) -> nn.Module:
    return judge(networks.encoder(network, shape, WIDTH, norm=False), classes)


def given(classes: int) -> Tensor | None:
    return torch.arange(ROWS) % classes if classes else None


@shapes
@kinds
@conditions
@both
@pytest.mark.parametrize("normalized", [False, True])
def test_logits_and_guesses(judge: type[nn.Module], network: str, shape: Shape, classes: int, normalized: bool) -> None:
    discriminator = of(judge, network, shape, classes)
    if normalized:
        normalize(discriminator)
    logits, guesses = discriminator(torch.randn(ROWS, *shape), given(classes))
    assert logits.shape == (ROWS,)
    total = (logits * torch.randn(ROWS)).sum()
    if judge is Auxiliary and classes:
        assert guesses.shape == (ROWS, classes)
        total = total + (guesses * torch.randn_like(guesses)).sum()
    else:
        assert guesses is None
    total.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in discriminator.parameters())


@kinds
def test_the_logit_of_a_projection(network: str) -> None:
    """Linear in the features, plus the inner product of the features and the embedding of the class."""
    judge = Projection(networks.encoder(network, (1, 8, 8), WIDTH, norm=False), CLASSES)
    images, classes = torch.randn(ROWS, 1, 8, 8), torch.arange(ROWS) % CLASSES
    features = judge.encoder(images)
    assert judge.embedding is not None
    for row, logit in enumerate(judge(images, classes)[0]):
        direction = judge.linear.weight[0] + judge.embedding.weight[classes[row]]
        torch.testing.assert_close(logit, direction @ features[row] + judge.linear.bias[0])


@kinds
def test_one_that_guesses_the_class_does_not_look_at_it(network: str) -> None:
    judge, images = of(Auxiliary, network), torch.randn(ROWS, 1, 12, 12)
    for one, other in zip(judge(images, given(CLASSES)), judge(images, torch.zeros(ROWS, dtype=torch.long)), strict=True):
        assert torch.equal(one, other)


def singular_values(network: nn.Module) -> list[float]:
    """The largest one of every weight as a matrix of a row for each output."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    return [float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2)) for m in layers]


@kinds
@both
def test_normalized_weights_have_a_largest_singular_value_of_one(judge: type[nn.Module], network: str) -> None:
    discriminator = of(judge, network)
    assert max(abs(value - 1) for value in singular_values(discriminator)) > 0.2
    normalize(discriminator)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2, betas=(0.0, 0.9))
    for step in range(60):  # the power iteration follows weights that move, and catches up when they stand still
        logits, _ = discriminator(torch.randn(ROWS, 1, 12, 12), given(CLASSES))
        if step < 30:
            optimizer.zero_grad()
            (-logits.mean()).backward()
            optimizer.step()
    values = singular_values(discriminator)
    assert len(values) == sum(1 for p in discriminator.parameters() if p.ndim > 1)
    assert values == [pytest.approx(1, abs=0.02)] * len(values)


@kinds
@both
def test_a_normalized_discriminator_can_be_copied_and_restored(judge: type[nn.Module], network: str) -> None:
    discriminator = of(judge, network)
    normalize(discriminator)
    images, classes = torch.randn(ROWS, 1, 12, 12), given(CLASSES)
    discriminator(images, classes)
    twin, other = copy.deepcopy(discriminator), of(judge, network)
    normalize(other)
    other.load_state_dict(discriminator.state_dict())
    expected = discriminator(images, classes)[0]
    for again in (twin, other):
        assert torch.equal(again(images, classes)[0], expected)
        assert not {id(p) for p in again.parameters()} & {id(p) for p in discriminator.parameters()}
