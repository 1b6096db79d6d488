"""The spec: one strict model of everything a project does, written as YAML.

:func:`~raygen.load.load_spec` reads it, applies ``--set`` overrides, and turns every mistake into one
:class:`~raygen.errors.SpecError` that names the place, the known keys and the nearest one, before anything starts.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag
from pydantic import model_validator as validator

from raygen import gate
from raygen.dialect import dump
from raygen.errors import DataError, SpecError, did_you_mean
from raygen.gate import OF_USE, GateRule, MetricOfImages, MetricOfTables
from raygen.machines import ResourcesSpec
from raygen.options import FAMILIES, FamilySpec, GanSpec, GeneratorSpec, PositiveFloat, Strict, TransformsSpec

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Workers = Literal["auto"] | PositiveInt


class ImageField(Strict):
    """A picture: PNG or JPEG bytes, Hugging Face's struct of bytes and path, or a fixed-size tensor.

    Attributes:
        resize: how a picture of another size is brought to this one: it fills the frame, and what is left over is cut off
            on both sides (``crop``); it fits into the frame, between black bars (``pad``); or its shape is changed
            (``stretch``). Without it such a picture is an error.
    """

    kind: Literal["image"] = "image"
    height: Annotated[int, Field(ge=8, le=1024)]
    width: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3] = 3
    # Left out where there is none, so that runs and generators that never resized keep their digests.
    resize: Annotated[Literal["crop", "pad", "stretch"] | None, Field(exclude_if=lambda way: way is None)] = None


class CategoryField(Strict):
    """One of a fixed set of values: strings, integers or booleans; a null is a value of its own."""

    kind: Literal["category"] = "category"


class NumberField(Strict):
    """Integers, floats or decimals."""

    kind: Literal["number"] = "number"


class DatetimeField(Strict):
    """Dates, times, timestamps with or without a zone, or durations."""

    kind: Literal["datetime"] = "datetime"


class IdentifierField(Strict):
    """Strings or integers that tell rows apart. They are never learnt: each new row gets one made from its number."""

    kind: Literal["identifier"] = "identifier"


class ConstantField(Strict):
    """The same value, or null, in every row."""

    kind: Literal["constant"] = "constant"


DataField = Annotated[
    ImageField | CategoryField | NumberField | DatetimeField | IdentifierField | ConstantField, Discriminator("kind")
]
LEARNT_OF_TABLES = ("category", "number", "datetime")


class DatasetSpec(Strict):
    """Images (one image column, and categories), or a table (any columns but images)."""

    path: Annotated[str, Field(min_length=1)]
    fields: Annotated[dict[str, DataField], Field(alias="schema", min_length=1)]
    holdout: Fraction = 0.2

    @validator(mode="after")
    def _is_images_or_a_table(self) -> "DatasetSpec":
        kinds = {name: field.kind for name, field in self.fields.items()}
        images = [name for name in kinds if kinds[name] == "image"]
        if len(images) > 1:
            raise ValueError(f"dataset.schema has {len(images)} image columns; a dataset has one, or is a table")
        if images and (others := [name for name in kinds if kinds[name] not in ("image", "category")]):
            raise ValueError(
                f"dataset.schema.{others[0]} is of kind {kinds[others[0]]!r}, which goes with tables; "
                f"beside the image column {images[0]!r} there can be categories"
            )
        if not images and not any(kind in LEARNT_OF_TABLES for kind in kinds.values()):
            raise ValueError(
                f"dataset.schema has nothing to learn: no column of kind {', '.join(LEARNT_OF_TABLES)} or image"
            )
        return self


class ElasticSpec(Strict):
    """As many workers as the cluster has room for. When that changes, training goes on from the last checkpoint."""

    min: PositiveInt
    max: PositiveInt

    @validator(mode="after")
    def _in_order(self) -> "ElasticSpec":
        if self.min > self.max:
            raise ValueError(f"workers.min is {self.min}, more than workers.max, {self.max}")
        return self


def _workers_tag(value: Any) -> str:
    return "a range" if isinstance(value, Mapping | ElasticSpec) else "a number"


ElasticWorkers = Annotated[
    Annotated[Workers, Tag("a number")] | Annotated[ElasticSpec, Tag("a range")], Discriminator(_workers_tag)
]


class WatchSpec(Strict):
    """Compare generated rows with held-out ones while training, and keep the best generator instead of the last.

    Attributes:
        every: epochs.
        metric: by which a generator is better; of tables ``quality`` by default.
        rows: how many held-out rows, and as many generated ones.
        patience: stop after so many evaluations without a better one; without it, never.
    """

    every: PositiveInt = 1
    metric: Literal["frechet_distance", "label_agreement", "quality"] = "frechet_distance"
    rows: Annotated[int, Field(ge=64)] = 1000
    patience: PositiveInt | None = None


class TrainSpec(Strict):
    """How a family that learns is trained.

    Attributes:
        workers: one per GPU, or one, for ``auto``; a number; or ``{min: …, max: …}``.
        batch_size: the global one, whatever the number of workers.
        cache: whether encoded rows are kept in memory: ``auto`` is where they fit. Otherwise they are read in every epoch.
        accumulate: into how many pieces a worker cuts its part of a batch, to need less memory; the gradients are added up.
        clip_gradients: the largest norm of a network's gradient.
        schedule: of the learning rate, over the whole training.
        warmup: the share of the training during which the learning rate rises from 0.
        sync_batch_norm: whether several workers normalize by the statistics of the whole batch; ``auto`` is where the part
            of each is small. It takes two words between workers for each such layer and step.
        precision: ``auto`` is bf16 where the hardware computes in it, else fp32.
        compile: whether torch compiles the networks first, which takes a while.
        checkpoint_seconds: how old a checkpoint gets, a second or more, before the next one is written; with 0 there is one
            at the end of every epoch besides.
        keep_checkpoints: the last so many are kept; a broken one is gone back behind.
        watch: evaluate while training.
        start_from: an artifact whose weights to begin with (fine-tuning), or a run, with the networks that made them.
    """

    workers: ElasticWorkers = "auto"
    epochs: PositiveInt = 40
    batch_size: Annotated[int, Field(ge=2)] = 64
    cache: Literal["auto"] | bool = "auto"
    accumulate: PositiveInt = 1
    clip_gradients: PositiveFloat | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sync_batch_norm: Literal["auto"] | bool = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    seed: Seed = 0
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    keep_checkpoints: PositiveInt = 2
    watch: WatchSpec | None = None
    start_from: Annotated[str, Field(min_length=1)] | None = None

    @validator(mode="after")
    def _a_watch_looks_at_least_once(self) -> "TrainSpec":
        if self.watch is not None and self.watch.every > self.epochs:
            raise ValueError(f"train.watch.every is {self.watch.every}, and there are {self.epochs} train.epochs: lower it")
        return self

    @validator(mode="after")
    def _a_batch_reaches_every_worker(self) -> "TrainSpec":
        if isinstance(self.workers, ElasticSpec):
            counts: Sequence[int] = range(self.workers.min, self.workers.max + 1)
        else:
            counts = [1 if self.workers == "auto" else self.workers]
        for count in counts:
            if self.batch_size % (count * self.accumulate):
                pieces = f", {self.accumulate} pieces each" if self.accumulate > 1 else ""
                whole = math.lcm(*counts) * self.accumulate
                raise ValueError(
                    f"batch_size {self.batch_size} cannot be shared evenly by {count} workers{pieces}; "
                    f"{-(-self.batch_size // whole) * whole} can"
                )
        return self


FEATURES = ("auto", "classifier", "pixels", "efficientnet")
"""Of images, that have a name."""
INCEPTION = "inception:"
"""Before the file of a network that is the Inception of the FID."""
_NETWORKS = (".pt", ".pts", ".torchscript", ".onnx")


class EvaluateSpec(Strict):
    """How a generator is judged.

    Attributes:
        features: what the figures of images are measured on: a ``classifier`` trained on the real rows, their ``pixels``,
            ``efficientnet``, ``inception:FILE``, or a user's own network, a file of TorchScript or ONNX; ``auto`` is the
            classifier where rows have labels, else pixels.
        usefulness: whether downstream models are trained on synthetic rows, and on real and synthetic ones.
        target: the category that those predict: ``generator.condition`` by default, or else the only category.
        seeds: under how many they are trained.
    """

    features: Annotated[str, Field(min_length=1)] = "auto"
    usefulness: bool = True
    target: str | None = None
    seeds: Annotated[int, Field(ge=2)] = 3

    @property
    def file(self) -> str | None:
        """The network's file, where the features come from one: a path or URI."""
        return None if self.features in FEATURES else self.features.removeprefix(INCEPTION)

    @validator(mode="after")
    def _features_are_known(self) -> "EvaluateSpec":
        if self.file == "" or not (
            self.file is None or self.features.startswith(INCEPTION) or self.file.endswith(_NETWORKS)
        ):
            raise ValueError(
                f"unknown features {self.features!r} at evaluate.features; known: {', '.join(FEATURES)}, {INCEPTION}FILE, "
                f"and files of TorchScript or ONNX ({', '.join(_NETWORKS)}){did_you_mean(self.features, FEATURES)}"
            )
        return self


