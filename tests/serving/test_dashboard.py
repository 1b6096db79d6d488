"""The dashboard for Grafana: its queries are of Prometheus's language, and of metrics that an endpoint has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from endpoints import models
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, VectorSelector
from starlette.testclient import TestClient

from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper
from raygen.serving.metrics import Metrics

EXAMPLES = Path(__file__).parents[2] / "examples"
DASHBOARD: dict[str, Any] = json.loads((EXAMPLES / "grafana.json").read_text())
SOURCE = {"type": "prometheus", "uid": "${source}"}
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The metrics of an endpoint that has been asked, and refused something: their labels by their names."""
    of, keeper = models(tmp_path_factory.mktemp("dashboard")), Doorkeeper(None)
    metrics = Metrics(keeper.book, of)
    with TestClient(app(of, keeper, 10, metrics=metrics)) as client:
        assert client.post("/v1/generate", json={"model": "digits"}).status_code == 200
        client.post("/v1/generate", json={"rows": 0})
        text = client.get("/metrics").text
    return {sample.name: set(sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples}


def parts(of: Any) -> Iterator[Any]:
    yield of
    for name in ("lhs", "rhs", "expr", "args", "vector_selector"):
        below = getattr(of, name, None)
        for one in below if isinstance(below, list) else [below] if below is not None else []:
            yield from parts(one)


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_of_what_there_is(query: str, told: dict[str, set[str]]) -> None:
    found = [*parts(promql_parser.parse(query.replace("$__rate_interval", "1m")))]
    selectors = [part for part in found if isinstance(part, VectorSelector)]
    assert selectors
    for selector in selectors:
        assert selector.name in told
        assert {matcher.name for matcher in selector.matchers.matchers} <= told[selector.name]
    labels = set.union(*(told[selector.name] for selector in selectors))
    for part in found:
        if isinstance(part, AggregateExpr) and part.modifier is not None:
            assert set(part.modifier.labels) <= labels


def test_every_metric_is_shown(told: dict[str, set[str]]) -> None:
    text = " ".join(QUERIES)
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in told}
    assert {name for name in families if name not in text} == set()


def test_the_dashboard_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36  # from where on a source is named by its kind and uid
    (source,) = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("source", "datasource", "prometheus")
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in ("stat", "timeseries", "table")
        assert panel["datasource"] == SOURCE
        assert all(target["datasource"] == SOURCE for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        slots = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not slots & taken
        taken |= slots
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_is_told_where_to_look() -> None:
    (job,) = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert job["authorization"].keys() == {"credentials_file"}
    assert "metrics_path" not in job  # it is /metrics
