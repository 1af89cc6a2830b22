import random
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_strategies import BROKEN, Plain
from torch.nn.functional import cross_entropy

from lifelong import (
    AGEM,
    DER,
    DGR,
    EEIL,
    ERACE,
    EWC,
    GEM,
    GPM,
    L2,
    MAS,
    MIR,
    OGD,
    SI,
    WA,
    XDER,
    Adaptive,
    Analytic,
    BiC,
    ClassBalanced,
    ClassRatio,
    CleanReplay,
    DERpp,
    Exemplars,
    FeatureDistillation,
    FeatureReplay,
    Feedback,
    GDumb,
    ICaRL,
    Learner,
    LwF,
    MeanTeacher,
    MeRGAN,
    PooledDistillation,
    Prioritized,
    Replay,
    Rising,
    Sleep,
    Steady,
    Strategy,
)
from lifelong.checks import CHECKS, CheckFailed, OnNetwork, check_strategy, on_device
from lifelong.checks.settings import ALONE, SETTINGS, events_of, play, small_tasks
from lifelong.checks.states import difference, odd_part, size, trace
from lifelong.core.errors import InvalidBatch
from lifelong.nets import MLP, Classifier, GrowingHead, LDAHead, MeansHead, RidgeHead

DOCS = Path(__file__).parents[1] / "docs"


def computed(kind, trunk=False, **settings):
    """Make a network with an analytic head, behind a trunk that trains or does not."""

    def network(model):
        backbone = MLP(8, hidden=(16,)).requires_grad_(trunk)
        return Classifier(backbone, kind(16, logits=GrowingHead(16), **settings))

    return network


STRATEGIES = {
    "ewc": lambda: EWC(strength=30.0),
    "ewc online": lambda: EWC(strength=10.0, decay=0.9, fisher="true"),
    "ewc sampled": lambda: EWC(strength=10.0, fisher="sampled"),
    "l2": lambda: L2(strength=1.0),
    "si": lambda: SI(strength=1.0),
    "mas": lambda: MAS(strength=0.1),
    "lwf": lambda: LwF(strength=1.0),
    "lwf, recorded": lambda: LwF(strength=1.0, record=8),
    "replay reservoir": lambda: Replay(capacity=150),
    "replay ring": lambda: Replay(capacity=150, policy="ring"),
    "replay balanced": lambda: Replay(capacity=150, policy="balanced", by="task"),
    "replay of bytes": lambda: Replay("8KB", store="int8"),
    "exemplars herding": lambda: Exemplars(150),
    "exemplars k-center": lambda: Exemplars("6KB", select="k-center", store="fp16"),
    "prioritized": lambda: Prioritized(150),
    "prioritized by entropy": lambda: Prioritized("6KB", score="entropy", correction=0.5),
    "clean replay": lambda: CleanReplay(150, near=0.9999, neighbours=3, small_loss=0.9),
    "der": lambda: DER(capacity=150),
    "derpp": lambda: DERpp(capacity=150, policy="balanced"),
    "lwf on all rows": lambda: [Replay(100), LwF(0.3, rows="all")],
    "features": lambda: [FeatureDistillation(0.5), Replay(100)],
    "pooled": lambda: [PooledDistillation(0.5, rows="replayed"), Replay(100)],
    "mean teacher": lambda: [Replay(100), MeanTeacher(0.1, decay=0.9)],
    "adaptive by schedule": lambda: Adaptive(EWC(30.0), schedule=Rising(over=8, start=0.5)),
    "adaptive by feedback": lambda: Adaptive(
        EWC(30.0), feedback=Feedback(share=0.2, every=4, capacity=60, bound=3.0)
    ),
    "sleep": lambda: Sleep(100, steps=10, rows=16, prune=0.3),
    "replay now and then": lambda: Replay(capacity=150, every=2),
    "er-ace": lambda: ERACE(capacity=150),
    "mir": lambda: MIR(capacity=150, candidates=2, lr=0.2),
    "icarl": lambda: ICaRL(capacity=150),
    "gdumb": lambda: GDumb(capacity=150, epochs=8, lr=0.1),
    "x-der": lambda: XDER(capacity=150),
    "steady": lambda: Steady("16KB"),
    "eeil": lambda: EEIL(capacity=150, epochs=2),
    "bic": lambda: BiC(capacity=150),
    "wa": lambda: [Replay(capacity=150), WA()],
    "class-balanced": lambda: [Replay(capacity=150), ClassBalanced()],
    "analytic means": OnNetwork(Analytic, computed(MeansHead)),
    "analytic lda": OnNetwork(Analytic, computed(LDAHead)),
    "analytic ridge, warm": OnNetwork(
        lambda: Analytic(warm=True), computed(RidgeHead, trunk=True, width=40)
    ),
    "gem": lambda: GEM(capacity=150, rows=40),
    "a-gem": lambda: AGEM(capacity=150, rows=40),
    "ogd": lambda: OGD(directions=60),
    "gpm": lambda: GPM(threshold=0.7),
    "dgr": lambda: DGR(width=32, lr=0.01, strict=False),
    "dgr when it has to": lambda: DGR(width=16, strict=False, tolerance=0.05, every=3, held=60),
    "mergan": lambda: MeRGAN("alignment", width=32, lr=2e-3, strict=False),
    "feature replay": lambda: FeatureReplay(covariance="shared"),
}

