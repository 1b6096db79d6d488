"""Networks shared by the families: a decoder makes images of a latent, an encoder makes features of images.

Both come dense, convolutional and residual, for images of any size, with or without a class condition: a learned embedding
of the class that is joined to the decoder's latent, or to the encoder's features.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Tokens(tuple[int, ...]):
    """How many tokens each column of a table has, in their order.

    Attributes:
        condition: the index of the column that is always given, where there is one.
    """

    condition: int | None = None

    @classmethod
    def of(cls, cells: Mapping[str, int], condition: str | None) -> "Tokens":
        """Of columns by their names."""
        tokens = cls(cells.values())
        tokens.condition = None if condition is None else [*cells].index(condition)
        return tokens


Layout = Shape | Tokens
"""What a row is to the networks: an image, or a table's cells."""


class DenseDecoder(nn.Module):
    """Latent ``(n, latent)``, classes ``(n,)`` or None → values of any sign ``(n, *shape)``."""

    def __init__(self, latent: int, classes: int, shape: Shape, width: int, class_scale: float) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = embedding(classes, latent, class_scale)
        hidden = width * 16
        self.layers = nn.Sequential(
            nn.Linear(latent * (2 if classes else 1), hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, math.prod(shape)),
        )

    def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        return self.layers(_joined(latent, self.embedding, classes)).view(-1, *self.shape)  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """The same with DCGAN's transposed convolutions and batch normalization (Radford et al. 2015, arXiv 1511.06434)."""

    def __init__(self, latent: int, classes: int, shape: Shape, width: int, class_scale: float) -> None:
        super().__init__()
        _, self.height, self.width = shape
        self.embedding = embedding(classes, latent, class_scale)
        self.start = _start(shape, width)
        self.project = nn.Linear(latent * (2 if classes else 1), math.prod(self.start), bias=False)
        self.layers = self._layers(shape, width)

    def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        start = self.project(_joined(latent, self.embedding, classes)).view(-1, *self.start)
        return self.layers(start)[:, :, : self.height, : self.width]  # type: ignore[no-any-return]

    def _layers(self, shape: Shape, width: int) -> nn.Sequential:
        """From the start to the shape, or a little more."""
        layers: list[nn.Module] = [nn.BatchNorm2d(self.start[0]), nn.ReLU(inplace=True)]
        for stage in range(_stages(shape) - 1, 0, -1):
            of, to = width * 2**stage, width * 2 ** (stage - 1)
            layers += [nn.ConvTranspose2d(of, to, 4, 2, 1, bias=False), nn.BatchNorm2d(to), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.ConvTranspose2d(width, shape[0], 4, 2, 1))


class UpBlock(nn.Module):
    """Twice the height and width, ``of`` → ``to`` channels: a residual block of SN-GAN's generator.

    No map has a bias, which the next normalization would subtract again.
    """

    def __init__(self, of: int, to: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(of),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(of, to, 3, padding=1, bias=False),
            nn.BatchNorm2d(to),
            nn.ReLU(inplace=True),
            nn.Conv2d(to, to, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(of, to, 1, bias=False), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)  # type: ignore[no-any-return]


class ResidualDecoder(ConvDecoder):
    """The same with the residual blocks of SN-GAN (Miyato et al. 2018, arXiv 1802.05957), the class joined to the latent."""

    def _layers(self, shape: Shape, width: int) -> nn.Sequential:
        widths = [width * 2**stage for stage in reversed(range(_stages(shape)))]
        blocks = [UpBlock(of, to) for of, to in itertools.pairwise([*widths, width])]
        return nn.Sequential(*blocks, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, shape[0], 3, padding=1))


