import json

from lifelong.serve.bounds import Bounds
from lifelong.serve.comparison import Comparison, Evidence
from lifelong.serve.gate import Gate
from lifelong.serve.sequential import PairedTest


def judgement(lost):
    evidence = Evidence(
        anchors={0: Comparison(1000, 950, 950 - lost, lost)},
        recent=Comparison(2000, 1700, 1790, lost=30),
        shadow=PairedTest.counted(3000, worse=90, better=180),
    )
    return Gate(0.05, standard="observed").judge(evidence)


def test_promotions_are_counted_over_an_hour_and_restarts(tmp_path):
    path, now = tmp_path / "promotions.json", [0.0]

    def bounds():
        return Bounds(path, hourly=2, now=lambda: now[0])

    for version in (2, 3):
        assert bounds().broken(version, judgement(0)) == []
        bounds().promotes(version)
        bounds().promotes(version)  # asked for again
    [told] = bounds().broken(4, judgement(0))
    assert told == "there were 2 automatic promotions in the last hour already"
    assert not bounds().full(3)  # it is counted, and may go on
    now[0] = 3601.0
    assert not bounds().full(4)


def test_what_is_close_to_forgetting_is_not_promoted_by_itself(tmp_path):
    bounds = Bounds(tmp_path / "promotions.json", distance=0.03)
    assert bounds.broken(2, judgement(20)) == []  # the drop is 0.02, as much as may be
    [told] = bounds.broken(2, judgement(30))
    assert (
        told == "task 0: the drop is 0.0300, above the 0.0200 that is promoted without being asked"
    )


def test_a_damaged_count_is_taken_as_full_for_an_hour(tmp_path):
    path, now = tmp_path / "promotions.json", [0.0]
    path.write_text("[")
    bounds = Bounds(path, hourly=2, now=lambda: now[0])
    assert bounds.full(2)
    assert len(json.loads(path.read_text())) == 2
    now[0] = 3601.0
    assert not bounds.full(2)