TOGETHER = {
    "ewc + replay + lwf": lambda: [EWC(10.0), Replay(24), LwF()],
    "si + der": lambda: [SI(), DER(24)],
    "replay + derpp": lambda: [Replay(24), DERpp(24)],
    "exemplars + der": lambda: [Exemplars(24), DER(24)],
    "prioritized + exemplars": lambda: [Prioritized(24), Exemplars(24)],
    "clean replay + prioritized": lambda: [CleanReplay(24, per_class=9), Prioritized(24)],
    "derpp + replay": lambda: [DERpp(24), Replay(24)],
    "mas + l2 + replay": lambda: [MAS(0.1), L2(0.1), Replay(24, policy="ring")],
    "lwf + si + ewc": lambda: [LwF(), SI(), EWC(10.0, decay=0.5)],
    "der + lwf": lambda: [DER(24), LwF(per_task=True)],
    "adaptive lwf + der": lambda: [
        Adaptive(LwF(), schedule=ClassRatio(), feedback=Feedback(share=0.2, every=3)),
        DER(24),
    ],
    "features + mean teacher + replay": lambda: [
        FeatureDistillation(0.5),
        MeanTeacher(rows="all"),
        Replay(24),
    ],
    "sleep + ewc + pooled": lambda: [Sleep(24, steps=3), EWC(10.0), PooledDistillation()],
    "er-ace + lwf + class-balanced + wa": lambda: [ERACE(24), LwF(), ClassBalanced(), WA()],
    "der + bic": lambda: [DER(24), BiC(24)],
    "lwf + icarl + replay": lambda: [LwF(), ICaRL(24), Replay(24)],
    "si + x-der + mir": lambda: [SI(), XDER(24), MIR(24)],
    "steady + ewc + replay": lambda: [Steady(24), EWC(10.0), Replay(24)],
    "ewc + eeil + gdumb": lambda: [EWC(1.0), EEIL(24, epochs=2), GDumb(24, epochs=2)],
    "si + gem + derpp": lambda: [SI(), GEM(24), DERpp(24)],
    "replay + ogd + gpm": lambda: [Replay(24), OGD(20), GPM(0.5)],
    "a-gem + ewc": lambda: [AGEM(24), EWC(10.0)],
    "analytic + replay + ewc": OnNetwork(
        lambda: [Analytic(warm=True), Replay(24), EWC(1.0)], computed(LDAHead, trunk=True)
    ),
    "dgr + ewc": lambda: [DGR(targets="soft", width=16, strict=False), EWC(10.0)],
    "mergan when it has to + replay": lambda: [
        MeRGAN(width=16, strict=False, tolerance=0.1, every=2),
        Replay(24),
    ],
    "replay + mergan": lambda: [Replay(24), MeRGAN(width=16, strict=False)],
    "feature replay + lwf": lambda: [FeatureReplay(), LwF()],
    "replay twice": lambda: [Replay(24), Replay(16, policy="balanced")],
}


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_a_strategy_keeps_every_promise(make, device):
    check_strategy(make, device=device)


@pytest.mark.parametrize("check", [check for check in CHECKS if check != "stays_bounded"])
def test_what_can_erase_every_row_keeps_all_promises_but_to_stay_bounded(check):
    make = OnNetwork(lambda: Analytic(erasable=True), computed(LDAHead))
    CHECKS[check](make)
    with pytest.raises(CheckFailed, match="within one more task"):
        CHECKS["stays_bounded"](make)


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_a_strategy_that_needs_the_loss_of_each_row_says_so(make):
    """A scalar loss is refused with the first batch, by the strategy's name, or never."""
    model, optimizer, made = ALONE.parts(make)
    names = [type(strategy).__name__ for strategy in made if strategy.row_losses]
    learner = Learner(model, optimizer, made, loss=lambda output, y: cross_entropy(output, y))
    begin, observe, *rest = events_of(small_tasks())
    begin(learner)
    if names:
        with pytest.raises(InvalidBatch, match=f"scalar; {names[0]} cannot do without.*mean out"):
            observe(learner)
        named = (DOCS / "quickstart.md").read_text().split("then refuse the first batch")[0]
        kind = type(getattr(made[-1], "inner", made[-1])).__name__
        assert f"`{kind}`" in named or f"`{kind}(" in named
    else:
        play(learner, [observe, *rest])


