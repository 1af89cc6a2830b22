"""The way in for requests that are many: past the framework's routing, with the same checks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifelong.serve.auth import Refused

_JSON = (b"content-type", b"application/json")


class Direct(FastAPI):
    """A service that leads requests for known routes straight to what answers them.

    The framework's own way there, which stays for the others and for what it documents, takes as
    long as the rest.
    """

    doors: Mapping[tuple[str, str], ASGIApp] = {}
    """What answers, by method and path."""

    def add_middleware(self, *args: Any, **kwargs: Any) -> None:
        """Add middleware, which every request has to pass: the short way is closed then."""
        self.doors = {}
        super().add_middleware(*args, **kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        door = None
        if scope["type"] == "http" and not scope.get("root_path"):
            door = self.doors.get((scope["method"], scope["path"]))
        await (super().__call__ if door is None else door)(scope, receive, send)


def door_headers(scope: Scope) -> dict[str, str]:
    """Return a request's headers, names in lower case; of one sent twice, the first.

    Example:
        >>> door_headers({"headers": [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]})
        {'a': '1', 'b': '2'}
    """
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


async def read_body(
    headers: Mapping[str, str], receive: Receive, most: int, seconds: float
) -> bytes:
    """Read a body of JSON, no further than `most` bytes and no longer than `seconds`.

    Raises:
        Refused: 415 for another type, 413 for more, 408 for later, 400 where the client has gone.
    """
    kind = headers.get("content-type", "")
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        what = f"a body of the type {kind[:60]!r}" if kind else "a body without a type"
        raise Refused(415, what, "send JSON with Content-Type: application/json")
    if (encoding := headers.get("content-encoding", "identity")) != "identity":
        raise Refused(415, f"a body encoded as {encoding[:60]!r}", "send it as it is")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 15 or int(length) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "half a body", "stay connected until the answer comes")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        what = f"{len(body)} bytes of a body after {seconds:g} seconds"
        raise Refused(408, what, "send it faster, or in parts") from None


async def send_json(send: Send, status: int, content: bytes) -> None:
    """Send an answer."""
    length = (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": status, "headers": [length, _JSON]})
    await send({"type": "http.response.body", "body": content})


def _too_large(most: int) -> Refused:
    return Refused(413, f"a body of more than {most} bytes", f"send at most {most} bytes at once")
