import asyncio

import pytest

from lifelong.serve.wire import Together

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
