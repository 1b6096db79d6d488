"""A short loss curve of every family, and of some of its options, pinned: a change that is meant to change nothing may not
move it.

When a change is meant to (a loss, an initial weight, the order of random draws), print the new curves and paste them below,
and say in the commit message why they moved::

    python tests/generators/test_golden.py

They were made with PyTorch 2.13 on a CPU, in one thread; other CPUs differ from it in the last bits.
"""

import pytest
import torch
from torch import Tensor

from raygen.generators.families import FAMILIES, family
from raygen.generators.networks import Layout, Tokens
from raygen.options import AutoencoderSpec, AutoregressiveSpec, GanSpec, TabularGanSpec, TabularVaeSpec, VaeSpec

STEPS, ROWS, CLASSES, SHAPE, TOKENS = 8, 32, 4, (1, 16, 16), Tokens((4, 6, 3))
# Every option is given: a better default is no reason for a curve to move.
SPECS: dict[str, GanSpec | VaeSpec | AutoencoderSpec | AutoregressiveSpec | TabularGanSpec | TabularVaeSpec] = {
    "gan": GanSpec(
        network="dcgan",
        latent=8,
        width=4,
        learning_rate=1e-3,
        discriminator_learning_rate=2e-3,
        r1=0.1,
        diff_augment=0.1,
        loss="non_saturating",
        discriminator_steps=1,
        beta1=0.5,
        beta2=0.999,
        r1_every=1,
        spectral_norm=False,
        conditioning="projection",
        diff_augment_policy=["translation"],
        ema=0.99,
    ),
    "gan-hinge": GanSpec(
        network="resnet",
        latent=8,
        width=4,
        loss="hinge",
        discriminator_steps=2,
        learning_rate=1e-3,
        discriminator_learning_rate=2e-3,
        beta1=0.0,
        beta2=0.9,
        r1=0.1,
        r1_every=2,
        spectral_norm=True,
        conditioning="auxiliary",
        auxiliary_weight=1.0,
        diff_augment=0.1,
        diff_augment_policy=["colour", "translation", "cutout"],
        ema=0.99,
    ),
    "vae": VaeSpec(network="conv", latent=4, width=4, learning_rate=2e-3, ema=0.99),
    "vae-logistic": VaeSpec(
        network="conv",
        latent=4,
        width=4,
        learning_rate=2e-3,
        likelihood="logistic",
        beta=1.0,
        kl_warmup=0.5,
        free_bits=0.05,
        ema=0.99,
    ),
    "autoencoder": AutoencoderSpec(network="conv", latent=4, width=4, learning_rate=2e-3, latent_penalty=0.5, ema=0.99),
    "autoencoder-mixture": AutoencoderSpec(
        network="conv",
        latent=4,
        width=4,
        learning_rate=2e-3,
        latent_penalty=0.5,
        density="mixture",
        components=2,
        ema=0.99,
    ),
    "autoregressive": AutoregressiveSpec(embedding=4, width=8, features=4, learning_rate=2e-3, ema=0.99),
    "gan-tables": TabularGanSpec(
        latent=4,
        width=8,
        embedding=4,
        features=4,
        loss="non_saturating",
        pack=2,
        temperature=0.5,
        learning_rate=2e-3,
        discriminator_learning_rate=2e-3,
        beta1=0.5,
        beta2=0.9,
        r1=1.0,
        marginals=0.5,
        ema=0.99,
    ),
    "vae-tables": TabularVaeSpec(latent=4, width=8, embedding=4, features=4, learning_rate=2e-3, beta=0.5, ema=0.99),
}
SHOWN = {
    "gan": ["generator_loss", "discriminator_loss"],
    "gan-hinge": ["generator_loss", "discriminator_loss", "class_loss"],
    "vae": ["reconstruction", "divergence"],
    "vae-logistic": ["loss", "divergence"],
    "autoencoder": ["loss", "squared_error"],
    "autoencoder-mixture": ["loss", "squared_error"],
    "autoregressive": ["loss"],
    "gan-tables": ["generator_loss", "discriminator_loss"],
    "vae-tables": ["reconstruction", "divergence"],
}


