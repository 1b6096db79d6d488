"""The options of every family: what ``generator:`` in a spec may say."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, Tag
from pydantic import model_validator as validator

PositiveFloat = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """Unknown keys and wrong kinds are errors; what has been read is never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True)


class FamilySpec(Strict):
    """What every family has.

    Attributes:
        condition: the category column that says what a row shows.
        makes: the kind of datasets that it is for.
    """

    makes: ClassVar[Literal["images", "tables"]] = "images"

    condition: str | None = None


class LearnedSpec(FamilySpec):
    """What every family that learns has. ``ema`` is the decay of the average of its weights, which is what makes rows."""

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: PositiveFloat = 1e-3


class GanSpec(LearnedSpec):
    """Generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661).

    Attributes:
        network: fully connected, the convolutions of DCGAN, or the residual blocks of SN-GAN.
        loss: of a probability (``non_saturating``), of a margin (``hinge``, Lim and Ye 2017, arXiv 1705.02894), or the
            Wasserstein distance (``wgan_gp``, Gulrajani et al. 2017, arXiv 1704.00028). The last two are used with
            ``beta1: 0.0`` and ``beta2: 0.9``, hinge with ``spectral_norm`` besides.
        discriminator_steps: batches that the discriminator learns from for each that the generator does.
        beta1: of Adam, for both networks; so ``beta2``.
        r1: weighs the discriminator's slope at real images; 0 without.
        r1_every: how many batches go by between those with R1, which then weighs as many times as much.
        gradient_penalty: weighs how far the critic's slope is from 1, for ``wgan_gp``.
        spectral_norm: divide the discriminator's weights by their largest singular value.
        conditioning: how the discriminator minds the class: told it, or guessing it, for which both networks are rewarded.
            In short runs on digits the rows of a class were far less varied when it was guessed.
        auxiliary_weight: of that guess beside the loss.
        diff_augment_policy: what is changed at random in all that the discriminator sees, in this order.
        diff_augment: the most of the shorter side that ``translation`` shifts by.
    """

    family: Literal["gan"] = "gan"
    network: Literal["dense", "dcgan", "resnet"] = "dcgan"
    latent: PositiveInt = 100
    width: PositiveInt = 32
    loss: Literal["non_saturating", "hinge", "wgan_gp"] = "non_saturating"
    discriminator_steps: PositiveInt = 1
    discriminator_learning_rate: PositiveFloat = 2e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    r1: Annotated[float, Field(ge=0)] = 0.1
    r1_every: PositiveInt = 1
    gradient_penalty: PositiveFloat = 10.0
    spectral_norm: bool = False
    conditioning: Literal["projection", "auxiliary"] = "projection"
    auxiliary_weight: PositiveFloat = 1.0
    diff_augment: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    diff_augment_policy: list[Literal["translation", "colour", "cutout"]] = ["translation"]

    @validator(mode="after")
    def _options_fit_together(self) -> "GanSpec":
        if self.loss == "wgan_gp" and self.r1:
            raise ValueError(
                "generator.loss 'wgan_gp' wants slopes of 1 where generator.r1 wants none: set generator.r1 to 0"
            )
        needs = {"r1_every": ("r1", self.r1), "gradient_penalty": ("loss 'wgan_gp'", self.loss == "wgan_gp")}
        needs["auxiliary_weight"] = ("conditioning 'auxiliary'", self.conditioning == "auxiliary")
        for name, (needed, given) in needs.items():
            if not given and getattr(self, name) != GanSpec.model_fields[name].default:
                raise ValueError(f"generator.{name} is of no use without generator.{needed}; leave it out")
        if len(set(self.diff_augment_policy)) < len(self.diff_augment_policy):
            raise ValueError("generator.diff_augment_policy has something twice; leave one out")
        return self


class VaeSpec(LearnedSpec):
    """Variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114).

    Attributes:
        likelihood: of the pixels: black or white, a density of one learned variance, or one of 256 values each.
        beta: what a nat of divergence from the prior costs.
        kl_warmup: the share of the training over which that cost rises from 0 to ``beta``.
        free_bits: nats of each dimension of the latent that cost nothing.
    """

    family: Literal["vae"] = "vae"
    network: Literal["dense", "conv"] = "conv"
    latent: PositiveInt = 24
    width: PositiveInt = 48
    learning_rate: PositiveFloat = 5e-3
    likelihood: Literal["bernoulli", "gaussian", "logistic"] = "bernoulli"
    beta: Annotated[float, Field(ge=0)] = 1.0
    kl_warmup: Probability = 0.0
    free_bits: Annotated[float, Field(ge=0)] = 0.0


class AutoencoderSpec(LearnedSpec):
    """Deterministic autoencoder; new rows come from a density per class fitted on its latent space.

    Attributes:
        density: a Gaussian, or a mixture of them.
        components: how many a mixture has at most, of each class.
    """

    family: Literal["autoencoder"] = "autoencoder"
    network: Literal["dense", "conv"] = "conv"
    latent: PositiveInt = 24
    latent_penalty: Annotated[float, Field(ge=0)] = 0.5
    width: PositiveInt = 32
    learning_rate: PositiveFloat = 2e-3
    density: Literal["gaussian", "mixture"] = "gaussian"
    components: PositiveInt = 10


