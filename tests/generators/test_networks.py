"""Networks for images of any size, with and without classes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.generators import networks
from raygen.generators.networks import DownBlock, Head, Shape, UpBlock

SHAPES = [(1, 28, 28), (3, 33, 20), (3, 64, 64), (1, 8, 8), (3, 128, 96), (1, 9, 65)]
ROWS, CLASSES, LATENT, WIDTH = 10, 5, 6, 2

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
kinds = pytest.mark.parametrize("network", ["dense", "conv", "resnet"])
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


@pytest.mark.parametrize("down", [False, True])
def test_a_residual_block_adds_to_what_came_in(down: bool) -> None:
    x, block = torch.randn(ROWS, 3, 6, 6), DownBlock(3, 3, down=down)
    kept, whole = x.clone(), block(x)
    assert torch.equal(x, kept)
    layers = [layer for layer in block.residual if isinstance(layer, nn.Conv2d)]
    inner = layers[1](layers[0](x.relu()).relu())
    residual, shortcut = (F.avg_pool2d(part, 2) if down else part for part in (inner, x))
    torch.testing.assert_close(whole, residual + shortcut)


def test_a_residual_block_that_makes_images_larger_adds_to_them() -> None:
    x, block = torch.randn(ROWS, 3, 6, 5), UpBlock(3, 2)
    whole = block(x)
    assert whole.shape == (ROWS, 2, 12, 10)
    with torch.no_grad():
        block.residual[-1].weight.zero_()
    larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(x), block.shortcut[0](larger))
    assert not torch.allclose(block(x), whole)


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
