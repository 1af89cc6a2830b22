"""Decisions that a crash cuts short are completed, once, and never done twice."""

import asyncio
import json
import shutil

import httpx
import pytest
import torch
from test_service import CONFIG, MODEL

from lifelong.core.errors import LogError, RegistryError
from lifelong.serve.api import Api
from lifelong.serve.config import Config
from lifelong.serve.intent import FILE, Intent
from lifelong.serve.registry import served
from lifelong.serve.startup import prepare


class Killed(BaseException):
    """Stands for the end of the process: nothing that follows is done."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A service's folder in which version 4 is served, after 1, 2 and 3; not to be changed."""
    tmp_path = tmp_path_factory.mktemp("whole")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "service.yaml").write_text(CONFIG.replace("PORT", "0"))
    config = Config.read(tmp_path / "service.yaml")
    prepare(config)
    api = Api(config)
    weights = api.registry.load_weights(1)
    for n in (2, 3, 4):
        other = {name: value + n for name, value in weights.items() if torch.is_tensor(value)}
        api.registry.register(
            {**weights, **other}, None, parent=n - 1, first_offset=1, last_offset=0, metrics={},
            id=f"v{n}",
        )  # fmt: skip
    for n in (2, 3, 4):
        api.deployment.serve("promote", n, "better", "test")
    api.close()
    return tmp_path


@pytest.fixture
def config(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return Config.read(tmp_path / "copy" / "service.yaml")


def ask(api, *asked):
    """Send requests to an api, one after the other, and return the answers."""

    async def send():
        transport = httpx.ASGITransport(api.app(), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.post(path, json=body) for path, body in asked]

    return asyncio.run(send())


def dies(api, what, path, body, monkeypatch):
    """Have the process end where `what` is called next."""

    def end(*_, **__):
        raise Killed

    monkeypatch.setattr(*what, end)
    monkeypatch.setattr(api.intent, "end", end)
    with pytest.raises((Killed, BaseExceptionGroup)):
        ask(api, (path, body))
    monkeypatch.undo()
    api.close()


def decisions(api):
    return [(e.id, e.data["action"], e.data["version"]) for e in api.log.of_kinds("decision")]


@pytest.mark.parametrize("place", ["the audit", "the log", "the end"])
def test_a_rollback_that_was_cut_short_goes_back_once(config, monkeypatch, place):
    api = Api(config)
    body = {"reason": "worse", "id": "back"}
    what = {
        "the audit": (api.audit, "append"),
        "the log": (api.appender, "send"),
        "the end": (api.intent, "end"),
    }[place]
    dies(api, what, "/rollback", body, monkeypatch)
    assert served(config.folder)["champion"] == 3
    again = Api(config)  # completes it
    assert decisions(again) == [("decision:back", "rollback", 3)]
    assert not (config.folder / FILE).exists()
    assert again.deployment.holder.current.version == 3
    further = {"reason": "worse still", "id": "further"}
    answers = ask(again, ("/rollback", body), ("/rollback", further), ("/rollback", body))
    assert [answer.json()["version"] for answer in answers] == [3, 2, 3]
    assert served(config.folder)["champion"] == 2
    again.close()


def test_what_was_begun_is_done_though_nothing_had_moved(config, monkeypatch):
    api = Api(config)
    dies(api, (api.registry, "set_alias"), "/rollback", {"reason": "r", "id": "b"}, monkeypatch)
    again = Api(config)
    assert served(config.folder)["champion"] == 3
    [answer] = ask(again, ("/rollback", {"reason": "r", "id": "b"}))
    assert answer.json()["version"] == 3
    assert served(config.folder)["champion"] == 3
    again.close()


def test_a_log_that_fails_has_the_next_decision_complete_the_one_before(config, monkeypatch):
    api = Api(config)

    tried = []

    def fails_once(events, append=api.log.append_each):
        tried.extend(events)
        if len(tried) == 1:
            raise LogError("the disk is full")
        return append(events)

    monkeypatch.setattr(api.log, "append_each", fails_once)
    bodies = ({"reason": "worse", "id": id} for id in ("first", "second"))
    first, second = ask(api, *(("/rollback", body) for body in bodies))
    assert (first.status_code, second.json()["version"]) == (503, 2)
    api.close()
    again = Api(config)
    assert [one[0] for one in decisions(again)] == ["decision:first", "decision:second"]
    again.close()


def test_a_refused_decision_is_not_done_later(config):
    api = Api(config)
    (config.folder / "versions" / "2" / "weights.safetensors").write_bytes(b"damaged")
    [answer] = ask(api, ("/rollback", {"to": 2, "reason": "r", "id": "x"}))
    assert answer.status_code == 409
    assert not (config.folder / FILE).exists()
    assert decisions(api) == []
    api.close()


def test_a_discard_is_completed_too(config, monkeypatch):
    api = Api(config)
    body = {"to": 2, "reason": "wrong labels", "discard": True, "id": "d"}
    dies(api, (api.appender, "send"), "/rollback", body, monkeypatch)
    again = Api(config)
    [event] = again.log.of_kinds("decision")
    assert event.data["discard_after"] == 0
    assert (config.folder / "barred.json").exists()
    again.close()


def test_a_damaged_intent_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"id": "decision:x"}')
    with pytest.raises(RegistryError, match="delete the file"):
        Intent(tmp_path).pending()
    (tmp_path / FILE).write_text(json.dumps([1]))
    with pytest.raises(RegistryError, match="cannot read"):
        Intent(tmp_path).pending()
