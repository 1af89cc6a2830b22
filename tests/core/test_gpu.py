"""What a learner promises on a GPU beyond what it promises everywhere."""

import pytest
import torch
from small_learners import batches, growing, learner, net
from torch.optim import SGD

from lifelong import EWC, MAS, SI, Batch, DERpp, Learner, LwF, Replay
from lifelong.checks.states import difference
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, LifelongError
from lifelong.core.task import TaskSpec
from lifelong.nets import Augment, Classifier, Pixels, ResNet18

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STRATEGIES = {
    "none": lambda device: [],
    "ewc": lambda device: [EWC(1.0)],
    "si": lambda device: [SI(0.1)],
    "mas": lambda device: [MAS(0.1)],
    "lwf": lambda device: [LwF(1.0)],
    "replay": lambda device: [Replay(20, device=device)],
    "der++": lambda device: [DERpp(20, device=device)],
    "ewc + replay + lwf": lambda device: [EWC(1.0), Replay(20, device=device), LwF(1.0)],
}


def on_gpu(given):
    return [batch.to(torch.device("cuda")) for batch in given]


def taught(strategies, **settings):
    made = learner(net(dropout=0.0), strategies, device="cuda", **settings)
    made.begin_task(0)
    for batch in on_gpu(batches(4)):
        made.observe(batch)
    made.end_task(on_gpu(batches(4)))
    made.begin_task(1)
    return made


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_never_makes_the_host_wait_for_the_device(name):
    made, given = taught(STRATEGIES[name]("cuda")), on_gpu(batches(4, task=1))
    made.observe(given[0])  # what is made once may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in given[1:]:
            made.observe(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_state_goes_from_one_device_to_the_other_and_back(name, tmp_path):
    made = taught(STRATEGIES[name]("cuda"))
    made.save(tmp_path / "gpu.safetensors")
    there = net(1, dropout=0.0)
    moved = Learner.load(
        tmp_path / "gpu.safetensors",
        there,
        SGD(there.parameters(), 0.1, momentum=0.9),
        STRATEGIES[name]("cpu"),
    )
    assert difference(moved.state_dict()["model"], made.state_dict()["model"]) is None
    for batch in batches(3, seed=3, task=1):
        moved.observe(batch)
        made.observe(batch)
    x = batches(1)[0].x
    torch.testing.assert_close(moved.predict(x), made.predict(x).cpu(), rtol=1e-3, atol=1e-4)
    moved.save(tmp_path / "cpu.safetensors")
    back = net(2, dropout=0.0)
    again = Learner.load(
        tmp_path / "cpu.safetensors",
        back.cuda(),
        SGD(back.parameters(), 0.1, momentum=0.9),
        STRATEGIES[name]("cuda"),
    )
    again.observe(batches(1, task=1)[0])


@pytest.mark.parametrize("label", [-1, 4, 99])
def test_a_label_outside_is_refused_and_the_device_goes_on(label):
    made = taught([EWC(1.0), Replay(20, device="cuda")])
    before, given = made.state_dict(), on_gpu(batches(1, task=1))[0]
    given.y[3] = label
    with pytest.raises(LabelOutsideHead, match=str(label)):
        made.observe(given)
    assert difference(made.state_dict(), before) is None
    made.observe(on_gpu(batches(1, task=1))[0])


def test_what_is_not_finite_is_refused_by_its_rows():
    made = taught([Replay(20)])
    before, given = made.state_dict(), on_gpu(batches(1, task=1))[0]
    given.x[5, 2] = torch.inf
    with pytest.raises(InvalidBatch, match=r"x holds NaN or infinity in 1 of 8 rows \(5\)"):
        made.observe(given)
    assert difference(made.state_dict(), before) is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_half_precision_learns(name, precision):
    made = taught(STRATEGIES[name]("cuda"), precision=precision)
    given = on_gpu(batches(2, task=1))
    losses = [float(made.observe(given[step % 2])) for step in range(60)]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    assert all(parameter.isfinite().all() for parameter in made.model.parameters())
    assert made.predict(given[0].x).isfinite().all()


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale():
    made = taught([], precision="fp16")
    scale, steps = made._scaler.get_scale(), made.steps
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    good = on_gpu(batches(1, task=1))[0]
    made.observe(Batch.of(good.x * 3e3, good.y, 1))
    if made._scaler.get_scale() < scale:
        assert made.steps == steps
        assert all(torch.equal(value, before[n]) for n, value in made.model.named_parameters())
    for _ in range(30):
        made.observe(good)
    assert made.steps > steps


def test_a_compiled_learner_learns_what_the_plain_one_does():
    plain, compiled = taught([EWC(1.0)]), taught([EWC(1.0)], compile=True)
    for batch in on_gpu(batches(5, seed=4, task=1)):
        torch.testing.assert_close(
            compiled.observe(batch), plain.observe(batch), rtol=1e-3, atol=1e-4
        )


def test_a_growing_head_grows_on_the_device():
    made = learner(growing(), [LwF(1.0), Replay(20)], device="cuda", compile=True)
    for id, classes in enumerate([(0, 1), (2, 3)]):
        made.begin_task(TaskSpec(id, classes))
        for batch in batches(3, classes=2 * id + 2, task=id):
            made.observe(batch)
        made.end_task(batches(2, classes=2 * id + 2, task=id))
    assert made.predict(batches(1)[0].x).shape == (8, 4)
    assert {tensor.device.type for tensor in made.model.state_dict().values()} == {"cuda"}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resnet_that_augments_resumes_bit_for_bit(compiled, device, tmp_path):
    if device == "cpu":
        return

    def made(seed):
        torch.manual_seed(seed)
        backbone = ResNet18(3, 8)
        model = Classifier(
            backbone,
            torch.nn.Linear(backbone.features, 4),
            torch.nn.Sequential(Augment(), Pixels()),
        ).cuda()
        return model, SGD(model.parameters(), 0.05), [DERpp(20, device="cuda"), SI(0.1)]

    chance = torch.Generator().manual_seed(0)
    given = [
        Batch.of(
            torch.randint(256, (8, 3, 32, 32), generator=chance, dtype=torch.uint8),
            torch.randint(4, (8,), generator=chance),
        )
        for _ in range(6)
    ]
    straight = Learner(*made(0), compile=compiled)
    straight.begin_task(0)
    for batch in given[:3]:
        straight.observe(batch)
    straight.save(tmp_path / "middle.safetensors")
    resumed = Learner.load(tmp_path / "middle.safetensors", *made(1), compile=compiled)
    for batch in given[3:]:
        straight.observe(batch)
        resumed.observe(batch)
    assert difference(resumed.state_dict(), straight.state_dict()) is None


def test_a_batch_on_another_device_is_refused():
    made = learner(net())
    made.begin_task(0)
    with pytest.raises(LifelongError, match="a batch on cuda:0, the learner is on cpu; move it"):
        made.observe(on_gpu(batches(1))[0])
