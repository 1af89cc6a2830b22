import asyncio
from types import SimpleNamespace

import pytest

from lifelong.core.errors import RegistryError
from lifelong.serve import unlearning
from lifelong.serve.audit import Audit
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog
from lifelong.serve.receipts import Receipts
from lifelong.serve.unlearning import Unlearning


@pytest.fixture
def made(tmp_path):
    receipts = Receipts(tmp_path / "erasures", Audit(tmp_path / "audit.jsonl"))
    registry = SimpleNamespace(get=lambda number: SimpleNamespace(last_offset=2 * number))
    with SQLiteLog(tmp_path / "log", write=True) as log:
        data = {"x": [0.0], "y": 0}
        names = ("bob", "ann", "ann", "bob")
        log.append([Event("example", f"e-{i}", 0.0, data, subject=s) for i, s in enumerate(names)])
        yield Unlearning(log, receipts, registry)


@pytest.mark.parametrize(
    "ask", [lambda m: m.first_of("ann"), lambda m: m.traces_of("ann"), lambda m: m.learned_until(1)]
)
def test_the_log_stays_as_it_is_for_a_while_after_somebody_asked(made, monkeypatch, ask):
    assert not made.held
    ask(made)
    assert made.held
    now = unlearning.time.monotonic()
    monkeypatch.setattr(unlearning.time, "monotonic", lambda: now + unlearning.HELD + 1)
    assert not made.held


def test_a_subject_is_removed_and_the_receipt_tells_of_it(made):
    assert (made.first_of("ann"), made.first_of("nobody"), made.traces_of("ann")) == (2, 5, {})
    assert asyncio.run(made.erase("ann", "key", 5, {"exact": True})) == 2
    asyncio.run(made.removed(5, 2, 6, "key"))
    assert asyncio.run(made.erased("learner rebuilt", 6, {})) == [5]
    assert asyncio.run(made.receipt(5))["state"] == "learner rebuilt"
    assert asyncio.run(made.erased("versions retired", 6, {})) == [5]
    done = asyncio.run(made.receipt(5))
    assert (done["state"], done["events"]["offsets"]) == ("done", [[2, 3]])


def test_nothing_goes_back_further_than_the_log_begins(made):
    made.log.mark(3)
    assert made.learned_until(2) == 4
    with pytest.raises(RegistryError, match="roll back without discard"):
        made.learned_until(1)
