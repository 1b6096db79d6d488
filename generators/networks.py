"""Networks shared by the families: a decoder makes images of a latent, an encoder makes features of images.

Both come dense and convolutional, for images of any size, with or without a class condition: a learned embedding of the
class that is joined to the decoder's latent, or to the encoder's features.
"""

import math

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""Channels, height, width."""


class DenseDecoder(nn.Module):
    """Latent ``(n, latent)``, classes ``(n,)`` or None → values of any sign ``(n, *shape)``."""

    def __init__(self, latent: int, classes: int, shape: Shape, width: int, class_scale: float) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = _embedding(classes, latent, class_scale)
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
        channels, self.height, self.width = shape
        self.embedding = _embedding(classes, latent, class_scale)
        stages = _stages(shape)
        self.start = (width * 2 ** (stages - 1), -(-self.height // 2**stages), -(-self.width // 2**stages))
        self.project = nn.Linear(latent * (2 if classes else 1), math.prod(self.start), bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.start[0]), nn.ReLU(inplace=True)]
        for stage in range(stages - 1, 0, -1):
            of, to = width * 2**stage, width * 2 ** (stage - 1)
            layers += [nn.ConvTranspose2d(of, to, 4, 2, 1, bias=False), nn.BatchNorm2d(to), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1))

    def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        start = self.project(_joined(latent, self.embedding, classes)).view(-1, *self.start)
        return self.layers(start)[:, :, : self.height, : self.width]  # type: ignore[no-any-return]


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


class Head(nn.Module):
    """Features of an encoder, and an embedding of the class, to outputs: ``(n, outputs)``."""

    def __init__(self, encoder: DenseEncoder | ConvEncoder, classes: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = _embedding(classes, 32)
        self.linear = nn.Linear(encoder.features + (32 if classes else 0), outputs)

    def forward(self, images: Tensor, classes: Tensor | None) -> Tensor:
        return self.linear(_joined(self.encoder(images), self.embedding, classes))  # type: ignore[no-any-return]


class Projection(nn.Module):
    """A discriminator whose logit adds ⟨embedding of the class, features⟩ (Miyato and Koyama 2018, arXiv 1802.05637).

    Images ``(n, *shape)``, classes ``(n,)`` or None → logits ``(n,)``.
    """

    def __init__(self, encoder: DenseEncoder | ConvEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.features, 1)
        self.embedding = _embedding(classes, encoder.features)

    def forward(self, images: Tensor, classes: Tensor | None) -> Tensor:
        features = self.encoder(images)
        logits = self.linear(features).squeeze(1)
        if self.embedding is not None and classes is not None:
            logits = logits + (self.embedding(classes) * features).sum(1)
        return logits  # type: ignore[no-any-return]


def decoder(network: str, latent: int, classes: int, shape: Shape, width: int, *, class_scale: float = 0.1) -> nn.Module:
    kind = DenseDecoder if network == "dense" else ConvDecoder
    return kind(latent, classes, shape, width, class_scale)


def encoder(network: str, shape: Shape, width: int, *, norm: bool, dropout: float = 0.0) -> DenseEncoder | ConvEncoder:
    return DenseEncoder(shape, width, dropout) if network == "dense" else ConvEncoder(shape, width, norm)


def _stages(shape: Shape) -> int:
    """How often the size is halved until the shorter side is about 8 or less; at least twice."""
    shorter = min(shape[1:])
    return max(2, math.ceil(math.log2(shorter / 8)))


def _embedding(classes: int, width: int, scale: float = 0.1) -> nn.Embedding | None:
    """How large it is at first says how much the class counts: in a GAN it is small, or the class outshouts the noise and
    there is one image per class; in an autoencoder large, or the latent learns to tell the class instead."""
    if not classes:
        return None
    embedding = nn.Embedding(classes, width)
    nn.init.normal_(embedding.weight, 0.0, scale)
    return embedding


def _joined(x: Tensor, embedding: nn.Embedding | None, classes: Tensor | None) -> Tensor:
    return x if embedding is None or classes is None else torch.cat([x, embedding(classes)], dim=1)