class AutoregressiveSpec(LearnedSpec):
    """Any-order autoregressive model of a table: each column's distribution, given any of the others.

    Attributes:
        embedding: numbers that a token is to the network.
        width: of what the network knows of a row, from the columns that it sees.
        features: that each column has of its own, of what is known of the row.
        learning_rate: of AdamW, for batches of about a thousand rows; falling to 0 (``train.schedule: cosine``) is better.
    """

    makes = "tables"

    family: Literal["autoregressive"] = "autoregressive"
    embedding: PositiveInt = 32
    width: PositiveInt = 256
    features: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3


class TabularGanSpec(LearnedSpec):
    """A generative adversarial network on a table (CTGAN, Xu et al. 2019, arXiv 1907.00503).

    Attributes:
        of: what it makes. A project's schema says so; it need not be written.
        latent: numbers that a row is made from, beside what is given of it.
        width: of both networks.
        embedding: numbers that a token is to a network.
        features: that the generator has of each column, before the scores of its tokens.
        loss: of a probability (``non_saturating``) or of a margin (``hinge``, Lim and Ye 2017, arXiv 1705.02894).
        pack: how many rows the discriminator judges at once. CTGAN has 10; short runs on a real table were better with 1.
        temperature: of the softmax that tokens are drawn by in training: the lower, the closer to what is drawn.
        learning_rate: of the generator, for batches of about 500 rows; best with ``train.schedule: cosine``.
        beta1: of Adam, for both networks; so ``beta2``.
        r1: weighs the discriminator's slope at real rows; 0 without.
        marginals: weighs how far the shares of each column's tokens are from those of the real rows; 0 without.
    """

    makes = "tables"

    family: Literal["gan"] = "gan"
    of: Literal["tables"] = "tables"
    latent: PositiveInt = 64
    width: PositiveInt = 256
    embedding: PositiveInt = 16
    features: PositiveInt = 32
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    pack: PositiveInt = 1
    temperature: PositiveFloat = 0.5
    learning_rate: PositiveFloat = 2e-3
    discriminator_learning_rate: PositiveFloat = 2e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    r1: Annotated[float, Field(ge=0)] = 0.5
    marginals: Annotated[float, Field(ge=0)] = 1.0


class TabularVaeSpec(LearnedSpec):
    """A variational autoencoder on a table (TVAE, Xu et al. 2019, arXiv 1907.00503).

    Attributes:
        of: what it makes. A project's schema says so; it need not be written.
        latent: numbers that a row is encoded as.
        width: of what the networks know of a row.
        embedding: numbers that a token is to a network.
        features: that the decoder has of each column, before the scores of its tokens.
        beta: what a nat of divergence from the prior costs.
        learning_rate: of AdamW, for batches of about a thousand rows; best with ``train.schedule: cosine``.
    """

    makes = "tables"

    family: Literal["vae"] = "vae"
    of: Literal["tables"] = "tables"
    latent: PositiveInt = 32
    width: PositiveInt = 256
    embedding: PositiveInt = 32
    features: PositiveInt = 64
    learning_rate: PositiveFloat = 4e-3
    beta: Annotated[float, Field(ge=0)] = 0.5


class TransformsSpec(FamilySpec):
    """Classical image transforms, for variants of rows; nothing is learnt. Needs ``pip install 'raygen[transforms]'``.

    Whatever a row shows stays what it is by default: a mirrored digit would not.

    Attributes:
        horizontal_flip: how likely left becomes right.
        vertical_flip: how likely the image is turned upside down.
        crop: the least and the most of the area that is kept, of the image's own shape, anywhere in it.
        rotate: the most degrees, either way.
        translate: the most of the height and of the width, either way.
        scale: the least and the most.
        shear: the most degrees, either way.
        padding: what is seen beyond the edges: black, the nearest pixel, or the image mirrored.
        brightness: the most by which the factor differs from 1; so for contrast and saturation.
        contrast: about the mean of the image.
        saturation: from grey, 0, to as much again as there is, 2.
        hue: the most of the colour circle, either way.
        erase: how likely a rectangle is made black (random erasing, Zhong et al. 2017, arXiv 1708.04896).
        erase_area: the least and the most of the area.
    """

    family: Literal["transforms"] = "transforms"
    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    crop: Shares = [1.0, 1.0]
    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    translate: Probability = 0.05
    scale: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [0.9, 1.1]
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    brightness: Probability = 0.1
    contrast: Probability = 0.1
    saturation: Probability = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    erase: Probability = 0.0
    erase_area: Shares = [0.02, 0.2]

    @validator(mode="after")
    def _in_order(self) -> "TransformsSpec":
        for name in ("crop", "scale", "erase_area"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"generator.{name} is [{least}, {most}]: the least comes first, then the most")
        return self


_Common = Annotated[GanSpec | VaeSpec | AutoencoderSpec | AutoregressiveSpec | TransformsSpec, Discriminator("family")]
_Tabular = Annotated[TabularGanSpec | TabularVaeSpec, Discriminator("family")]


def _generator_tag(value: Any) -> str:
    of = value.get("of") if isinstance(value, Mapping) else getattr(value, "of", None)
    return "of any" if of is None else "of tables"


GeneratorSpec = Annotated[
    Annotated[_Common, Tag("of any")] | Annotated[_Tabular, Tag("of tables")], Discriminator(_generator_tag)
]
FAMILIES: Mapping[str, Mapping[str, type[FamilySpec]]] = {
    kind: {
        options.model_fields["family"].default: options
        for options in (*get_args(get_args(_Common)[0]), *get_args(get_args(_Tabular)[0]))
        if options.makes == kind
    }
    for kind in ("images", "tables")
}
"""The options of every family, by what it makes; some have others for tables than for images."""
