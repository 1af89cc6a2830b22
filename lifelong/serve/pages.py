"""The console: a web page of a few files, which asks the other routes for all that it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

FOLDER = Path(__file__).parent / "console"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but the service's own files may run, and no page may put this one into a frame."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_console(app: FastAPI) -> None:
    """Add the page at `/console`, its files below, and a redirect from `/`.

    They hold no data and need no key; what the page shows comes from routes that do. All files are
    read here, so that no request can name another.

    Example:
        >>> app = FastAPI()
        >>> add_console(app)
        >>> app.url_path_for("/console")
        '/console'
    """
    files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
    page = files.pop("index.html")

    async def home(_: Request) -> Response:
        # Relative, so that it also leads there behind a proxy that adds a path.
        return RedirectResponse("console", 307, headers=_HEADERS)

    _add(app, "/", home)
    _add(app, "/console", _sending(page, _TYPES[".html"]))
    for name, content in files.items():
        _add(app, f"/console/{name}", _sending(content, _TYPES[Path(name).suffix]))


def _sending(content: bytes, kind: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}

    async def send(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return send


def _add(
    app: FastAPI, path: str, endpoint: Callable[[Request], Coroutine[Any, Any, Response]]
) -> None:
    app.add_api_route(path, endpoint, name=path, include_in_schema=False, response_class=Response)
