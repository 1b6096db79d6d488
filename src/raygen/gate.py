"""The gate of a spec that does not write one: what noise, a copy of the training rows and a collapsed generator cannot pass.

Its bounds are shares of what real rows score against real rows, so that they hold for data that nobody has seen. Where a
rule asks that more is surely reached, it judges the pessimistic end of the interval, which few rows make wide.
"""

from typing import Any, Literal

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