def test_replay_from_disk_keeps_every_promise(tmp_path):
    made = []

    def make():
        made.append(Replay(capacity=150, path=tmp_path / str(len(made))))
        return made[-1]

    check_strategy(make)


@pytest.mark.parametrize("make", TOGETHER.values(), ids=TOGETHER.keys())
@pytest.mark.parametrize("check", ["resumes_bit_for_bit", "undoes_a_failing_step", "forgets_rows"])
def test_strategies_keep_their_promises_together(make, check, device):
    CHECKS[check](on_device(make, device))


@pytest.mark.parametrize(("check", "make", "told"), BROKEN)
def test_a_broken_promise_is_found(check, make, told):
    with pytest.raises(CheckFailed, match=told) as failed:
        CHECKS[check](make)
    assert failed.value.check == check
    assert str(failed.value).startswith(f"{check} (")
    assert "; " in str(failed.value)


def test_every_check_is_seen_to_fail():
    assert {check for check, _, _ in BROKEN} == CHECKS.keys()


def test_a_strategy_that_does_nothing_passes_but_is_no_remedy():
    check_strategy(Plain, beats_naive=False)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"device 'tpu' cannot be used here; give one of cpu.*, or"
    ):
        check_strategy(Plain, beats_naive=False, device="tpu")


def test_an_error_of_the_strategy_itself_passes_with_a_note():
    class Bug(Strategy):
        def penalty(self, learner, batch, output):
            return output.no_such_thing

    with pytest.raises(AttributeError) as raised:
        check_strategy(Bug)
    assert raised.value.__notes__ == ["raised while checking 'keeps_plain_state'"]


@pytest.mark.parametrize(
    ("check", "make", "told"),
    [row for row in BROKEN if row[0] in ("makes_strategies", "keeps_plain_state")],
)
def test_what_would_break_other_checks_is_found_first(check, make, told):
    with pytest.raises(CheckFailed, match=told):
        check_strategy(make)


def test_one_element_of_any_stride_is_compared():
    one = torch.tensor([7]).as_strided((1,), (0,))
    assert difference(one, torch.tensor([7])) is None
    assert difference(one, torch.tensor([8])) == "state (1 of 1 values)"


def test_checks_leave_the_global_random_state_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    CHECKS["draws_no_global_randomness"](Plain)
    CHECKS["keeps_to_itself"](Plain)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_every_check_is_described_and_every_setting_has_its_name():
    assert all(check.__doc__ for check in CHECKS.values())
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_rows_of_the_small_stream_are_all_different():
    batches = [batch for task in small_tasks(4) for batch in task.batches]
    assert torch.cat([batch.key for batch in batches]).unique().numel() == 4 * 4 * 8
    assert torch.cat([batch.x for batch in batches]).unique(dim=0).shape[0] == 4 * 4 * 8


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ({"a": 1}, {"a": 1.0}, "state/a (int, float)"),
        ({"a": 1}, {"a": 1, "b": 2}, "state (only one of them has b)"),
        ([1, [2]], [1, [3]], "state/1/0 (2, 3)"),
        ([1], [1, 2], "state (1 and 2 entries)"),
        (torch.zeros(2), torch.zeros(2, 1), "state (torch.float32 (2,), torch.float32 (2, 1))"),
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), "state (1 of 2 values)"),
        (torch.tensor(float("nan")), torch.tensor(float("nan")), None),
        ({"a": [float("nan"), None]}, {"a": [float("nan"), None]}, None),
        (torch.zeros(0), torch.zeros(0), None),
    ],
)
def test_difference_names_the_first_place_bit_for_bit(one, other, place):
    assert difference(one, other) == place


def test_odd_parts_are_found_by_exact_type():
    assert odd_part({"a": [None, True, 1, 2.0, "x", torch.zeros(1), {"b": {3: 4}}]}) is None
    assert odd_part([1, (2,)]) == "state/1, a tuple"
    assert odd_part({"a": np.float64(1)}) == "state/a, a float64"
    assert odd_part({(1, 2): 3}) == "state, a dict with the key (1, 2)"


def test_size_counts_every_leaf():
    assert size({"a": torch.zeros(2, 3), "b": ["xyz", 1, None]}) == 24 + 3 + 8 + 8
    assert size([torch.zeros(()), torch.zeros(0)]) == 8 + 8


def test_traces_are_found_in_ids_values_and_hidden_memory():
    rows, keys = torch.rand(3, 4), torch.tensor([71, 72, 73])
    assert trace({"a": torch.rand(9), "n": 5}, keys, rows) is None
    assert trace({"a": {"n": 72}}, keys, rows) == "state/a/n is the id of a row"
    assert trace([torch.tensor([1, 73])], keys, rows) == "state/0 holds the id of a row"
    longer = torch.cat((torch.zeros(1), rows.flatten()))
    assert trace([longer[:1]], keys, rows) == "state/0 holds the values of a row"
