"""The gate: what its rules may say, and the gate of a spec that does not write one.

The bounds of the latter are what noise, a copy of the training rows and a collapsed generator cannot pass, as shares of what
real rows score against real rows, so that they hold for data that nobody has seen. Where a rule asks that more is surely
reached, it judges the pessimistic end of the interval, which few rows make wide.
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic import model_validator as validator

from raygen.options import Strict

MetricOfImages = Literal[
    "label_agreement",
    "frechet_distance",
    "classifier_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "negative_log_likelihood",
    "kernel_distance",
    "identical_share",
    "membership_auc",
    "closer_share",
    "close_share",
    "close_ratio",
    "synthetic_f1",
    "lift",
]
MetricOfTables = Literal[
    "quality",
    "column_shapes",
    "pair_trends",
    "discriminator_auc",
    "identical_share",
    "membership_auc",
    "closer_share",
    "synthetic_f1",
    "lift",
]
OF_USE = ("synthetic_f1", "lift")
"""What downstream models score that learn from synthetic rows."""
WITHOUT_CEILING = ("negative_log_likelihood", "lift")
"""Real data has no such figure of its own."""

LEAST, MOST = ("min", "at_least"), ("max", "at_most")
Bound = Annotated[float | None, Field(exclude_if=lambda bound: bound is None)]  # a spec shows those that a rule has


class GateRule(Strict):
    """A metric of the report and the least or most it may be.

    Attributes:
        min: of the figure itself; so ``max``.
        at_least: of the low end of its 95 % interval: surely so much, whatever the chance of the rows; so ``at_most`` of
            the high end.
        of: bounds are shares of its ceiling, what real rows score against real rows.
        plus: what is added to that share; of a ceiling that may be 0.
    """

    metric: Literal[MetricOfImages, MetricOfTables]
    min: Bound = None
    max: Bound = None
    at_least: Bound = None
    at_most: Bound = None
    of: Annotated[Literal["ceiling"] | None, Field(exclude_if=lambda unit: unit is None)] = None
    plus: Bound = None

    @property
    def bounds(self) -> dict[str, float]:
        """Those that it has, by name."""
        return {name: bound for name in (*LEAST, *MOST) if (bound := getattr(self, name)) is not None}

    @validator(mode="after")
    def _has_bounds_that_go_together(self) -> "GateRule":
        bounds = self.bounds
        if not bounds:
            raise ValueError(f"a rule for {self.metric} has none of {', '.join((*LEAST, *MOST))}")
        for figure, end in (LEAST, MOST):
            if figure in bounds and end in bounds:
                raise ValueError(
                    f"a rule for {self.metric} has both {figure}, which is of the figure, and {end}, which is of the worse "
                    "end of its interval; leave one out"
                )
        least, most = (next((name for name in way if name in bounds), None) for way in (LEAST, MOST))
        if least and most and bounds[least] > bounds[most]:
            raise ValueError(
                f"a rule for {self.metric} has {least} {bounds[least]:g} above {most} {bounds[most]:g}, so nothing meets it"
            )
        if self.of is not None and self.metric in WITHOUT_CEILING:
            raise ValueError(f"a rule for {self.metric} is of its ceiling, but it has none; leave out of")
        if self.of is not None and self.metric == "kernel_distance" and self.plus is None:
            raise ValueError("a rule for kernel_distance is of its ceiling, which is about 0: add plus, or leave out of")
        if self.plus is not None and self.of is None:
            raise ValueError(f"a rule for {self.metric} has plus, which is added to a share of its ceiling: add of: ceiling")
        return self


Rule = dict[str, Any]


def default(kind: Literal["images", "tables"], conditional: bool, predicted: bool, new: bool) -> list[Rule]:
    """The rules, as a spec writes them.

    Args:
        conditional: whether the generator is asked for classes.
        predicted: whether models are trained on synthetic rows, to predict a class.
        new: whether rows are new, rather than variants of training rows, which those are meant to be close to.
    """
    if kind == "tables":
        rules = [_of_ceiling("quality", 0.8)]
    else:
        rules = [_of_ceiling("precision", 0.5), _of_ceiling("recall", 0.15), _of_ceiling("coverage", 0.3)]
        # Of variants, which have the labels of rows that the classifier has learnt, it has no ceiling.
        rules += [_of_ceiling("label_agreement", 0.7)] * (conditional and new)
    rules += [_of_ceiling("synthetic_f1", 0.65)] * predicted
    if new:
        # Their values: where 60 rows are held out, the worse end is 0.08 and 0.2 off, and real rows would not pass.
        rules.append({"metric": "membership_auc", "max": 0.65})
        # Of a memory of very many rows, those that are looked at are hardly among the rows that it repeats. Rows of few
        # values are equal by chance, and so are held-out rows.
        rules.append({"metric": "identical_share", "max": 1.0, "of": "ceiling", "plus": 0.2})
        if kind == "images":
            rules.append({"metric": "close_ratio", "max": 0.2})
    return rules


def _of_ceiling(metric: str, share: float) -> Rule:
    return {"metric": metric, "at_least": share, "of": "ceiling"}
