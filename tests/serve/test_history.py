from itertools import pairwise

import pytest

from lifelong.core.errors import CheckpointError
from lifelong.serve.history import History


def test_going_back_repeats_about_as_much_as_came_since(tmp_path):
    history = History(tmp_path)
    for offset in range(10, 3000, 10):
        history.save(offset, {"n": offset})
    assert len(history.offsets) <= 16
    for wanted in (2985, 2900, 2500, 1500, 400):
        at = history.latest(before=wanted)["n"]
        assert 0 <= wanted - at <= 2 * (2990 - wanted) + 30


def test_checkpoints_stay_in_each_part_of_the_way_from_the_floor(tmp_path):
    history = History(tmp_path)
    history.parts = 4
    for offset in range(10, 3000, 10):
        history.save(offset, {"n": offset})
        history.floor = 10 if offset < 2000 else history.offsets[1]
        held = history.offsets
        gaps = [b - a for a, b in pairwise(held)]
        assert max(gaps, default=0) <= max((held[-1] - held[0]) / 4 + 10, 20)
        assert len(held) <= 20


def test_what_was_seen_is_dropped_and_lists_last(tmp_path):
    history = History(tmp_path)
    for offset in (10, 20, 30):
        history.save(offset, {"n": offset})
    history.drop(20)
    history.done(25)
    history.discard(3, 5)
    history.discard(3, 5)
    again = History(tmp_path)
    assert again.offsets == [10]
    assert (again.is_done(25), again.is_done(24), again.ranges) == (True, False, [(3, 5)])
    assert [again.discarded(offset) for offset in (2, 3, 5, 6)] == [False, True, True, False]


def test_damaged_lists_are_named(tmp_path):
    History(tmp_path).done(1)
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"history\.json is damaged .* delete it"):
        History(tmp_path)


def test_a_file_half_written_is_swept(tmp_path):
    History(tmp_path)
    (tmp_path / "checkpoints" / ".000000000007.safetensors.x").write_bytes(b"half")
    assert History(tmp_path).offsets == []
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_erasure_names_the_first_checkpoint_gone_back_to_though_its_end_comes_late(tmp_path):
    history = History(tmp_path)
    history.owe(561, 690)
    history.went_back(500)
    history.paid()
    history = History(tmp_path)  # a process that died in between changes nothing
    history.owe(690, 712, again=True)
    history.went_back(600)
    assert history.owed == {"first": 690, "event": 712, "from": 500}
    history.paid()
    history.owe(705, 800)  # another one is its own
    history.went_back(700)
    assert history.owed["from"] == 700
