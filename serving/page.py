"""The web page: three files, which are all there is to it, by their names."""

import gzip
import hashlib
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import Response

FILES = {
    "/": ("index.html", "text/html"),
    "/web/page.css": ("page.css", "text/css"),
    "/web/page.js": ("page.js", "text/javascript"),
}


def route(api: FastAPI) -> None:
    """Answer with the page at ``/``. Everybody may have it, for it holds nothing: what it shows it asks the API for."""
    for path, (name, kind) in FILES.items():
        _route(api, path, files("raygen.serving").joinpath("web", name).read_bytes(), kind)


def _route(api: FastAPI, path: str, data: bytes, kind: str) -> None:
    # Looked for every time, and had again only when it is another one: a page and a script of two versions do not mix.
    tag = f'W/"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
    packed = gzip.compress(data, mtime=0)

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
        return Response(data, media_type=kind, headers=headers)

    api.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
