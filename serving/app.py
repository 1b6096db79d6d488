"""The HTTP API: what is asked is checked, made by whoever makes rows, and answered as it was asked for."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from raygen.serving import answers, guard, openapi, page, record, tiles
from raygen.serving.answers import Writer
from raygen.serving.api import Generate, GeneratedImages, Image, Images, Interpolate
from raygen.serving.api import Models as ModelList
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.direct import Direct
from raygen.serving.guard import Guard
from raygen.serving.metrics import MEDIA_TYPE, Metrics
from raygen.serving.models import Models, Served
from raygen.serving.problems import Problem
from raygen.serving.room import QUEUE, SECONDS, Room, Waits
from raygen.serving.tiles import Tiles

Count = Callable[[int], None]
"""Told of some rows."""
ROWS = "/v1/generate"
"""What is asked most."""


def app(
    models: Models,
    doorkeeper: Doorkeeper,
    most_rows: int,
    queue: int = QUEUE,
    timeout_s: float = SECONDS,
    waits: Waits | None = None,
    metrics: Metrics | None = None,
    loopback: bool = False,
) -> ASGIApp:
    """The application.

    Args:
        models: what is served.
        doorkeeper: who may ask.
        most_rows: of one request.
        queue: requests under way at once; more are refused.
        timeout_s: seconds without progress that one may take.
        waits: is told how long questions wait for the first byte of their answer.
        metrics: where it is counted what is asked for, and made.
        loopback: whether only who calls it by a name of this machine is answered; see ``guard``.
    """
    counts = metrics or Metrics(doorkeeper.book, models)

    async def generated(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        token = doorkeeper.who(request.headers)
        try:
            asked = Generate.model_validate_json(scope["raygen.body"])
        except ValidationError as error:
            raise RequestValidationError([{**found, "loc": ("body", *found["loc"])} for found in error.errors()]) from None
        response = await generate(asked, token, request.headers.get("accept"))
        await response(scope, receive, send)

    api = FastAPI(
        title="raygen",
        version="1",
        description="Rows of published generators.",
        docs_url=None,  # which would have scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lambda _: doorkeeper.book.shared(),
        generate_unique_id_function=lambda route: route.name,
    )
    setattr(api, "openapi", lambda: openapi.document(api))  # noqa: B010 - as FastAPI's own manual does
    guard.protect(api)
    making = Tiles(counts.batch)
    page.route(api)

    async def admitted(request: Request) -> Token:
        return doorkeeper.who(request.headers)

    def counting(token: Token, served: Served, asked: Generate | Interpolate, kind: str) -> Count:
        """What counts rows as they are made for who asks for them, which the log is to tell.

        Raises:
            Problem: 422; they are more than one request may have.
        """
        most = min(most_rows, answers.most(kind, served.codec) or most_rows)
        if asked.rows > most:
            what, hint = f"{asked.rows:,} rows are too many for one request", f"ask for at most {most:,}, by start"
            raise Problem(422, what, hint, more={"most": most})
        record.current().asks(token.name, served.name, served.digest, asked)
        return partial(counts.rows, served.name, token.name)

    Accept = Annotated[str | None, Header(include_in_schema=False)]  # noqa: N806 - as OpenAPI wants it: the answers say it
    Who = Annotated[Token, Depends(admitted)]  # noqa: N806 - a type

    @api.get("/healthz", responses=openapi.HEALTH)
    async def healthz() -> dict[str, str]:
        """That rows can be made: there is nobody to answer before every generator has made some."""
        return {"status": "ok"}

    @api.get("/metrics", response_class=Response, responses=openapi.MEASURED)
    async def measured(token: Who) -> Response:
        """How the whole endpoint is doing, all replicas together, for Prometheus."""
        return Response(await counts.text(token), media_type=MEDIA_TYPE)

    @api.get("/v1/models", responses=openapi.MODELS)
    async def list_models(token: Who) -> ModelList:
        """What is served, and how good it is."""
        return ModelList(data=[served.about for served in models])

    async def generate(asked: Generate, token: Who, accept: Accept = None) -> Response:
        """Rows by their numbers, in the type that ``Accept`` likes best."""
        served = await models.look(asked.model, asked.digest)
        kind = answers.media_type(accept, not served.codec.is_table)
        counted = counting(token, served, asked, kind)
        under_way = doorkeeper.admitted(token, asked.rows)
        told = models.headers(served) | {"raygen-rows": f"{asked.start}-{asked.start + asked.rows}"}
        if asked.rows <= tiles.MOST and asked.where is None:
            with under_way as handed:
                made = await making.answer(served, asked, kind)
                handed(asked.rows)
            counted(asked.rows)
            return Response(made, media_type=kind, headers=told | record.current().timing)
        pieces = _pieces(making.rows(served, asked), answers.writer(kind, served.codec), under_way, counted)
        first = await anext(pieces)  # so that what goes wrong at first is not a 200
        return Streamed(_chained(first, pieces), media_type=kind, headers=told | record.current().timing)

    api.add_api_route(
        ROWS, generate, methods=["POST"], response_class=Response, responses=openapi.ROWS
    )  # of which it is described; `Direct` answers

    @api.post("/v1/interpolate", response_class=Response, responses=openapi.BETWEEN)
    async def interpolate(asked: Interpolate, token: Who, accept: Accept = None) -> Response:
        """What is between two rows, in the type that ``Accept`` likes best."""
        served = await models.look(asked.model, asked.digest)
        kind = answers.media_type(accept, not served.codec.is_table)
        counted = counting(token, served, asked, kind)
        under_way = doorkeeper.admitted(token, asked.rows)
        pieces = _pieces(making.rows(served, asked), answers.writer(kind, served.codec), under_way, counted)
        data = b"".join([piece async for piece in pieces])
        return Response(data, media_type=kind, headers=models.headers(served))

    @api.post("/v1/images/generations", responses=openapi.IMAGES)
    async def generations(asked: Images, token: Who, response: Response) -> GeneratedImages:
        """Pictures, in the shape of OpenAI's API."""
        served = models.find(asked.model)
        if served.codec.is_table:
            raise Problem(422, f"the model {served.name!r} makes tables", "ask /v1/generate for rows")
        image = served.codec.image[1]
        if asked.size not in ("auto", size := f"{image.width}x{image.height}"):
            raise Problem(422, f"pictures of {asked.size} are asked for, and there are {size}", "ask for auto")
        seed = random.SystemRandom().randrange(2**53) if asked.seed is None else asked.seed
        shown = _prompted(asked.prompt, served)  # in a list, where a null would be anything if it were alone
        rows = Generate(model=served.name, rows=asked.n, seed=seed, condition=[shown] * asked.n)
        counted = counting(token, served, rows, answers.JSON)
        with doorkeeper.admitted(token, asked.n) as handed:
            files = [file async for table in making.rows(served, rows) for file in answers.files(table, served.codec)]
            handed(asked.n)
        counted(asked.n)
        response.headers["raygen-digest"] = served.digest
        told = json.dumps({"condition": shown, "seed": seed}, ensure_ascii=False)
        data = [Image(b64_json=base64.b64encode(file).decode(), revised_prompt=told) for file in files]
        return GeneratedImages(created=int(time.time()), data=data)

    return Guard(Room(Direct(api, {ROWS: generated}), queue, timeout_s, waits), counts, api.routes, loopback)


