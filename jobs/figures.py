"""The figures of a report: a metric of synthetic rows beside that of real rows, with its interval; or why there is none."""

from typing import Any

import numpy as np

from raygen.metrics.fidelity import Interval

HIGHER = {
    "label_agreement",
    "classifier_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "quality",
    "column_shapes",
    "pair_trends",
    "synthetic_f1",
    "lift",
}


def metric(name: str, value: float, ceiling: float | None, interval: Interval, features: str, rows: int) -> dict[str, Any]:
    return {
        "name": name,
        "value": float(value),
        "ceiling": None if ceiling is None else float(ceiling),
        "interval": [float(interval[0]), float(interval[1])],
        "better": "higher" if name in HIGHER else "lower",
        "features": features,
        "rows": rows,
    }


def missing(name: str, because: str) -> dict[str, Any]:
    nothing = {"value": None, "ceiling": None, "interval": None}
    return {"name": name, **nothing, "better": "higher" if name in HIGHER else "lower", "because": because}


def number(value: float) -> float | None:
    """None, which JSON has, for nan, which it has not."""
    return None if np.isnan(value) else float(value)
