"""Networks for images of any size, with and without classes."""

import pytest
import torch
from torch import Tensor, nn

from raygen.generators import networks
from raygen.generators.networks import Head, Projection, Shape

SHAPES = [(1, 28, 28), (3, 33, 20), (3, 64, 64), (1, 8, 8), (3, 128, 96), (1, 9, 65)]
ROWS, CLASSES, LATENT, WIDTH = 10, 5, 6, 2

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
kinds = pytest.mark.parametrize("network", ["dense", "conv"])
conditions = pytest.mark.parametrize("classes", [0, CLASSES], ids=["unconditional", "conditional"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def given(classes: int) -> Tensor | None:
    return torch.arange(ROWS) % classes if classes else None  # each class is there: its embedding gets a gradient


def every_parameter_learns(network: nn.Module, output: Tensor) -> bool:
    (output * torch.randn_like(output)).sum().backward()
    return all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@shapes
@kinds
@conditions
def test_decoder(network: str, shape: Shape, classes: int) -> None:
    decoder = networks.decoder(network, LATENT, classes, shape, WIDTH, class_scale=1.0)
    values = decoder(torch.randn(ROWS, LATENT), given(classes))
    assert values.shape == (ROWS, *shape)
    assert every_parameter_learns(decoder, values)


@shapes
@kinds
@conditions
@pytest.mark.parametrize("norm", [False, True])
def test_head(network: str, shape: Shape, classes: int, norm: bool) -> None:
    encoder = networks.encoder(network, shape, WIDTH, norm=norm, dropout=0.3)
    head = Head(encoder, classes, 7)
    images = torch.randn(ROWS, *shape)
    assert encoder(images).shape == (ROWS, encoder.features)
    outputs = head(images, given(classes))
    assert outputs.shape == (ROWS, 7)
    assert every_parameter_learns(head, outputs)


@shapes
@kinds
@conditions
def test_projection(network: str, shape: Shape, classes: int) -> None:
    judge = Projection(networks.encoder(network, shape, WIDTH, norm=False), classes)
    logits = judge(torch.randn(ROWS, *shape), given(classes))
    assert logits.shape == (ROWS,)
    assert every_parameter_learns(judge, logits)


@kinds
def test_the_logit_of_a_projection(network: str) -> None:
    """Linear in the features, plus the inner product of the features and the embedding of the class."""
    judge = Projection(networks.encoder(network, (1, 8, 8), WIDTH, norm=False), CLASSES)
    images, classes = torch.randn(ROWS, 1, 8, 8), torch.arange(ROWS) % CLASSES
    features = judge.encoder(images)
    assert judge.embedding is not None
    for row, logit in enumerate(judge(images, classes)):
        direction = judge.linear.weight[0] + judge.embedding.weight[classes[row]]
        torch.testing.assert_close(logit, direction @ features[row] + judge.linear.bias[0])


@kinds
def test_classes_change_what_comes_out(network: str) -> None:
    decoder = networks.decoder(network, LATENT, CLASSES, (1, 12, 12), WIDTH, class_scale=1.0).eval()
    latent = torch.randn(1, LATENT).repeat(CLASSES, 1)
    images = decoder(latent, torch.arange(CLASSES))
    assert torch.cdist(images.flatten(1), images.flatten(1))[~torch.eye(CLASSES, dtype=torch.bool)].min() > 1e-4


@kinds
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_how_much_the_class_counts_at_first(network: str, scale: float) -> None:
    decoder = networks.decoder(network, 50, 40, (1, 8, 8), WIDTH, class_scale=scale)
    assert float(decoder.embedding.weight.detach().std()) == pytest.approx(scale, rel=0.1)  # type: ignore[operator, union-attr]


def test_maxout_takes_the_largest_of_its_pieces() -> None:
    maxout = networks.Maxout(4, 3, 5)
    x = torch.randn(ROWS, 4)
    pieces = [x @ maxout.linear.weight[piece::5].T + maxout.linear.bias[piece::5] for piece in range(5)]
    torch.testing.assert_close(maxout(x), torch.stack(pieces).amax(0))


def test_dropout_only_while_learning() -> None:
    encoder = networks.encoder("dense", (1, 8, 8), WIDTH, norm=False, dropout=0.5)
    images = torch.randn(ROWS, 1, 8, 8)
    assert not torch.equal(encoder(images), encoder(images))
    encoder.eval()
    assert torch.equal(encoder(images), encoder(images))
