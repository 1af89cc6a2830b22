"""A second erasure of one person claims no more than the first could do."""

import pytest
from small_service import examples
from test_intent import ask, config, whole  # noqa: F401

from lifelong.serve.api import Api


@pytest.fixture
def api(config):  # noqa: F811
    api = Api(config)
    yield api
    api.close()


def erasure(id):
    return "/erase", {"subject": "ann", "id": id}


def test_what_was_trimmed_before_the_first_erasure_keeps_the_second_from_being_exact(api):
    api.log.append([*examples(4, seed=1, subject="ann"), *examples(6, seed=2, subject="bob")])
    api.log.trim(4)
    api.log.append(examples(3, seed=3, subject="ann"))
    first, second, again, bob = ask(
        api, erasure("x"), erasure("y"), erasure("x"), ("/erase", {"subject": "bob", "id": "z"})
    )
    assert (first.json()["exact"], first.json()["trimmed"]) == (False, 3)
    assert (second.json()["exact"], second.json()["trimmed"]) == (False, 3)
    assert again.json() == first.json()
    assert bob.json()["exact"] is True
    assert api.receipts.get(second.json()["offset"])["exact"] is False


def test_what_is_marked_as_trimmed_and_still_there_is_not_exact(api):
    api.log.append(examples(4, seed=1, subject="ann"))
    api.log.mark(3)
    [answer] = ask(api, erasure("x"))
    assert (answer.json()["exact"], answer.json()["trimmed"]) == (False, 3)
    event = api.log.find("erasure:x")
    assert (event.data["first"], len(event.data["forget"])) == (1, 3)


def test_a_bare_rollback_does_not_lead_to_what_has_learned_nothing(api):
    weights = api.registry.load_weights(1)
    facts = {"first_offset": 1, "metrics": {}, "last_offset": 0}
    for n in (2, 3, 4):
        api.registry.register(weights, None, parent=1, id=f"v-{n}", **facts)
    api.registry.retire(2, "erasure")
    promote = [("/promote", {"version": n, "reason": "x", "id": f"p-{n}"}) for n in (3, 4)]
    back = [("/rollback", {"reason": "x", "id": f"r-{n}"}) for n in range(3)]
    named = ("/rollback", {"reason": "x", "to": 1, "id": "r-named"})
    *_, first, _, last, served = ask(api, *promote, *back, named)
    assert (first.status_code, first.json()["version"]) == (200, 3)
    assert last.status_code == 409  # whatever stood between, that is the first version
    assert "version 1, which has learned nothing; send {" in last.json()["error"]["what"]
    assert (served.status_code, served.json()["version"]) == (200, 1)
