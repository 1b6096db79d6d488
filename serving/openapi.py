"""What the endpoint's OpenAPI document says besides what its types say: who may ask, what can go wrong, and examples."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from raygen.serving import answers
from raygen.serving.api import ProblemDetails, Rows
from raygen.serving.metrics import MEDIA_TYPE as METRICS
from raygen.serving.problems import MEDIA_TYPE, Problem

Responses = dict[int | str, dict[str, Any]]

PROBLEMS = {
    400: ("Not HTTP as it should be", Problem(400, "the header Content-Length is no number")),
    401: (
        "No token, or not one that is known, or not any more",
        Problem(401, "there is no bearer token", "send Authorization: Bearer TOKEN"),
    ),
    404: ("No such model", Problem(404, "there is no model of this name", "there are: digits, adult")),
    406: (
        "No such type",
        Problem(406, "there is no answer of type 'text/html'", f"accept one of: {', '.join(answers.MEDIA_TYPES)}"),
    ),
    408: ("Too slow", Problem(408, "the request was not there within 10 s", "send it at once")),
    409: (
        "The generator that was asked for does not answer",
        Problem(409, "another generator answers now", "begin again, or leave digest out", more={"digest": "3f2a" * 16}),
    ),
    413: ("Too long", Problem(413, "the request has more than 65,536 bytes", "ask for less at once")),
    415: ("Not JSON", Problem(415, "the request is of type 'text/plain'", "send Content-Type: application/json")),
    421: (
        "Not here",
        Problem(
            421, "'elsewhere.example' is no name of this machine", "ask by localhost or 127.0.0.1, or serve with tokens"
        ),
    ),
    422: ("Not what can be asked", Problem(422, "rows: Input should be greater than or equal to 1")),
    429: (
        "More than this token may ask for",
        Problem(429, "this token may ask for 60 requests in a minute", "try again in 31 s"),
    ),
    431: ("Too long", Problem(431, "the headers have more than 32,768 bytes", "send fewer")),
    500: ("raygen failed", Problem(500, "raygen failed at this; it is in its log", "quote the request_id")),
    503: (
        "More than there is room for",
        Problem(503, "every replica has as much to do as it may wait for", "try again in 1 s"),
    ),
    504: ("Not in time", Problem(504, "it was not answered within 60 s", "ask for less at once, or try again")),
}
"""By status: what it says, and an example."""
_HEADERS = {
    "401": {"WWW-Authenticate": "what is wanted: a bearer token (RFC 6750)"},
    "429": {"Retry-After": "seconds after which it may be answered"},
    "503": {"Retry-After": "seconds after which it may be answered"},
}
_ALL = (400, 408, 413, 421, 431)
"""What stands before the API says."""
_DIGEST = {"raygen-digest": "of the generator that made the rows"}
_TOKEN = "token"  # noqa: S105 - its name in the document


def problems(*statuses: int, wrong: str = "rows", least: int = 1) -> Responses:
    """What can go wrong with a request, which asks for ``least`` of something or more."""
    found: Responses = {}
    for status in sorted({*_ALL, *statuses}):
        said, problem = PROBLEMS[status]
        if status == 422:
            what = f"Input should be greater than or equal to {least}"
            problem = Problem(422, f"{wrong}: {what}", more={"errors": [{"where": wrong, "what": what}]})
        schema, example = {"$ref": "#/components/schemas/ProblemDetails"}, problem.document("b5a1c0ffee5eed00")
        found[status] = {"description": said, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}
        if (headers := _HEADERS.get(str(status))) is not None:
            found[status]["headers"] = _described(headers)
    return found


def _described(headers: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": said, "schema": {"type": "string"}} for name, said in headers.items()}


def _answer(said: str, example: Any, headers: dict[str, str] | None = None) -> Responses:
    return {
        200: {"description": said, "content": {answers.JSON: {"example": example}}, "headers": _described(headers or {})}
    }


_BYTES = {"schema": {"type": "string", "format": "binary"}}
_ROW = {"age": 23, "income": ">50K"}
_JSON = {"schema": {"$ref": "#/components/schemas/Rows"}, "example": {"rows": [_ROW]}}
_ANSWERS = {kind: _JSON if kind == answers.JSON else _BYTES for kind in answers.MEDIA_TYPES}
_MADE = (401, 404, 415, 422, 429, 500, 503, 504)

_ROWS: Responses = {200: {"description": "The rows", "content": _ANSWERS, "headers": _described(_DIGEST)}}
ROWS: Responses = {**_ROWS, **problems(*_MADE, 406, 409)}
BETWEEN: Responses = {**_ROWS, **problems(*_MADE, 406, 409, wrong="steps", least=2)}
IMAGES: Responses = {
    **_answer(
        "The pictures",
        {"created": 1_800_000_000, "data": [{"b64_json": "iVBORw0KGgo=", "revised_prompt": '{"condition": 7, "seed": 1}'}]},
        _DIGEST,
    ),
    **problems(*_MADE, wrong="n"),
}
_CANARY = {"digest": "4e3b" * 16, "percent": 10}
_MODEL = {
    "id": "adult", "object": "model", "created": 1_800_000_000, "owned_by": "raygen", "digest": "3f2a" * 16,
    "canary": _CANARY, "verdict": "passed", "summary": ["as good as real rows by 96 % of what was measured"], "figures": [],
    "family": "autoregressive", "kind": "tables", "condition": "income", "classes": ["<=50K", ">50K"],
    "columns": {"age": "int64", "income": "string"}, "interpolates": False,
}  # fmt: skip
MODELS: Responses = {**_answer("What is served", {"object": "list", "data": [_MODEL]}), **problems(401, 429)}
_COUNTED = 'raygen_requests_total{model="digits",route="/v1/generate",status="200"} 3.0\n'
MEASURED: Responses = {
    200: {
        "description": "The text format of Prometheus",
        "content": {METRICS: {"schema": {"type": "string"}, "example": _COUNTED}},
    },
    **problems(401, 429),
}
HEALTH: Responses = {**_answer("It can", {"status": "ok"}), **problems()}


def document(api: FastAPI) -> dict[str, Any]:
    """That of an application, made once."""
    if api.openapi_schema is None:
        found = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        found["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        found["servers"] = [{"url": "/"}]
        components = found.setdefault("components", {})
        for model in (ProblemDetails, Rows):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components["schemas"] |= {**schema.pop("$defs", {}), model.__name__: schema}
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        said = "What `raygen token` prints. An endpoint that has no tokens asks for none."
        components["securitySchemes"] = {_TOKEN: {"type": "http", "scheme": "bearer", "description": said}}
        for operations in found["paths"].values():
            for operation in operations.values():
                operation["security"] = [{_TOKEN: []}] if "401" in operation["responses"] else []
        api.openapi_schema = found
    return api.openapi_schema
