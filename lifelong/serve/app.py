"""The HTTP service: who may come in, what is measured and logged, and how it is documented."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from queue import Full
from typing import Any, TypeAlias

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lifelong import __version__
from lifelong.core.errors import InvalidBatch, LifelongError, LogError, UnknownTask
from lifelong.serve.auth import Refused
from lifelong.serve.document import describe
from lifelong.serve.door import Direct, door_headers, read_body, send_json
from lifelong.serve.pages import add_console
from lifelong.serve.paging import BIGGEST, MOST
from lifelong.serve.parts import Parts
from lifelong.serve.routes import Routes
from lifelong.serve.schema import Malformed
from lifelong.serve.table import ROUTES, Route

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
_access = logging.getLogger("lifelong.serve.access")
_log = logging.getLogger("lifelong.serve")
_ERRORS = {
    401: "No known key",
    403: "The key lacks the role",
    409: "It does not fit what is there",
    429: "Too much at once",
    503: "The log fails",
}
_BODY_ERRORS = {
    400: "Half a body",
    408: "The body takes too long",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "Not as expected",
}

_PAGED = [
    {"name": name, "in": "query", "description": text, "schema": {"type": "integer", **bounds}}
    for name, text, bounds in (
        (
            "after",
            "What follows this number, the oldest first",
            {"minimum": 0, "maximum": BIGGEST, "default": 0},
        ),
        ("limit", "How many at most", {"minimum": 1, "maximum": MOST, "default": 100}),
        (
            "before",
            "What is below this number, the newest first",
            {"minimum": 1, "maximum": BIGGEST},
        ),
    )
]

_NAMED = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of what was asked for",
    "schema": {"type": "string", "minLength": 1},
}


def create_app(
    parts: Parts,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """Make the HTTP service. All its errors are `{"error": {"what": ..., "how": ...}}`.

    Args:
        parts: what it is made of.
        lifespan: entered before the first request and left after the last, as FastAPI's.

    Example:
        >>> from concurrent.futures import Future
        >>> from torch import nn
        >>> from lifelong.serve.schema import Schema
        >>> from lifelong.serve.snapshot import Holder, Snapshot
        >>> holder = Holder(Snapshot(1, nn.Linear(4, 2)))
        >>> parts = Parts(Schema((4,), classes=2), holder, lambda event: Future(), lambda id: None)
        >>> create_app(parts).url_path_for("/predict")
        '/predict'
    """
    meters = _Meters(parts.metrics)
    routes = Routes(parts, meters.batch_rows.observe, lambda kind: meters.events.labels(kind).inc())
    meters.watch(routes)
    app = Direct(title="lifelong", version=__version__, lifespan=_closing(routes, lifespan))
    app.router.route_class = _Direct
    doors: dict[tuple[str, str], ASGIApp] = {}
    for route in ROUTES:
        door = _guarded(parts, route, routes, meters)
        if "{" not in route.path:  # else the framework finds what is in its place
            doors[_method(route), route.path] = door
        _add(app, route, door)
    app.doors = doors
    _add_probes(app, parts, routes)
    add_console(app)
    app.add_exception_handler(HTTPException, _unrouted)
    app.openapi = lambda: _openapi(app, parts)  # type: ignore[method-assign]
    return app


def settle() -> None:
    """Take what is there by now out of garbage collection; call it when all is imported.

    Else each full collection goes through torch's hundreds of thousands of objects: tens of
    milliseconds, in which every request waits.
    """
    gc.collect()
    gc.freeze()


class _Direct(APIRoute):
    """A route whose endpoint takes the request as it is: no dependencies, no body model."""

    def get_route_handler(self) -> Endpoint:
        endpoint: Endpoint = self.endpoint
        return endpoint


class _Meters:
    """What Prometheus reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "lifelong_requests", "Requests", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "lifelong_request_seconds",
            "Time to answer",
            ("route",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
            registry=registry,
        )
        self.batch_rows = Histogram(
            "lifelong_batch_rows",
            "Rows that the model computed at once",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.events = Counter("lifelong_events", "Durable events", ("kind",), registry=registry)
        self.version = Gauge(
            "lifelong_served_version", "Version that answers", ("arm",), registry=registry
        )
        self.waiting = Gauge(
            "lifelong_waiting_rows", "Rows that wait for the model", registry=registry
        )

    def watch(self, routes: Routes) -> None:
        holder = routes.parts.holder
        self.waiting.set_function(lambda: routes.batcher.waiting)
        self.version.labels("champion").set_function(lambda: holder.current.version)
        self.version.labels("challenger").set_function(
            lambda: math.nan if holder.challenger is None else holder.challenger.version
        )


def _guarded(parts: Parts, route: Route, routes: Routes, meters: _Meters) -> ASGIApp:
    """Let a request in, have the work done, and measure and log what came of it."""
    work = route.work(routes)
    seconds = meters.seconds.labels(route.path)
    counts = {200: meters.requests.labels(route.path, "200")}

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        caller, body, failed = None, b"", None
        try:
            headers, client = door_headers(scope), scope.get("client")
            caller = parts.keys.admit(headers, client and client[0], route.role)
            if route.body is not None:
                body = await read_body(headers, receive, parts.most_bytes, parts.seconds_to_send)
            elif "{" in route.path:
                body = str(scope["path_params"]["id"]).encode(errors="replace")
            elif route.paged:
                body = scope["query_string"]
            status, content = await work(caller, body)
            answer = msgspec.json.encode(content)
        except Exception as error:
            failed = _failure(error, route)
            status = failed.status_code
        took = time.perf_counter() - start
        if status not in counts:
            counts[status] = meters.requests.labels(route.path, str(status))
        counts[status].inc()
        seconds.observe(took)
        if _access.isEnabledFor(logging.INFO):
            line = {"time": parts.clock(), "route": route.path, "status": status, "key": caller}
            line.update(ms=round(took * 1000, 3), bytes=len(body))
            _access.info(msgspec.json.encode(line).decode())
        if failed is None:
            await send_json(send, status, answer)
        else:
            await failed(scope, receive, send)

    return door


def _failure(error: Exception, route: Route) -> Response:
    """Turn an error into a response that says what was received and what to do."""
    if isinstance(error, Malformed):
        return _error(422, error.what, error.how)
    if isinstance(error, Refused):
        return _error(error.status, error.what, error.how, error.retry_after)
    if isinstance(error, Full):
        return _error(429, str(error), "wait as the header Retry-After says", 1.0)
    if isinstance(error, LogError):
        _log.error("%s: %s", route.path, error)
        return _error(503, f"the event log fails: {error}", "try again later", 5.0)
    if isinstance(error, InvalidBatch | UnknownTask):
        return _error(422, str(error), "send what the model was made for")
    if isinstance(error, LifelongError) and route.role == "operate":
        return _error(409, str(error), "see /versions for what is there")
    _log.error("%s failed", route.path, exc_info=error)
    return _error(500, f"an error of the service: {type(error).__name__}", "see the service's log")


def _error(status: int, what: str, how: str, retry_after: float | None = None) -> Response:
    response = _json(status, {"error": {"what": what, "how": how}})
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(status: int, content: Any) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = f"{request.method} {request.url.path[:80]}: no such route"
    response = _error(status, what, "see /docs for the routes")
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _add_probes(app: FastAPI, parts: Parts, routes: Routes) -> None:
    async def alive(_: Request) -> Response:
        return _json(200, {"status": "alive"})

    async def ready(_: Request) -> Response:
        why = parts.not_ready() or routes.recorder.lost
        return _json(200 if why is None else 503, {"ready": why is None, "why": why})

    async def metrics(request: Request) -> Response:
        try:
            host = None if request.client is None else request.client.host
            parts.keys.admit(request.headers, host, None)
        except Refused as error:
            return _error(error.status, error.what, error.how, error.retry_after)
        text = generate_latest(parts.metrics)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, endpoint, about in (
        ("/healthz", alive, "Whether the process answers"),
        ("/readyz", ready, "Whether requests should be sent here"),
        ("/metrics", metrics, "Metrics for Prometheus, with any key"),
    ):
        app.add_api_route(path, endpoint, summary=about, name=path, response_class=Response)


def _method(route: Route) -> str:
    return "GET" if route.body is None else "POST"


def _add(app: FastAPI, route: Route, door: ASGIApp) -> None:
    """Add a route with its documentation."""

    async def endpoint(_: Request) -> Any:
        return door

    error = {"error": {"what": "what was received", "how": "what to send instead"}}
    errors = _ERRORS if route.body is None else {**_ERRORS, **_BODY_ERRORS}
    if route.paged:
        errors = {**errors, 422: _BODY_ERRORS[422]}
    if "{" in route.path:
        errors = {**errors, 404: "No such thing"}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {"application/json": {"example": error}}}
        for status, text in errors.items()
    }
    answers[route.status] = {
        "description": "Done",
        "content": {"application/json": {"example": route.answer}},
    }
    extra: dict[str, Any] = {"security": [{"key": []}, {"bearer": []}]}
    if route.paged:
        extra["parameters"] = _PAGED
    if "{" in route.path:
        extra["parameters"] = [_NAMED]
    if route.body is not None:
        [schema], _ = _schemas(route.body)
        examples = {f"example {n}": {"value": sent} for n, sent in enumerate(route.sent, 1)}
        content = {"application/json": {"schema": schema, "examples": examples}}
        extra["requestBody"] = {"required": True, "content": content}
    app.add_api_route(
        route.path.replace("{id}", "{id:path}"),  # an id may hold slashes
        endpoint,
        methods=[_method(route)],
        name=route.path,
        status_code=route.status,
        summary=route.about,
        description=f"Needs a key with the role `{route.role}`.",
        responses=answers,
        openapi_extra=extra,
        response_class=Response,
    )


def _openapi(app: FastAPI, made: Parts) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = document.setdefault("components", {})
        _, parts["schemas"] = _schemas(*(route.body for route in ROUTES if route.body is not None))
        describe(document, made.schema, made.batch_rows, made.most_events)
        parts["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        app.openapi_schema = document
    return app.openapi_schema


def _schemas(*types: Any) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")


def _closing(
    routes: Routes,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        try:
            if lifespan is None:
                yield
            else:
                async with lifespan(app):
                    yield
        finally:
            routes.batcher.close()

    return closing
