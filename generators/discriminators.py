"""Discriminators: what tells made images from real ones, by the features of an encoder and the class.

One returns logits ``(n,)``, high where images ``(n, *shape)`` look real, and the logits of their classes ``(n, classes)``,
or None where it is told the class instead of guessing it.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from raygen.generators.networks import Encoder, embedding


class Projection(nn.Module):
    """Told the class: its logit adds ⟨embedding of the class, features⟩ (Miyato and Koyama 2018, arXiv 1802.05637)."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.features, 1)
        self.embedding = embedding(classes, encoder.features)

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, None]:
        features = self.encoder(images)
        logits = self.linear(features).squeeze(1)
        if self.embedding is not None and classes is not None:
            logits = logits + (self.embedding(classes) * features).sum(1)
        return logits, None


class Auxiliary(nn.Module):
    """Guesses the class from the same features (AC-GAN, Odena et al. 2017, arXiv 1610.09585)."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.features, 1)
        self.classifier = nn.Linear(encoder.features, classes) if classes else None

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        features = self.encoder(images)
        guesses = None if self.classifier is None else self.classifier(features)
        return self.linear(features).squeeze(1), guesses


def normalize(network: nn.Module) -> None:
    """Divide every weight matrix by its largest singular value (Miyato et al. 2018, arXiv 1802.05957), which one power
    iteration a forward pass follows while it learns."""
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            spectral_norm(module)
