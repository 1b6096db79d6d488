"""How the report names, groups, explains and writes its figures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

EXPLAINED = {
    "label_agreement": "share of rows that a classifier trained on real rows takes for the class that was asked for",
    "frechet_distance": "distance of the features' means and covariances from those of held-out real rows",
    "kernel_distance": "squared maximum mean discrepancy with a cubic kernel (KID): on average 0 for rows like real ones",
    "classifier_score": "certainty and variety of the classifier's predictions: the Inception Score's formula",
    "precision": "share of synthetic rows that lie among real ones: are they plausible?",
    "recall": "share of real rows that lie among synthetic ones: is the variety there?",
    "density": "how deep among real rows the synthetic ones lie; 1 is like real rows",
    "coverage": "share of real rows with a synthetic one nearby: is anything left out?",
    "negative_log_likelihood": "−log p of a held-out row, in nats, at most (importance-weighted bound)",
    "quality": "the mean of column shapes and pair trends, as SDMetrics has it",
    "column_shapes": "how alike the columns' distributions are: 1 − Kolmogorov–Smirnov, or 1 − total variation distance",
    "pair_trends": "how alike correlations and contingency tables of related columns are",
    "discriminator_auc": "how well a classifier tells synthetic rows from real ones: 0.5 not at all, 1 always",
    "synthetic_f1": "macro F1 on held-out rows of a model that learnt from synthetic rows alone; beside it, from real ones",
    "lift": "macro F1 of a model that learnt from real and synthetic rows, minus that of one that had the real ones only",
    "identical_share": "share of rows that equal a training row; beside it, that of held-out rows, which do so by chance",
    "membership_auc": "how well training rows are told from held-out ones by the nearest synthetic row: 0.5 not at all",
    "closer_share": "share of synthetic rows that are closer to training rows than to as many held-out ones: 0.5 is even",
    "close_share": "share of synthetic rows that are nearer to a training row than all but 5 % of held-out rows are",
    "close_ratio": "the same, by how much nearer the nearest training row is than the next: near copies",
}
GROUPS = {
    "usefulness": ("synthetic_f1", "lift"),
    "privacy": ("identical_share", "membership_auc", "closer_share", "close_share", "close_ratio"),
}
"""What is in none of them says how faithful and how diverse rows are."""
SPELT = {
    "frechet_distance": "Fréchet distance",
    "synthetic_f1": "F1 of synthetic rows",
    "discriminator_auc": "discriminator AUC",
}
SPELT |= {"membership_auc": "membership AUC", "negative_log_likelihood": "negative log-likelihood"}
OF_FEATURES = {"columns": "of columns", "rows": "of whole rows", "distances": "by distances between rows"}
OF_FEATURES |= {name: f"on {name}" for name in ("pixels", "thumbnails", "inception")}
OF_INCEPTION = {"frechet_distance": "FID of few rows", "kernel_distance": "KID"}
"""What papers call them."""
NOT_ON_FEATURES = {"label_agreement", "classifier_score", "discriminator_auc", *GROUPS["usefulness"]}
"""They are of a classifier's predictions."""
EVEN = {"membership_auc": 0.5, "closer_share": 0.5, "lift": 0.0}
"""What a figure is where nothing is known, or gained; drawn where there is no ceiling."""
UNBOUNDED = {"frechet_distance", "kernel_distance", "classifier_score", "density", "negative_log_likelihood", "lift"}
"""The others are from 0 to 1."""
SIGNS = (("min", "≥", ""), ("max", "≤", ""), ("at_least", "≥", "low end "), ("at_most", "≤", "high end "))
"""Of the gate's rules."""


def sentence(text: str) -> str:
    text = re.sub(r"(?<=[ (])-(?=\d)", "−", text)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def title(name: str) -> str:
    return SPELT.get(name, name.replace("_", " "))


def features(metric: Mapping[str, Any]) -> str:
    """What a figure was measured on, as it follows the figure's name."""
    name = metric.get("features")
    if not name or name == "likelihood" or metric["name"] in NOT_ON_FEATURES:
        return ""
    published = f" ({OF_INCEPTION[metric['name']]})" if name == "inception" and metric["name"] in OF_INCEPTION else ""
    return OF_FEATURES.get(name, f"on {name} features") + published


def group(metrics: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The metrics of a group of ``GROUPS``, or those of none, for a name that is not there."""
    grouped = {metric for names in GROUPS.values() for metric in names}
    return [m for m in metrics if (m["name"] in GROUPS[name] if name in GROUPS else m["name"] not in grouped)]


def count(rows: int | None) -> str:
    return "–" if rows is None else f"{rows:,}"


def told(value: float | None, interval: Sequence[float] | None = None, sign: bool = False) -> str:
    """A figure with as many decimals as its interval bears: two digits of the width; of no interval, three digits.

    Small figures are never told as 0.000.
    """
    if value is None:
        return "–"
    if value == 0:
        return "0"
    spread = interval[1] - interval[0] if interval else 0.0
    size, digits = (spread, 2) if spread > 0 else (abs(value), 3)
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:{'+' if sign else ''},.{decimals}f}" if decimals <= 8 else f"{value:.{digits - 1}e}"
    text = text.replace("-", "−")
    return text if text.strip("+−0.,") else text.lstrip("+−")


def told_interval(interval: Sequence[float] | None, sign: bool = False) -> str:
    return "–" if interval is None else " to ".join(told(end, interval, sign) for end in interval)


def needed(rule: Mapping[str, Any]) -> str:
    """What a rule of the gate asks for."""
    more = "" if rule.get("plus") is None else f" + {rule['plus']:.4g}"
    of = f" × ceiling{more}" if rule.get("of") == "ceiling" else ""
    parts = [f"{end}{sign} {rule[key]:.4g}{of}" for key, sign, end in SIGNS if rule.get(key) is not None]
    bound = f" = {rule['bound']:.4g}" if of and rule.get("bound") is not None else ""
    return ", ".join(parts) + bound


def gap(rule: Mapping[str, Any]) -> str:
    """By how much a rule of the gate was missed, or met; nothing where there is no telling."""
    compared = rule.get("compared", rule["value"])
    bounds = [rule["bound"]] if "bound" in rule else [rule[key] for key, _, _ in SIGNS if rule.get(key) is not None]
    if compared is None or None in bounds:
        return ""
    away = told(min(abs(compared - bound) for bound in bounds))
    return f"{away} to spare" if rule["passed"] else f"missed by {away}"
