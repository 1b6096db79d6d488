"""The gate: whether the figures of a report meet the spec's rules, and what those stop that do not."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import Any

from raygen.errors import GateError
from raygen.gate import LEAST, MOST, OF_USE, GateRule
from raygen.metrics.usefulness import needs_extra
from raygen.spec import Spec


def require(spec: Spec) -> None:
    """Fail now, rather than after the training, where a rule, or ``allocate``, is about what cannot be computed here.

    Raises:
        RaygenError: a package is not installed.
    """
    needed: tuple[str, ...] = ("scipy", "sklearn", "imblearn") if spec.is_table else ("scipy",)
    if spec.allocates and not spec.is_table:
        needed += ("sklearn",)
    if spec.allocates or any(rule.metric in OF_USE for rule in spec.gate):
        for package in needed:
            if find_spec(package) is None:
                raise needs_extra(package)


def judge(rules: Sequence[GateRule], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether each bound of the rules is met. What was not computed, or is not a number, meets none.

    Returns:
        Of each bound the keys of its rule, others than it None; the metric's ``value``, ``interval`` and ``ceiling``;
        ``compared``, the value or the worse end of its interval; ``bound``, the least or the most that may be; ``passed``,
        and ``because``.
    """
    known = {metric["name"]: metric for metric in metrics}
    unknown = {"value": None, "because": "the report has no such figure"}
    return [_judge(rule, way, known.get(rule.metric, unknown)) for rule in rules for way in rule.bounds]


def check(report: Mapping[str, Any]) -> None:
    """Let only a generator pass that its gate lets pass.

    Raises:
        GateError: a rule is not met; every one that is not is told with its figure.
    """
    failed = [rule for rule in report["gate"] if not rule["passed"]]
    if failed:
        raise GateError(
            f"the gate failed: {'; '.join(rule['because'] for rule in failed)}",
            "nothing was published; see the report, train longer or otherwise, or change gate",
            failed,
        )


def _judge(rule: GateRule, way: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    value, ceiling, interval = (metric.get(name) for name in ("value", "ceiling", "interval"))
    low, high = interval or (None, None)
    compared = {"at_least": low, "at_most": high}.get(way, value)
    asked, unit = rule.bounds[way], 1.0 if rule.of is None else ceiling
    # It stays nan where the ceiling is nan, which comes first.
    bound = None if unit is None else asked * max(unit, 0.0) + (rule.plus or 0.0)
    figures = {"value": value, "ceiling": ceiling, "bound": bound, "compared": compared}
    passed = False
    if value is None:
        because = f"was not computed: {metric['because']}"
    elif bound is None:
        because = f"is {value:.4g} and has no ceiling, of which gate asks {asked:.4g}"
    elif unit is not None and unit <= 0 and way in LEAST:
        because = f"is {value:.4g}, and real rows have no more than {unit:.4g}, of which nothing can be asked"
    elif compared is None:
        because = f"is {value:.4g} and has no interval, whose worse end gate asks for"
    elif not all(map(isfinite, (value, compared, bound))):
        because = "is not a number"
    else:
        passed = compared >= bound if way in LEAST else compared <= bound
        worst = "" if way in ("min", "max") else f" ({compared:.4g} at worst)"
        more = "" if rule.plus is None else f" and {rule.plus:.4g}"
        share = "" if rule.of is None else f", {asked:.4g} of its ceiling{more}"
        because = f"is {value:.4g}{worst}, the {'least' if way in LEAST else 'most'} is {bound:.4g}{share}"
    keys = {"metric": rule.metric, **dict.fromkeys((*LEAST, *MOST)), way: asked, "of": rule.of, "plus": rule.plus}
    shown = {name: _finite(figure) for name, figure in figures.items()}
    known = interval if interval is not None and all(map(isfinite, interval)) else None
    return {**keys, **shown, "interval": known, "passed": passed, "because": f"{rule.metric} {because}"}


def _finite(figure: float | None) -> float | None:
    """None, which JSON has, for what it has not."""
    return None if figure is None or not isfinite(figure) else figure
