"""What is answered ahead of Ray Serve's own parts; that Ray Serve asks for it is in test_deployment.py."""

import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from raygen.serving import direct

sys.path.append(str(Path(__file__).parent))
from endpoint import Passed


def test_only_questions_are_ahead_and_only_where_there_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "ahead", {})
    (middleware,) = direct.first()
    rest = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("Ray Serve"), methods=["GET", "POST"])])
    with TestClient(middleware.cls(rest, *middleware.args, **middleware.kwargs)) as http:

        def told() -> list[str]:
            asked = [("POST", "/v1/generate"), ("GET", "/v1/generate"), ("POST", "/v1/generate/"), ("GET", "/-/healthz")]
            return [http.request(*each).text for each in asked]

        assert told() == ["Ray Serve"] * 4
        direct.ahead["/v1/generate"] = PlainTextResponse("raygen")
        assert told() == ["raygen", *["Ray Serve"] * 3]


@pytest.mark.parametrize("theirs", ["endpoint:middleware", "endpoint.middleware"])
def test_what_a_cluster_has_there_already_comes_first(theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve asks the last one first."""
    ours, before = direct.environment(), "RAYGEN_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    (hook,) = (name for name, value in ours.items() if value == "raygen.serving.direct:first")
    assert ours[before] == f"${{{hook}}}"
    assert before < hook  # the order in which Ray sets them
    monkeypatch.setenv(before, theirs)
    assert [middleware.cls for middleware in direct.first()] == [direct.Direct, Passed]
    monkeypatch.setenv(before, ours[hook])
    assert [middleware.cls for middleware in direct.first()] == [direct.Direct]
