import pytest

from lifelong.bench.hybrids import HYBRIDS
from lifelong.bench.recipes import RECIPES, bound, make, parts, preset
from lifelong.bench.suites import resolve
from lifelong.core.errors import UnknownName


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_its_strategies_with_its_settings(name):
    hybrid = HYBRIDS[name]
    assert parts(name) == parts(hybrid.parts)
    assert len(parts(name)) > 1
    assert hybrid.settings.keys() <= set(parts(name))
    made = make(name, {})
    assert [type(one) for one in made] == [type(one) for one in make(hybrid.parts, preset(name))]
    assert name not in RECIPES
    assert bound(name) is None
    assert hybrid.when


def test_settings_given_come_before_the_hybrids_and_those_before_the_suites():
    assert resolve("digits", "ewc+replay", {})["settings"]["ewc"] == {"strength": 100.0}
    config = resolve("digits", "anchored-replay", {"replay.capacity": 50})
    assert config["settings"] == {"ewc": {"strength": 10.0}, "replay": {"capacity": 50}}
    _, replay = make("anchored-replay", config["settings"])
    assert replay.memory.capacity == 50


def test_the_hybrids_own_settings_are_not_changed_by_what_is_made_of_them():
    preset("mean-er")["replay"]["capacity"] = 7
    assert preset("mean-er") == {"replay": {"capacity": 200}}


def test_the_nearest_hybrid_is_suggested():
    with pytest.raises(UnknownName, match="did you mean 'podnet'"):
        parts("podnett")


def test_no_hybrid_takes_the_name_of_a_strategy():
    assert not HYBRIDS.keys() & RECIPES.keys()