class Maxout(nn.Module):
    """The largest of several linear maps (Goodfellow et al. 2013, arXiv 1302.4389)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)  # type: ignore[no-any-return]


class DenseEncoder(nn.Module):
    """Images ``(n, *shape)`` → features ``(n, features)``: maxout and dropout, as the discriminator of the first GAN."""

    def __init__(self, shape: Shape, width: int, dropout: float) -> None:
        super().__init__()
        self.features = width * 4
        self.layers = nn.Sequential(
            nn.Flatten(),
            Maxout(math.prod(shape), self.features, 5),
            nn.Dropout(dropout),
            Maxout(self.features, self.features, 5),
            nn.Dropout(dropout),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """The same with strided convolutions. ``norm`` adds batch normalization: a discriminator is better without, since its
    batches are real and generated rows together."""

    def __init__(self, shape: Shape, width: int, norm: bool) -> None:
        super().__init__()
        channels, height, across = shape
        layers: list[nn.Module] = []
        of = channels
        for stage in range(_stages(shape)):
            to = width * 2**stage
            layers.append(nn.Conv2d(of, to, 4, 2, 1, bias=not norm))
            layers += [nn.BatchNorm2d(to)] if norm else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            of, height, across = to, height // 2, across // 2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = of * height * across

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """``of`` → ``to`` channels, half the height and width where ``down``: a residual block of SN-GAN's discriminator.

    ``first`` is the one that sees the images, which are not to be cut off at 0.
    """

    def __init__(self, of: int, to: int, *, first: bool = False, down: bool = True) -> None:
        super().__init__()
        halve = [nn.AvgPool2d(2)] if down else []
        self.residual = nn.Sequential(
            *([] if first else [nn.ReLU()]),  # not in place: the shortcut needs what came in
            nn.Conv2d(of, to, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(to, to, 3, padding=1),
            *halve,
        )
        self.shortcut = nn.Sequential(*halve, *([] if of == to else [nn.Conv2d(of, to, 1)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)  # type: ignore[no-any-return]


class ResidualEncoder(nn.Module):
    """The same with the residual blocks of SN-GAN. Features are sums over the image, so where things are is lost to them,
    but for the last block, which stays at a size that it sees as a whole."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(_stages(shape))]
        blocks = [DownBlock(of, to) for of, to in itertools.pairwise(widths)]
        self.features = widths[-1]
        last = DownBlock(self.features, self.features, down=False)
        self.layers = nn.Sequential(DownBlock(shape[0], width, first=True), *blocks, last, nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).sum((2, 3))  # type: ignore[no-any-return]


Encoder = DenseEncoder | ConvEncoder | ResidualEncoder


class Head(nn.Module):
    """Features of an encoder, and an embedding of the class, to outputs: ``(n, outputs)``."""

    def __init__(self, encoder: Encoder, classes: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = embedding(classes, 32)
        self.linear = nn.Linear(encoder.features + (32 if classes else 0), outputs)

    def forward(self, images: Tensor, classes: Tensor | None) -> Tensor:
        return self.linear(_joined(self.encoder(images), self.embedding, classes))  # type: ignore[no-any-return]


def decoder(network: str, latent: int, classes: int, shape: Shape, width: int, *, class_scale: float = 0.1) -> nn.Module:
    kind = {"dense": DenseDecoder, "resnet": ResidualDecoder}.get(network, ConvDecoder)
    return kind(latent, classes, shape, width, class_scale)


def encoder(network: str, shape: Shape, width: int, *, norm: bool, dropout: float = 0.0) -> Encoder:
    """``norm`` is for the convolutional one only, and ``dropout`` for the dense one."""
    if network == "dense":
        return DenseEncoder(shape, width, dropout)
    return ResidualEncoder(shape, width) if network == "resnet" else ConvEncoder(shape, width, norm)


def _stages(shape: Shape) -> int:
    """How often the size is halved until the shorter side is about 8 or less; at least twice."""
    shorter = min(shape[1:])
    return max(2, math.ceil(math.log2(shorter / 8)))


def _start(shape: Shape, width: int) -> Shape:
    """What doubling the size as often as there are stages makes at least the shape of."""
    stages = _stages(shape)
    return width * 2 ** (stages - 1), -(-shape[1] // 2**stages), -(-shape[2] // 2**stages)


def embedding(classes: int, width: int, scale: float = 0.1) -> nn.Embedding | None:
    """How large it is at first says how much the class counts: in a GAN it is small, or the class outshouts the noise and
    there is one image per class; in an autoencoder large, or the latent learns to tell the class instead."""
    if not classes:
        return None
    embedding = nn.Embedding(classes, width)
    nn.init.normal_(embedding.weight, 0.0, scale)
    return embedding


def _joined(x: Tensor, embedding: nn.Embedding | None, classes: Tensor | None) -> Tensor:
    return x if embedding is None or classes is None else torch.cat([x, embedding(classes)], dim=1)