def batch(layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Fixed pictures and their classes, or fixed cells."""
    if isinstance(layout, Tokens):
        rows = torch.arange(ROWS, dtype=torch.float64)
        return torch.stack([rows % 4, rows**2 % 6 + 0.25, rows // 3 % 3], 1), None
    rows = torch.arange(ROWS, dtype=torch.float32)[:, None, None, None]
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    images = torch.sin(0.3 * rows + 0.5 * x * (rows % CLASSES + 1) / CLASSES - 0.2 * y)
    return images, torch.arange(ROWS) % CLASSES


def curve(name: str) -> list[list[float]]:
    """The losses of a few steps on fixed rows, then the mean and the spread of what the generator makes."""
    of = SPECS[name].makes
    kind = family(SPECS[name].family, of)
    layout = TOKENS if of == "tables" else SHAPE
    images, classes = batch(layout)
    torch.manual_seed(0)
    learner = kind(SPECS[name], layout, CLASSES if classes is not None else 0, torch.device("cpu"))
    values = []
    for step in range(STEPS):
        learner.progress = step / STEPS
        losses = learner.step(images, classes)
        learner.average_weights()
        values.append([losses[shown].item() for shown in SHOWN[name]])
    learner.finish([(images, classes)])
    sampler = learner.exported()
    drawn = torch.rand(ROWS, sampler.noise, dtype=torch.float64) if sampler.uniform else torch.randn(ROWS, sampler.noise)
    with torch.no_grad():
        made = sampler(drawn, classes)
    return [*values, [made.mean().item(), made.std().item()]]


def test_every_family_that_learns_has_a_curve() -> None:
    assert set(CURVES) == set(SPECS)
    assert {spec.family for spec in SPECS.values()} == {name for name, family in FAMILIES.items() if family.learns}


@pytest.mark.parametrize("name", SPECS)
def test_the_curve_has_not_moved(name: str) -> None:
    assert curve(name) == [pytest.approx(point, rel=1e-4) for point in CURVES[name]]


CURVES: dict[str, list[list[float]]] = {
    "gan": [
        [0.6547554, 1.362477],
        [0.6630948, 1.376736],
        [0.6746079, 1.361334],
        [0.6641201, 1.356776],
        [0.6518064, 1.319781],
        [0.6486468, 1.315788],
        [0.6399438, 1.296285],
        [0.625386, 1.280114],
        [0.08804266, 0.06012531],
    ],
    "gan-hinge": [
        [-15.70694, 17.78741, 5.012396],
        [-13.4727, 16.50154, 4.214944],
        [-11.3674, 14.37504, 4.713555],
        [-9.494071, 12.52785, 4.057776],
        [-7.077084, 10.35725, 3.261919],
        [-3.963796, 7.856361, 2.594387],
        [-2.013407, 5.018544, 2.101176],
        [-1.196568, 3.037776, 1.74137],
        [-0.07123327, 0.0840814],
    ],
    "vae": [
        [182.3698, 0.3127566],
        [182.1792, 0.20012],
        [180.879, 0.175906],
        [180.5467, 0.1954503],
        [180.0025, 0.2409391],
        [179.786, 0.2890577],
        [179.3251, 0.3302599],
        [178.8283, 0.3529928],
        [-0.01286788, 0.04616859],
    ],
    "vae-logistic": [
        [1557.717, 0.3127566],
        [1557.087, 0.3178988],
        [1555.48, 0.3848345],
        [1554.887, 0.4462007],
        [1554.113, 0.4842921],
        [1553.42, 0.4809046],
        [1552.614, 0.4696474],
        [1551.709, 0.4448756],
        [-0.02640835, 0.09113196],
    ],
    "autoencoder": [
        [159.0829, 158.8577],
        [156.2782, 156.1078],
        [153.8771, 153.7021],
        [151.765, 151.542],
        [149.8801, 149.593],
        [148.1626, 147.8047],
        [146.5596, 146.1369],
        [145.0621, 144.584],
        [0.09424006, 0.1144114],
    ],
    "autoencoder-mixture": [
        [159.0829, 158.8577],
        [156.2782, 156.1078],
        [153.8771, 153.7021],
        [151.765, 151.542],
        [149.8801, 149.593],
        [148.1626, 147.8047],
        [146.5596, 146.1369],
        [145.0621, 144.584],
        [0.09415183, 0.1141921],
    ],
    "autoregressive": [
        [4.186171],
        [4.032698],
        [3.945704],
        [4.132558],
        [4.07023],
        [4.11267],
        [4.101408],
        [3.955966],
        [2.208842, 1.531351],
    ],
    "gan-tables": [
        [0.7573704, 1.380365],
        [0.7478115, 1.397524],
        [0.7495725, 1.394131],
        [0.75152, 1.388065],
        [0.7449174, 1.382865],
        [0.7477974, 1.367552],
        [0.7336471, 1.378322],
        [0.7357705, 1.375042],
        [2.313506, 1.520794],
    ],
    "vae-tables": [
        [3.55243, 0.8708602],
        [3.567594, 0.8532296],
        [3.837832, 0.6944553],
        [3.868154, 0.653281],
        [3.644086, 0.6318975],
        [3.860467, 0.5914468],
        [3.590623, 0.5800474],
        [3.731951, 0.4589972],
        [2.058805, 1.547861],
    ],
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("CURVES =", {name: [[float(f"{value:.7g}") for value in point] for point in curve(name)] for name in SPECS})