class FormatSpec(Strict):
    """How the Parquet is written.

    Attributes:
        images: as the source has them, as Hugging Face's struct of PNG bytes and path, or as Arrow's fixed-shape tensors
            of uint8 (height, width, channels).
        row_group_rows: rows of a row group, which is what a reader holds in memory at least.
        partition_by: the condition's column: a folder for each of its values (``label=3/``), as Hive has them, instead of
            files in which the classes are mixed.
    """

    images: Literal["source", "png", "tensor"] = "source"
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    row_group_rows: PositiveInt = 1024
    partition_by: str | None = None


Wanted = str | int | float | bool | datetime | date | time | None
"""A value of any column; dates and times as YAML has them, or as ISO 8601 text, as durations are."""


class AugmentSpec(Strict):
    """What to write: new rows (``rows``, ``balance`` or ``classes``), or ``variants`` of each row of a dataset.

    Attributes:
        rows: how many new rows: as many of each value of ``balance``, else with the frequencies of the real data.
        balance: without ``rows``: as many of each value as bring it up to the largest class of the real data, or to ``to``.
        allocate: spend ``rows`` only where held-out rows say that they help, instead of as many on each value of
            ``balance``. ``evaluate`` decides it, value by value, from the rarest on, and may spend less.
        classes: how many of which value of the condition.
        start: the number of the first new row; a dataset with another ``start`` and the same seed can extend an earlier one.
        variants: how many of each real row, by the means of the family; other columns are carried along.
        source: the Parquet whose rows to vary; ``dataset.path`` by default.
        strength: how far a variational or plain autoencoder moves from the row, in standard deviations of its latent space;
            of a table, the share of its cells that are drawn anew, 0 to 1.
        where: of new rows of a table: by column the value, a list of the values, or of numbers and times the range (both
            ends belong to it; null for an open one). Every row is so, exactly, and its other columns are what goes with it.
        complete: write the rows of ``source``, a table without some of its columns or cells, with those filled in.
        include_real: write the real rows too, told apart by the column ``_source``.
        shard_rows: rows of a Parquet file.
    """

    rows: PositiveInt | None = None
    balance: str | None = None
    allocate: Literal["auto"] | None = None
    to: PositiveInt | None = None
    classes: dict[str | int | bool | None, NonNegativeInt] | None = None
    start: Annotated[int, Field(ge=0, lt=2**53)] = 0
    variants: PositiveInt | None = None
    source: Annotated[str, Field(min_length=1)] | None = None
    strength: Annotated[float, Field(ge=0)] | None = None
    where: Annotated[dict[str, Wanted | list[Wanted]], Field(min_length=1)] | None = None
    complete: bool = False
    include_real: bool = False
    seed: Seed = 0
    workers: Workers = "auto"
    shard_rows: PositiveInt = 5000
    output: str | None = None
    format: FormatSpec = FormatSpec()

    @property
    def of_real(self) -> bool:
        """Whether it is real rows that are varied or completed."""
        return self.variants is not None or self.complete

    @validator(mode="after")
    def _says_one_thing(self) -> "AugmentSpec":
        ways = [name for name in ("rows", "classes", "variants") if getattr(self, name) is not None]
        ways += ["complete"] * self.complete
        if not ways and self.balance is None:
            raise ValueError("augment does not say what to make: give rows, balance, classes, variants or complete")
        if len(ways) > 1:
            raise ValueError(f"augment has both {ways[0]} and {ways[1]}, which say different things; leave one out")
        if self.allocate is not None and (self.rows is None or self.balance is None):
            raise ValueError("augment.allocate spends augment.rows on the values of augment.balance; it needs both")
        if self.allocate is not None and self.where is not None:
            raise ValueError("augment.where does not go with augment.allocate; leave one out")
        others = {"balance": self.balance is not None, "to": self.to is not None, "start": self.start > 0}
        others["format.partition_by"] = self.format.partition_by is not None
        others["where"] = self.where is not None
        for name in others:
            if others[name] and (self.of_real or (self.classes is not None and name in ("balance", "to"))):
                raise ValueError(f"augment.{name} does not go with augment.{ways[0]}; leave one out")
        if self.to is not None and (self.balance is None or self.rows is not None):
            raise ValueError("augment.to is what augment.balance brings every class up to; it needs balance, and no rows")
        if self.source is not None and not self.of_real:
            raise ValueError("augment.source is the rows to vary or to complete; it needs augment.variants, or complete")
        if self.strength is not None and self.variants is None:
            raise ValueError("augment.strength is about variants of rows; it needs augment.variants")
        if self.complete and self.source is None:
            raise ValueError("augment.complete fills in the rows of augment.source, which is not given")
        if self.complete and self.include_real:
            raise ValueError("augment.include_real does not go with augment.complete; leave one out")
        if self.include_real and self.format.partition_by is not None:
            raise ValueError("augment.include_real does not go with augment.format.partition_by; leave one out")
        if self.classes is not None and not any(self.classes.values()):
            raise ValueError("augment.classes asks for no rows at all")
        return self


