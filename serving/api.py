"""What an endpoint is asked, and what it says of itself: the models of its JSON, which its OpenAPI document is made of."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raygen.serving.problems import Problem

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", examples=["digits"])]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MOST_ROW = 2**48
"""Rows are numbered up to here."""
Row = Annotated[int, Field(ge=0, le=MOST_ROW)]


Value = bool | int | str | None


class Asked(BaseModel):
    """Unknown members are errors, so that a slip of the pen is not an answer to another question."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Generate(Asked):
    """Rows by their numbers: the same ones whenever and wherever they are asked for, as ``raygen augment`` writes them.

    Attributes:
        model: the name of a project that is served; may be left out where there is one.
        rows: how many.
        start: the number of the first.
        seed: of the dataset that they are rows of.
        condition: what all of them show, or a list of what each shows, as rows of a dataset with exact counts do; by
            default each draws its own, with the frequencies of the training data.
        where: of a table, by column a value, a list of values, or the least and the most.
        digest: of the generator whose rows they are to be, or none: as the header ``raygen-digest`` of the first of several
            requests says, so that all are of one, whatever is promoted meanwhile, which the header ``raygen-current`` tells.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "digits", "rows": 4, "seed": 1, "condition": 7},
                {"model": "adult", "rows": 100, "seed": 1, "where": {"age": [18, 25], "income": ">50K"}},
            ]
        }
    )

    model: ModelName | None = None
    rows: Annotated[int, Field(ge=1, le=MOST_ROW)] = 1
    start: Row = 0
    seed: Seed = 0
    condition: Value | list[Value] = None
    where: dict[str, Any] | None = None
    digest: Digest | None = None

    def shown(self, rows: range) -> Value | list[Value]:
        """The condition of some of them.

        Raises:
            Problem: 422; there is not one for each.
        """
        if not isinstance(self.condition, list):
            return self.condition
        if len(self.condition) != self.rows:
            what = f"{len(self.condition):,} conditions for {self.rows:,} rows"
            raise Problem(422, what, "give one value, or one for each row")
        return self.condition[rows.start - self.start : rows.stop - self.start]


class Interpolate(Asked):
    """Pictures on the way from one row to another through the latent space. They are no rows of the dataset, and have no
    numbers, but for the first and the last, which are those two rows.

    Attributes:
        model: as of `Generate`, and so ``seed`` and ``digest``.
        between: the numbers of two rows.
        steps: how many pictures, with both ends.
        condition: what all of them show; by default each end shows its own class, and what is between that of the nearer.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "digits", "between": [0, 1], "steps": 9, "seed": 1, "condition": 7}]}
    )

    model: ModelName | None = None
    between: Annotated[list[Row], Field(min_length=2, max_length=2)]
    steps: Annotated[int, Field(ge=2, le=64)] = 9
    seed: Seed = 0
    condition: bool | int | str | None = None
    digest: Digest | None = None

    @property
    def rows(self) -> int:
        """How many are made."""
        return self.steps


class Images(Asked):
    """The shape of OpenAI's ``/v1/images/generations``.

    Attributes:
        prompt: the class, as text (``"7"``), or as JSON (``{"digit": 7}``).
        n: how many.
        size: ``WIDTHxHEIGHT``, or ``auto``: the pictures are of one size, and are not scaled.
        seed: raygen's; by default another one every time.
        user: is not looked at.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "digits", "prompt": "7", "n": 2}]})

    prompt: Annotated[str, Field(max_length=1000)]
    model: ModelName | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,4}x\d{1,4})$")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    seed: Seed | None = None
    user: str | None = None


class Image(BaseModel):
    b64_json: str
    revised_prompt: str


class GeneratedImages(BaseModel):
    created: int
    data: list[Image]


class Canary(BaseModel):
    """A generator on trial, which answers a percentage of the requests in place of the current one."""

    digest: str
    percent: int


class Figure(BaseModel):
    """Of how good a generator's rows are.

    Attributes:
        title: what people call it; and ``about``, what it says.
        ceiling: the same of real rows; None where there is no such.
        interval: in which the value is with a confidence of 95 %.
        better: ``higher``, or ``lower``.
    """

    name: str
    title: str
    about: str
    value: float
    ceiling: float | None
    interval: tuple[float, float] | None
    better: Literal["higher", "lower"]


class Model(BaseModel):
    """A published generator.

    Attributes:
        id: the name of its project.
        created: when it was promoted, in seconds since 1970.
        digest: of the generator that is current now.
        canary: the one that answers a part of the requests in its place, or null.
        verdict: of its gate; and ``summary``, what its evaluation says in a few lines.
        figures: of its evaluation, those of the gate first.
        kind: ``images`` or ``tables``.
        condition: the column that it can be asked by, and ``classes``, its values.
        columns: what a row has, with their Arrow types.
        interpolates: whether it can be asked for what is between two rows.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "raygen"
    digest: str
    canary: Canary | None
    verdict: str
    summary: list[str]
    figures: list[Figure]
    family: str
    kind: Literal["images", "tables"]
    condition: str | None
    classes: list[bool | int | str | None]
    columns: dict[str, str]
    interpolates: bool


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Rows(BaseModel):
    """Rows as JSON: each a member by column; pictures are data URIs, and what JSON has no word for is text or null."""

    rows: list[dict[str, Any]]


class Wrong(BaseModel):
    """Where in what was asked something is wrong, and what."""

    where: str
    what: str


class ProblemDetails(BaseModel):
    """Why a request is not answered as it wished (RFC 9457).

    Attributes:
        title: of the status.
        detail: what was wrong, and where; and ``hint``, what to do about it.
        request_id: by which the endpoint's log tells more.
    """

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Field(ge=400, lt=600)]
    detail: str
    hint: str | None = None
    errors: list[Wrong] | None = None
    request_id: str
