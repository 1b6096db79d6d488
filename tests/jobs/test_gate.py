"""What the rules of a gate say of figures: which meet it, by which end of an interval, and that nothing else does."""

import json
from math import inf, nan
from typing import Any

import pytest

from raygen.errors import GateError, RaygenError
from raygen.gate import GateRule
from raygen.jobs import gate
from raygen.jobs.figures import missing
from raygen.load import load_spec

RECALL = {"name": "recall", "value": 0.5, "ceiling": 0.8, "interval": [0.45, 0.55]}


def judged(metric: dict[str, Any] = RECALL, **rule: Any) -> dict[str, Any]:
    (found,) = gate.judge([GateRule(metric="recall", **rule)], [metric])
    json.dumps(found, allow_nan=False)  # as it is in the report
    return found


@pytest.mark.parametrize(
    ("rule", "compared", "bound", "passed"),
    [
        ({"min": 0.5}, 0.5, 0.5, True),
        ({"min": 0.51}, 0.5, 0.51, False),
        ({"max": 0.5}, 0.5, 0.5, True),
        ({"max": 0.49}, 0.5, 0.49, False),
        ({"at_least": 0.45}, 0.45, 0.45, True),
        ({"at_least": 0.46}, 0.45, 0.46, False),
        ({"at_most": 0.55}, 0.55, 0.55, True),
        ({"at_most": 0.54}, 0.55, 0.54, False),
        ({"min": 0.625, "of": "ceiling"}, 0.5, 0.5, True),
        ({"min": 0.63, "of": "ceiling"}, 0.5, 0.504, False),
        ({"at_least": 0.5, "of": "ceiling"}, 0.45, 0.4, True),
        ({"at_least": 0.6, "of": "ceiling"}, 0.45, 0.48, False),
        ({"max": 0.6, "of": "ceiling"}, 0.5, 0.48, False),
        ({"at_most": 0.65, "of": "ceiling"}, 0.55, 0.52, False),
        ({"max": 0.5, "of": "ceiling", "plus": 0.15}, 0.5, 0.55, True),
        ({"max": 0.5, "of": "ceiling", "plus": 0.05}, 0.5, 0.45, False),
        ({"min": 0.75, "of": "ceiling", "plus": -0.05}, 0.5, 0.55, False),
    ],
)
def test_a_bound(rule: dict[str, Any], compared: float, bound: float, passed: bool) -> None:
    found = judged(**rule)
    assert found["bound"] == pytest.approx(bound)
    assert (found["compared"], found["passed"], found["value"]) == (compared, passed, 0.5)
    others = {"min": None, "max": None, "at_least": None, "at_most": None, "of": None, "plus": None}
    assert {name: found[name] for name in ("metric", *others)} == {"metric": "recall", **others, **rule}


def test_a_rule_of_two_bounds_is_judged_by_each() -> None:
    found = gate.judge([GateRule(metric="recall", at_least=0.4, max=0.45)], [RECALL])
    assert [(rule["at_least"], rule["max"], rule["passed"]) for rule in found] == [(0.4, None, True), (None, 0.45, False)]


@pytest.mark.parametrize("rule", [{"min": 0}, {"max": 1}, {"at_least": 0}, {"at_most": 1}, {"max": 9, "of": "ceiling"}])
@pytest.mark.parametrize(
    ("metric", "because"),
    [
        (missing("recall", "4 rows are held out"), "recall was not computed: 4 rows are held out"),
        ({"name": "precision", "value": 0.5}, "recall was not computed: the report has no such figure"),
        ({**RECALL, "value": nan, "interval": [nan, nan]}, "recall is not a number"),
        ({**RECALL, "value": nan}, "recall is not a number"),
        ({**RECALL, "value": inf, "interval": [0.4, inf]}, "recall is not a number"),
        ({**RECALL, "value": -inf}, "recall is not a number"),
    ],
)
def test_what_is_no_figure_meets_no_rule(rule: dict[str, Any], metric: dict[str, Any], because: str) -> None:
    found = judged(metric, **rule)
    assert (found["passed"], found["because"]) == (False, because)


@pytest.mark.parametrize("ceiling", [None, nan])
@pytest.mark.parametrize("way", ["min", "max", "at_least", "at_most"])
def test_without_a_ceiling_nothing_is_a_share_of_it(way: str, ceiling: float | None) -> None:
    found = judged({**RECALL, "ceiling": ceiling}, **{way: 0.5}, of="ceiling")
    assert (found["passed"], found["bound"], found["ceiling"]) == (False, None, None)


@pytest.mark.parametrize("ceiling", [0.0, -0.1])
def test_of_a_ceiling_of_nothing_nothing_can_be_asked(ceiling: float) -> None:
    nothing = {**RECALL, "value": 0.0, "interval": [0.0, 0.0], "ceiling": ceiling}
    assert not judged(nothing, min=0.5, of="ceiling")["passed"]
    assert not judged(nothing, at_least=0.5, of="ceiling", plus=-1)["passed"]
    found = judged(nothing, max=2, of="ceiling", plus=0.1)
    assert (found["passed"], found["bound"]) == (True, 0.1)


@pytest.mark.parametrize("interval", [None, [nan, nan], [0.4, nan], [nan, 0.6]])
def test_without_an_interval_nothing_is_sure(interval: list[float] | None) -> None:
    unsure = {**RECALL, "interval": interval}
    assert not (judged(unsure, at_least=0)["passed"] and judged(unsure, at_most=1)["passed"])
    assert judged(unsure, min=0.5)["passed"]


def test_what_is_said_of_it() -> None:
    assert judged(min=0.9)["because"] == "recall is 0.5, the least is 0.9"
    assert judged(at_most=0.1)["because"] == "recall is 0.5 (0.55 at worst), the most is 0.1"
    assert judged(at_least=0.75, of="ceiling")["because"] == (
        "recall is 0.5 (0.45 at worst), the least is 0.6, 0.75 of its ceiling"
    )
    assert judged(max=0.5, of="ceiling", plus=0.01)["because"] == (
        "recall is 0.5, the most is 0.41, 0.5 of its ceiling and 0.01"
    )


def test_every_rule_that_is_not_met_is_told() -> None:
    rules = [GateRule(metric="recall", min=0.9), GateRule(metric="recall", min=0), GateRule(metric="density", max=1)]
    report = {"gate": gate.judge(rules, [RECALL])}
    with pytest.raises(GateError, match=r"recall is 0.5, the least is 0.9; density was not computed") as error:
        gate.check(report)
    assert [rule["metric"] for rule in error.value.failed] == ["recall", "density"]
    gate.check({"gate": gate.judge(rules[1:2], [RECALL])})


def test_what_the_rules_need_is_asked_for_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"age": {"kind": "number"}, "sex": {"kind": "category"}}
    generator = {"family": "gan", "condition": "sex"}
    spec = load_spec({"name": "x", "dataset": {"path": "x", "schema": fields}, "generator": generator})
    gate.require(spec)
    monkeypatch.setattr(gate, "find_spec", lambda package: None if package == "sklearn" else package)
    with pytest.raises(RaygenError, match=r"needs sklearn, which is not installed\n  pip install 'raygen\[quality\]'"):
        gate.require(spec)
    gate.require(load_spec(spec, ["gate=[]"]))
    with pytest.raises(RaygenError, match="needs sklearn"):
        gate.require(load_spec(spec, ["gate=[]", "augment={rows: 5, balance: sex, allocate: auto}"]))