class ReplicasSpec(Strict):
    """How many processes answer, as many as it takes.

    Attributes:
        min: of them; with 0, the first who asks after a quiet time waits until one has started.
        max: of them; each takes a core.
        up_s: seconds that there has to be too much to do before there are more of them.
        down_s: seconds that there has to be too little to do before there are fewer of them.
    """

    min: NonNegativeInt = 1
    max: PositiveInt = 1
    up_s: NonNegativeFloat = 2.0
    down_s: NonNegativeFloat = 30.0

    @validator(mode="after")
    def _in_order(self) -> "ReplicasSpec":
        if self.min > self.max:
            raise ValueError(f"replicas.min is {self.min}, more than replicas.max, {self.max}")
        return self


class ServeSpec(Strict):
    """The endpoint.

    Attributes:
        replicas: how many processes answer.
        target: requests under way at each; with more, replicas are added.
        latency_s: seconds until an answer begins, for 95 of 100; with more, replicas are added too. Without it, only the
            target counts.
        queue: requests under way at each beyond which more are refused, by 503 with Retry-After.
        timeout_s: seconds without progress after which a request is given up.
        max_rows: of one request.
    """

    replicas: ReplicasSpec = ReplicasSpec()
    target: PositiveInt = 32
    latency_s: PositiveFloat | None = None
    queue: PositiveInt = 256
    timeout_s: PositiveFloat = 60.0
    max_rows: PositiveInt = 1_000_000

    @validator(mode="after")
    def _is_reached_before_it_is_full(self) -> "ServeSpec":
        if self.target > self.queue:
            raise ValueError(
                f"serve.target is {self.target}, more than serve.queue, {self.queue}: it would never be reached"
            )
        return self


