import asyncio
import threading

import httpx
import numpy as np
import pytest
from fakes import FakeLog, connect, parts, row

from lifelong.core.errors import LifelongError
from lifelong.serve.client import Client, ServiceError


class Loopback(httpx.BaseTransport):
    """Carry a client's requests into an app, and lose answers when told."""

    def __init__(self, log, lose=0, **settings):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.app = connect(parts(log, **settings))
        self.lose = lose

    def handle_request(self, request):
        sent = self.app.request(
            request.method, request.url.path, content=request.content, headers=request.headers
        )
        response = asyncio.run_coroutine_threadsafe(sent, self.loop).result(10)
        if self.lose:
            self.lose -= 1
            raise httpx.ReadError("connection reset", request=request)
        headers = dict(response.headers)
        return httpx.Response(response.status_code, headers=headers, content=response.content)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def client(log, key, **settings):
    waits = []
    made = Client("http://localhost", key, transport=Loopback(log, **settings), sleep=waits.append)
    made.waits = waits
    return made


def test_everything_that_a_user_of_the_service_does():
    log = FakeLog()
    with client(log, "predict") as user:
        one = user.predict(row(1), subject="user-7", task=2)
        two, three = user.predict_rows(np.ones((2, 4), np.float32), id="r")
    assert (one.version, one.output, one.label) == (1, [1.0] * 3, 0)
    assert [two.id, three.id] == ["r.0", "r.1"]
    with client(log, "learn") as user:
        assert user.label(one.id, 2) == 4
        assert user.label(one.id, 2) == 4
        assert user.example(np.zeros(4), np.int64(1), subject="user-7") == 5
    with client(log, "operate") as user:
        assert user.promote(3, "better")["version"] == 3
        assert user.versions()["champion"] == 3
        assert user.rollback("worse", to=1)["version"] == 1
        assert user.erase("user-7")["offset"] == 8
    assert [event.kind for event in log.events] == [
        *["prediction"] * 3,
        "label",
        "example",
        *["decision"] * 2,
        *["erasure"] * 2,
    ]
    assert log.events[0].subject == "user-7"
    assert log.events[0].task == 2
    assert log.events[0].source == "predict"


def test_sending_again_after_a_lost_answer_counts_once():
    log = FakeLog()
    with client(log, "learn", lose=3) as user:
        offset = user.example(row(), 1)
        assert len(user.waits) == 3
    with client(log, "operate", lose=1) as user:
        user.promote(5, "better")
    assert offset == 1
    assert [event.kind for event in log.events] == ["example", "decision"]


def refusing(*responses):
    left = list(responses)

    def answer(request):
        response = left.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    waits = []
    made = Client("http://s", transport=httpx.MockTransport(answer), sleep=waits.append)
    return made, waits


OK = {"id": "p", "version": 1, "output": [0.5], "label": 0}


def test_pauses_grow_and_heed_the_service():
    busy = httpx.Response(429, headers={"Retry-After": "7"}, json={})
    sick = [httpx.Response(503), httpx.ConnectError("refused"), httpx.Response(502), busy]
    user, waits = refusing(*sick, httpx.Response(200, json=OK))
    assert user.predict([1.0]).version == 1
    for wait, least in zip(waits, [0.1, 0.2, 0.4, 7.0], strict=True):
        assert least <= wait <= 1.5 * least


@pytest.mark.parametrize("last", [httpx.ConnectError("refused"), httpx.Response(503)])
def test_it_gives_up_after_the_last_attempt(last):
    user, waits = refusing(*[httpx.Response(429)] * 4, last)
    with pytest.raises(ServiceError) as caught:
        user.predict([1.0])
    assert len(waits) == 4
    assert caught.value.status == getattr(last, "status_code", None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_will_not_change_is_not_sent_again(status):
    error = {"error": {"what": "x: 3 numbers", "how": "send 4"}}
    user, waits = refusing(httpx.Response(status, json=error))
    with pytest.raises(LifelongError, match=f"{status}: x: 3 numbers; send 4"):
        user.predict([1.0])
    assert waits == []


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
def test_answers_of_something_else_are_errors(body):
    user, _ = refusing(httpx.Response(200, content=body))
    with pytest.raises(ServiceError, match="no service of this kind"):
        user.versions()
    user, _ = refusing(httpx.Response(404, content=body))
    with pytest.raises(ServiceError, match="404"):
        user.versions()


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="http"):
        Client("localhost:8000")
    with pytest.raises(ValueError, match="attempts"):
        Client("http://localhost", attempts=0)
