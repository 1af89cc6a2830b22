"""A client of the service, which sends again what failed on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from lifelong.core.errors import LifelongError
from lifelong.serve.ids import new_id

Features: TypeAlias = Sequence[Any]
"""One row: numbers, flat or in nested lists; arrays have `tolist`."""
_AGAIN = {408, 429, 502, 503, 504}


class ServiceError(LifelongError):
    """The service refused a request, or could not be reached.

    Attributes:
        status: of the HTTP response; None where none came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the service answered for one row: `label` is None for a model without classes."""

    id: str
    version: int
    output: list[float] | float
    label: int | None


class Client:
    """Ask a service for predictions, and tell it what was right.

    A request is sent again, with growing pauses, where no answer came or the service is busy or
    away (408, 429, 502, 503, 504). It always carries an id, so sending it twice counts once.

    Args:
        url: such as http://127.0.0.1:8000.
        key: an API key; None for a service on this machine without keys.
        timeout: seconds for one attempt.
        attempts: how often a request is sent at most.
        pause: seconds before the second attempt; each later one waits twice as long, or as long
            as the service says, with chance added, and never above 30 seconds.
        transport: of httpx, in place of the network.
        sleep: waits so many seconds.

    Raises:
        ValueError: a URL that is not http or https, or no attempt.

    Example:
        >>> def answer(request):
        ...     content = {"id": "p-1", "version": 3, "output": [0.1, 0.9], "label": 1}
        ...     return httpx.Response(200, json=content)
        >>> with Client("http://service", transport=httpx.MockTransport(answer)) as client:
        ...     client.predict([1.0, 2.0], id="p-1")
        Prediction(id='p-1', version=3, output=[0.1, 0.9], label=1)
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        attempts: int = 5,
        pause: float = 0.1,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"url {url!r}; give one that begins with http:// or https://")
        if attempts < 1:
            raise ValueError(f"{attempts} attempts; give 1 or more")
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["X-API-Key"] = key
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )
        self._attempts, self._pause, self._sleep = attempts, pause, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        x: Features,
        *,
        id: str | None = None,
        subject: str | None = None,
        task: int | None = None,
        slice: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Have one row predicted.

        Args:
            x: the row's features.
            id: for a label later; made up where it is None, and in the answer.
            subject: whose data it is, for erasure.
            task: which task the row belongs to; None if that is not known.
            slice: what groups of rows it belongs to, such as {"country": "de"}; no personal data.

        Raises:
            ServiceError: the service refused, or was not reached in any attempt.
        """
        body = {"x": _plain(x), "id": id or new_id(), "subject": subject, "task": task}
        body |= {"slice": slice} if slice else {}
        return Prediction(**self._post("/predict", body))

    def predict_rows(
        self,
        rows: Sequence[Features],
        *,
        id: str | None = None,
        subject: str | None = None,
        task: int | None = None,
        slice: Mapping[str, str] | None = None,
    ) -> list[Prediction]:
        """Have several rows predicted by one version; their ids are `id` with ".0", ".1" ...

        Raises:
            ServiceError: as `predict`.
        """
        body = {"rows": _plain(rows), "id": id or new_id(), "subject": subject, "task": task}
        body |= {"slice": slice} if slice else {}
        return [Prediction(**one) for one in self._post("/predict", body)["predictions"]]

    def label(self, prediction: str, y: float, *, id: str | None = None) -> int:
        """Say what was right for a prediction; return the offset in the log, durable by then.

        Raises:
            ServiceError: as `predict`.
        """
        body = {"prediction": prediction, "y": _plain(y), "id": id}
        return int(self._post("/labels", body)["offsets"][0])

    def example(
        self,
        x: Features,
        y: float,
        *,
        id: str | None = None,
        task: int | None = None,
        subject: str | None = None,
        slice: Mapping[str, str] | None = None,
    ) -> int:
        """Send features with their label; return the offset in the log, durable by then.

        Raises:
            ServiceError: as `predict`.
        """
        body = {"x": _plain(x), "y": _plain(y), "id": id or new_id()}
        body |= {"slice": slice} if slice else {}
        return int(
            self._post("/examples", {**body, "task": task, "subject": subject})["offsets"][0]
        )

    def versions(self) -> dict[str, Any]:
        """List the versions, and which of them are champion and challenger.

        Raises:
            ServiceError: as `predict`.
        """
        return self._send("GET", "/versions", None)

    def status(self) -> dict[str, Any]:
        """Return everything that the console shows.

        Raises:
            ServiceError: as `predict`.
        """
        return self._send("GET", "/status", None)

    def promote(self, version: int, reason: str, *, id: str | None = None) -> dict[str, Any]:
        """Have a version served.

        Raises:
            ServiceError: as `predict`, or there is no such version.
        """
        body = {"version": version, "reason": reason, "id": id or new_id()}
        return self._post("/promote", body)

    def rollback(
        self,
        reason: str,
        *,
        to: int | None = None,
        discard: bool = False,
        id: str | None = None,
    ) -> dict[str, Any]:
        """Have an earlier version served: `to`, or the one before.

        With `discard` the learner goes back to what it was then, and what came since stays out.

        Raises:
            ServiceError: as `predict`, or there is no such version.
        """
        body = {"to": to, "reason": reason, "discard": discard, "id": id or new_id()}
        return self._post("/rollback", body)

    def erase(self, subject: str, *, id: str | None = None) -> dict[str, Any]:
        """Have everything of a subject forgotten.

        Raises:
            ServiceError: as `predict`.
        """
        return self._post("/erase", {"subject": subject, "id": id or new_id()})

    def erasure(self, id: str) -> dict[str, Any]:
        """Ask for the receipt of an erasure: its state, times, counts, offsets and hashes.

        Args:
            id: as `erase` answered it, or as it was sent.

        Raises:
            ServiceError: as `predict`, or there is no such erasure.
        """
        return self._send("GET", f"/erase/{quote(id, safe='')}", None)

    def candidate(self) -> dict[str, Any]:
        """Ask what is on trial, for the newest verdict with its evidence, and what is recommended.

        Raises:
            ServiceError: as `predict`.
        """
        return self._send("GET", "/candidate", None)

    def challenge(
        self, version: int, share: float, reason: str, *, id: str | None = None
    ) -> dict[str, Any]:
        """Have a version answer a share of the users, 0 to 1.

        Raises:
            ServiceError: as `predict`, or there is no such version, or it is the champion.
        """
        body = {"version": version, "share": share, "reason": reason, "id": id or new_id()}
        return self._post("/challenge", body)

    def withdraw(self, version: int, reason: str, *, id: str | None = None) -> dict[str, Any]:
        """Have a version answer nobody, and recommend it no more.

        Raises:
            ServiceError: as `predict`, or there is no such version, or it is the champion.
        """
        return self._post("/withdraw", {"version": version, "reason": reason, "id": id or new_id()})

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send JSON to any route; where it is sent again, only its id makes that harmless.

        Raises:
            ServiceError: as `predict`.
        """
        return self._post(path, body)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("POST", path, msgspec.json.encode(body))

    def _send(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        attempt = 1
        while True:
            asked = None
            try:
                response = self._http.request(method, path, content=content)
            except httpx.TransportError as error:
                failure = ServiceError(
                    f"no answer from {self._http.base_url}{path[1:]} in {attempt} attempts: "
                    f"{error or type(error).__name__}; is the service running there?"
                )
            else:
                if response.is_success:
                    return _content(response)
                failure = _refusal(response)
                if response.status_code not in _AGAIN:
                    raise failure
                asked = response.headers.get("Retry-After")
            if attempt == self._attempts:
                raise failure
            self._sleep(self._wait(attempt, asked))
            attempt += 1

    def _wait(self, attempt: int, asked: str | None) -> float:
        seconds = self._pause * 2.0 ** (attempt - 1)
        if asked is not None and asked.isdigit():
            seconds = max(seconds, float(asked))
        # Chance, so that clients refused together do not come back together.
        return min(30.0, seconds * random.uniform(1.0, 1.5))


def _plain(value: Any) -> Any:
    """Turn arrays and tensors, also within a list, into lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _content(response: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except ValueError as error:
        what = response.text[:60]
        raise ServiceError(
            f"{response.url} answered {what!r}; that is no service of this kind",
            response.status_code,
        ) from error


def _refusal(response: httpx.Response) -> ServiceError:
    try:
        error = msgspec.json.decode(response.content)["error"]
        text = f"{error['what']}; {error['how']}"
    except (ValueError, KeyError, TypeError):
        text = response.text[:100] or "no more is known"
    return ServiceError(f"{response.status_code}: {text}", response.status_code)
