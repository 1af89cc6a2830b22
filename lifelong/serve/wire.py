"""An answer goes out in one piece: its head waits for the body, which follows at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_END = b"\r\n\r\n"


class Together:
    """Pass everything on to a connection, but what ends as a head does together with what follows.

    Writing to a socket is the dearest part of a short answer, and wakes the client; head and body
    in one piece halve that. Where nothing follows at once, the head goes out by itself.

    Args:
        transport: the connection.
        loop: that it belongs to.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, now or with what follows."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(_END):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Write what waits, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OnePiece(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The server's own protocol, on connections that write head and body together."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve a connection."""
        whole = Together(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, whole))
