import random

import numpy as np
import pytest

from lifelong.serve.anchors import Anchors


def filled(ids, limit=20):
    anchors = Anchors(0.5, limit)
    for id in ids:
        anchors.add(int(id) % 3, id, np.full(2, float(id)), int(id) % 2, 0)
    return anchors


def test_which_rows_are_kept_does_not_depend_on_their_order():
    ids = [str(i) for i in range(300)]
    shuffled = random.Random(0).sample(ids, 300)
    for group in (0, 1, 2):
        one, other = (
            sorted(filled(order).rows(group)[0][:, 0].tolist()) for order in (ids, shuffled)
        )
        assert len(one) == 20
        assert one == other


def test_a_state_is_whole():
    anchors = filled([str(i) for i in range(50)])
    again = Anchors(0.5, 20)
    again.load_state_dict(anchors.state_dict())
    assert again.groups == [0, 1, 2]
    for group in again.groups:
        for own, other in zip(again.rows(group), anchors.rows(group), strict=True):
            assert own.tolist() == other.tolist()


def test_groups_are_bounded_and_the_newer_are_the_denser():
    anchors = Anchors(0.5, 20, most=10)
    for group in range(1000):
        anchors.add(group, str(group), np.zeros(2), 0, group)
        assert len(anchors.groups) <= 10
        assert {0, group} <= set(anchors.groups)
    assert anchors.groups[-5:] == list(range(995, 1000))
    again = Anchors(0.5, 20, most=10)
    again.load_state_dict(anchors.state_dict())
    for one in (anchors, again):
        one.add(1000, "1000", np.zeros(2), 0, 1000)
    assert again.groups == anchors.groups


@pytest.mark.parametrize(
    ("share", "limit", "most"), [(-0.1, 5, 9), (1.0, 5, 9), (0.1, 0, 9), (0.1, 5, 3)]
)
def test_senseless_settings_are_refused(share, limit, most):
    with pytest.raises(ValueError, match="it must be"):
        Anchors(share, limit, most)