class Spec(Strict):
    """A project: its data, generator, training, gate, augmentation and endpoint, and what each asks of machines."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    storage: Annotated[str, Field(min_length=1)] = "./store"
    dataset: DatasetSpec
    generator: GeneratorSpec
    train: TrainSpec = TrainSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    gate: list[GateRule] = Field(default_factory=list)  # of a spec that does not say: `gate.default`
    augment: AugmentSpec | None = None
    serve: ServeSpec = ServeSpec()
    resources: ResourcesSpec = ResourcesSpec()

    documented: ClassVar[str] = "the README's section 'The spec'"

    @validator(mode="before")
    @classmethod
    def _options_are_those_of_the_data(cls, document: Any) -> Any:
        """Of a table, a generator with the options that its family has for tables, and a metric of tables to watch."""
        match document:
            case {"dataset": {"schema": Mapping() as fields}, **rest}:
                kinds = {field.get("kind") if isinstance(field, Mapping) else None for field in fields.values()}
                if not kinds <= {*LEARNT_OF_TABLES, "identifier", "constant"}:
                    return document
            case _:
                return document
        match rest.get("generator"):
            case {"family": ("gan" | "vae") as family, **options}:
                document = {**document, "generator": {"of": "tables", **options, "family": family}}
        match rest.get("train"):
            case {"watch": Mapping() as watch, **options}:
                document = {**document, "train": {**options, "watch": {"metric": "quality", **watch}}}
        return document

    def target(self) -> str:
        """The category that downstream models predict.

        Raises:
            DataError: there is none, nobody has said which, or rows have no label.
        """
        categories = [name for name, field in self.dataset.fields.items() if field.kind == "category"]
        if not categories:
            raise DataError("the data has no category column", "add one that a model could tell from the others")
        if not self.is_table and self.generator.condition is None and not self.varies:
            raise DataError("the generator has no condition, so its rows have no label", "set generator.condition")
        named = self.evaluate.target or self.generator.condition
        if named is None and len(categories) > 1:
            raise DataError("there are several categories", "name one in evaluate.target")
        return named or categories[0]

    @property
    def varies(self) -> bool:
        """Whether rows are made by varying real ones, rather than new."""
        return self.generator.family == "transforms" or (self.augment is not None and self.augment.variants is not None)

    def require_augment(self) -> AugmentSpec:
        """What ``augment`` is to make.

        Raises:
            SpecError: it does not say.
        """
        if self.augment is None:
            raise SpecError("augment is missing: the spec does not say what to make", "add: augment: {rows: 50000}")
        return self.augment

    @property
    def allocates(self) -> bool:
        """Whether held-out rows decide how many rows of each class are written."""
        return self.augment is not None and self.augment.allocate is not None

    @property
    def is_table(self) -> bool:
        """Whether the dataset is a table, rather than images."""
        return not any(isinstance(field, ImageField) for field in self.dataset.fields.values())

    @validator(mode="after")
    def _has_a_gate(self) -> "Spec":
        """A spec that says nothing of its gate gets one, and says so from then on."""
        if "gate" in self.model_fields_set:
            return self
        conditional = self.generator.condition is not None
        # Not a column that nobody has named: perhaps it cannot be told from the others, and then nothing would pass.
        named = conditional or (self.is_table and self.evaluate.target is not None)
        rules = gate.default(
            "tables" if self.is_table else "images",
            conditional=conditional,
            predicted=self.evaluate.usefulness and named,
            new=not self.varies,
        )
        # Into this very one: of one that is made by its constructor, pydantic drops what a validator returns.
        self.__dict__["gate"] = [GateRule.model_validate(rule) for rule in rules]
        self.__pydantic_fields_set__.add("gate")
        return self

    @validator(mode="after")
    def _parts_fit_together(self) -> "Spec":
        fields = self.dataset.fields
        image = next((field for field in fields.values() if isinstance(field, ImageField)), None)
        kind = "tables" if image is None else "images"
        if self.generator.makes != kind:
            raise ValueError(
                f"generator.family {self.generator.family!r} makes {self.generator.makes}, and dataset.schema has "
                f"{'no' if image is None else 'an'} image column: {', '.join(FAMILIES[kind])} make {kind}"
            )
        if reserved := [name for name in fields if name in ("_row", "_variant", "_source", "_holdout")]:
            raise ValueError(f"dataset.schema has a column {reserved[0]!r}, a name that raygen uses; rename the column")
        condition = self.generator.condition
        if condition is not None:
            _must_be_category("generator.condition", condition, fields)
        if self.evaluate.target is not None:
            _must_be_category("evaluate.target", self.evaluate.target, fields)
        if isinstance(self.generator, GanSpec) and self.generator.conditioning == "auxiliary" and condition is None:
            raise ValueError("generator.conditioning 'auxiliary' guesses the condition: it needs generator.condition")
        if isinstance(self.generator, TransformsSpec) and image is not None and image.channels == 1:
            for name in ("saturation", "hue"):
                if getattr(self.generator, name):
                    column = next(name for name in fields if fields[name] is image)
                    raise ValueError(f"generator.{name} is about colours, but the column {column!r} has one channel")
        if self.generator.family != "vae" and any(rule.metric == "negative_log_likelihood" for rule in self.gate):
            family = self.generator.family
            raise ValueError(f"gate has a rule for negative_log_likelihood, which the family {family!r} does not have")
        features = self.evaluate.features
        if features != "auto" and image is None:
            raise ValueError(f"evaluate.features is {features!r}, but dataset.schema has no image column: leave it out")
        if features == "classifier" and not any(isinstance(field, CategoryField) for field in fields.values()):
            raise ValueError("evaluate.features is 'classifier', but dataset.schema has no category column to train one on")
        if self.augment is not None:
            _augment_fits(self.augment, self.generator, fields)
            target = self.evaluate.target
            if self.augment.allocate is not None and target not in (None, self.augment.balance):
                raise ValueError(
                    f"augment.allocate decides by how well {self.augment.balance!r} is told, and evaluate.target is "
                    f"{target!r}: leave one out"
                )
        if image is not None and condition is not None and self.evaluate.target not in (None, condition):
            raise ValueError(
                f"evaluate.target is {self.evaluate.target!r}, but the generator's images have the label {condition!r}: "
                "leave it out, or change generator.condition"
            )
        asked = {f"gate: {rule.metric}": rule.metric for rule in self.gate}
        if self.train.watch is not None:
            asked["train.watch.metric"] = self.train.watch.metric
        known_ = get_args(MetricOfTables if image is None else MetricOfImages)
        for where, metric in asked.items():
            if metric not in known_:
                raise ValueError(f"{where} is not a metric of {kind}; those are: {', '.join(known_)}")
        return self

    @validator(mode="after")
    def _watch_can_be_kept(self) -> "Spec":
        watch = self.train.watch
        if watch is not None and watch.metric == "label_agreement" and self.generator.condition is None:
            raise ValueError("train.watch.metric is label_agreement, but rows have no label without generator.condition")
        return self

    @validator(mode="after")
    def _gate_can_be_passed(self) -> "Spec":
        if self.generator.condition is None and any(rule.metric == "label_agreement" for rule in self.gate):
            raise ValueError("gate has a rule for label_agreement, but rows have no label without generator.condition")
        if self.varies and any(rule.metric == "label_agreement" and rule.of is not None for rule in self.gate):
            raise ValueError(
                "gate has a rule for label_agreement of its ceiling, and that of variants has none: give min, not of"
            )
        if self.varies and any(rule.metric == "negative_log_likelihood" for rule in self.gate):
            raise ValueError("gate has a rule for negative_log_likelihood, which variants do not have: it is of new rows")
        if (of_use := next((rule.metric for rule in self.gate if rule.metric in OF_USE), None)) is None:
            return self
        if not self.evaluate.usefulness:
            raise ValueError(f"gate has a rule for {of_use}, but evaluate.usefulness is false; leave one out")
        try:
            self.target()
        except DataError as error:
            raise ValueError(f"gate has a rule for {of_use}, but {error.what}: {error.hint}") from None
        return self

    def to_yaml(self) -> str:
        """The resolved spec, every default written out; reading it back gives the same spec."""
        return dump(self.model_dump(by_alias=True))  # not as JSON, which would make text of the keys of classes


def _augment_fits(augment: AugmentSpec, generator: FamilySpec, fields: Mapping[str, DataField]) -> None:
    """Fail where a generator cannot make what is asked."""
    family, condition = str(generator.model_dump()["family"]), generator.condition
    if family == "transforms" and augment.variants is None:
        asked = next(
            name for name in ("rows", "balance", "classes", "complete") if getattr(augment, name) not in (None, False)
        )
        raise ValueError(
            f"augment.{asked} asks for new rows, but transforms make variants of rows only: use augment.variants"
        )
    for name, column in (("balance", augment.balance), ("format.partition_by", augment.format.partition_by)):
        if column is not None:
            _must_be_category(f"augment.{name}", column, fields)
            if column != condition:
                raise ValueError(
                    f"augment.{name} is {column!r}, but the generator cannot be asked for it: "
                    f"generator.condition is {condition!r}"
                )
    folder = augment.format.partition_by
    if folder is not None and re.search(r"^[._]|[/\\=%\x00-\x1f\x7f]", folder):
        raise ValueError(
            f"augment.format.partition_by is {folder!r}, a column whose name cannot be a folder's (no _ or . first, "
            "no slash, =, % or control character); leave it out, or rename the column"
        )
    if augment.classes is not None and condition is None:
        raise ValueError("augment.classes asks for values, but the generator has no generator.condition to ask by")
    if augment.strength is not None and family not in ("vae", "autoencoder", "autoregressive"):
        raise ValueError(f"augment.strength is for vae, autoencoder and autoregressive, not for {family!r}")
    if family == "autoregressive" and (augment.strength or 0) > 1:
        raise ValueError("augment.strength is the share of a table's cells that are drawn anew, at most 1")
    is_table = not any(isinstance(field, ImageField) for field in fields.values())
    for name in ("where", "complete", "variants"):
        if (is_table or name != "variants") and getattr(augment, name) and family != "autoregressive":
            raise ValueError(f"augment.{name} is for tables that the family 'autoregressive' makes, not for {family!r}")
    if augment.where:
        _where_fits(augment.where, augment, condition, fields)
    if augment.variants is not None and family == "gan" and condition is None:
        raise ValueError("augment.variants of a gan are rows of the same class: it needs generator.condition")


def _where_fits(
    where: Mapping[str, Any], augment: AugmentSpec, condition: str | None, fields: Mapping[str, DataField]
) -> None:
    for name in where:
        if name not in fields:
            raise ValueError(f"augment.where is of {name!r}, which is not in dataset.schema{did_you_mean(name, fields)}")
        if fields[name].kind == "identifier":
            raise ValueError(f"augment.where is of {name!r}, an identifier, which is never learnt; leave it out")
    way = next((name for name in ("balance", "classes") if getattr(augment, name) is not None), None)
    if way and condition in where:
        raise ValueError(f"augment.where and augment.{way} both say what {condition!r} is; leave one out")
    if not way and augment.format.partition_by is not None:
        raise ValueError(
            "augment.format.partition_by needs to know how many rows each folder has: "
            "beside augment.where give augment.balance or augment.classes"
        )


def _must_be_category(where: str, column: str, fields: Mapping[str, DataField]) -> None:
    if column not in fields:
        raise ValueError(f"{where} is {column!r}, which is not in dataset.schema{did_you_mean(column, fields)}")
    if fields[column].kind != "category":
        raise ValueError(f"{where} is {column!r}, which is of kind {fields[column].kind!r}, not 'category'")
