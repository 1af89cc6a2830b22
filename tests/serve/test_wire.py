import asyncio
import re

import pytest
import uvicorn

from lifelong.serve.wire import OnePiece, Together

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}"


class Transport:
    """Notes what is done to it."""

    def __init__(self):
        self.done = []

    def write(self, data):
        self.done.append(data)

    def close(self):
        self.done.append("closed")

    def get_extra_info(self, name):
        return f"the {name}"


def wrote(*steps):
    """Do steps with a wrapped transport inside a loop; None lets the loop go round."""

    async def main():
        transport = Transport()
        whole = Together(transport, asyncio.get_running_loop())
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            elif step == "close":
                whole.close()
            else:
                whole.write(step)
        await asyncio.sleep(0)
        return transport.done

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ([HEAD, BODY], [HEAD + BODY]),
        ([HEAD, b"", BODY], [HEAD, BODY]),
        ([HEAD, BODY, HEAD, BODY], [HEAD + BODY] * 2),
        ([HEAD, None, BODY], [HEAD, BODY]),
        ([HEAD, None, None], [HEAD]),
        ([HEAD, "close"], [HEAD, "closed"]),
        ([HEAD, BODY, "close"], [HEAD + BODY, "closed"]),
        ([b"2\r\n{}\r\n", b"0\r\n\r\n", "close"], [b"2\r\n{}\r\n", b"0\r\n\r\n", "closed"]),
    ],
)
def test_a_head_goes_out_with_what_follows_at_once_and_else_alone(steps, done):
    assert wrote(*steps) == done


def test_everything_else_is_the_connections_own():
    assert Together(Transport(), None).get_extra_info("socket") == "the socket"


def answered(requests: bytes) -> bytes:
    """Send bytes to a real server, close that side, and return all that comes back."""

    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        parts = [b"a" * 70_000, b"b" * 70_000] if scope["path"] == "/large" else [body or b"{}"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def main():
        config = uvicorn.Config(app, port=0, http=OnePiece, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(
            *server.servers[0].sockets[0].getsockname()[:2]
        )
        writer.write(requests)
        found = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        server.should_exit = True
        await serving
        return found

    return asyncio.run(main())


def request(line, *headers, body=b""):
    return "\r\n".join([line, "host: here", *headers, "", ""]).encode() + body


LAST = "connection: close"


def test_a_real_connection_has_whole_answers_in_order():
    first = request("POST /a HTTP/1.1", "content-length: 2", body=b"12")
    chunked = request("POST /b HTTP/1.1", "transfer-encoding: chunked", body=b"1\r\n3\r\n0\r\n\r\n")
    waits = request("POST /c HTTP/1.1", "content-length: 1", "expect: 100-continue", body=b"4")
    head = request("HEAD /d HTTP/1.1", LAST)
    found = answered(first + chunked + waits + head)
    assert found.count(b"HTTP/1.1 200 OK") == 4
    assert found.count(b"HTTP/1.1 100 Continue") <= 1  # a server may see the body first
    assert re.findall(rb"\r\n[12]\r\n(12|\d)\r\n0\r\n", found) == [b"12", b"3", b"4"]


def test_large_and_streamed_answers_arrive_whole():
    found = answered(request("GET /large HTTP/1.1", LAST))
    assert found.count(b"a") >= 70_000
    assert found.rstrip().endswith(b"0")
    assert found.count(b"b" * 70_000) == 1
