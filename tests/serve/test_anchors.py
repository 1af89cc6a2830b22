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


@pytest.mark.parametrize(("share", "limit"), [(-0.1, 5), (1.0, 5), (0.1, 0)])
def test_senseless_settings_are_refused(share, limit):
    with pytest.raises(ValueError, match="it must be"):
        Anchors(share, limit)