class Streamed(StreamingResponse):
    """Closes what it streams when who asked has gone, not when the garbage is collected: rows under way are counted."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self.body_iterator.aclose()  # type: ignore[attr-defined]


async def _pieces(
    rows: AsyncIterator[pa.Table], writer: Writer, under_way: AbstractContextManager[Count], made: Count
) -> AsyncIterator[bytes]:
    """The bytes of an answer; when who asked goes away, the making of rows is closed."""
    with under_way as handed:
        try:
            async for table in rows:
                made(len(table))
                piece = await _timed(writer.add, table)
                handed(len(table))
                yield piece
            yield await _timed(writer.end)
        finally:
            if (close := getattr(rows, "aclose", None)) is not None:
                await close()


async def _timed(write: Callable[..., bytes], *of: Any) -> bytes:
    began = time.perf_counter()
    written = await asyncio.to_thread(write, *of)
    record.current().spend("encode", time.perf_counter() - began)
    return written


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


def _prompted(prompt: str, served: Served) -> bool | int | str | None:
    """The class that a prompt says: its text, or the one member of an object.

    Raises:
        Problem: 422; there is no such class.
    """
    condition, classes = served.generator.spec.condition, served.classes
    if condition is None:
        raise Problem(422, f"the model {served.name!r} cannot be asked for anything", "ask /v1/generate for rows")
    try:
        said: Any = json.loads(prompt)
    except (ValueError, RecursionError):
        said = prompt
    if isinstance(said, dict):
        if [*said] != [condition]:
            raise Problem(422, f"the prompt does not say what {condition!r} is, alone", json.dumps({condition: classes[0]}))
        said = said[condition]
    for value in classes:
        if (type(value) is type(said) and value == said) or prompt.strip() == str(value):
            return value
    shown = ", ".join(map(str, classes[:20]))
    raise Problem(422, "the prompt is none of the classes", f"there are: {shown}", more={"classes": classes[:1000]})
