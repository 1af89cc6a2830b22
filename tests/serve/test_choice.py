import pytest
from small_service import make_learner

from lifelong.bench import recipes
from lifelong.serve.choice import with_strategies
from lifelong.serve.weights import digest_of, weights_of


def test_strategies_are_exchanged_and_the_rest_stays():
    make = make_learner
    learner = with_strategies(make, lambda: recipes.make("si", {}))()
    assert [type(one).__name__ for one in learner.strategies] == ["SI"]
    assert digest_of(weights_of(learner)) == digest_of(weights_of(make()))
    assert learner.optimizer.param_groups[0]["lr"] == 0.1
    assert with_strategies(make, None) is make
    slow = with_strategies(make, None, lr=0.01)()
    assert [type(one).__name__ for one in slow.strategies] == ["EWC", "DERpp"]
    assert slow.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(ValueError, match=r"lr is -1"):
        with_strategies(make, None, lr=-1.0)
