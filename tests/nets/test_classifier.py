import pytest
import torch
from torch import nn

from lifelong.core.forward import forward, wants_task
from lifelong.core.task import Growing, TaskSpec
from lifelong.nets import (
    MLP,
    Augment,
    Classifier,
    CosineHead,
    GrowingHead,
    MultiHead,
    Pixels,
    SmallCNN,
    TaskClassifier,
)


def test_a_classifier_is_front_backbone_and_head_in_a_row():
    backbone, head, front = MLP(4, hidden=(8,)), nn.Linear(8, 3), Pixels()
    net = Classifier(backbone, head, front)
    x = torch.randint(0, 256, (5, 4), dtype=torch.uint8)
    assert torch.equal(net.embed(x), backbone(front(x)))
    assert torch.equal(net(x), head(backbone(front(x))))


@pytest.mark.parametrize("head", [nn.Linear(8, 2), GrowingHead(8), CosineHead(8)])
def test_a_classifier_wants_the_task_only_if_its_head_does(head):
    assert not wants_task(Classifier(MLP(4, hidden=(8,)), head))
    with pytest.raises(ValueError, match="put it into a Classifier"):
        TaskClassifier(MLP(4, hidden=(8,)), head)


def test_a_task_classifier_passes_the_task_on():
    net = TaskClassifier(MLP(4, hidden=(8,)), MultiHead(8))
    assert wants_task(net)
    with pytest.raises(ValueError, match="put it into a TaskClassifier"):
        Classifier(net.backbone, net.head)
    for id in (0, 1):
        net.head.grow(TaskSpec(id, (2 * id, 2 * id + 1)))
    x, task = torch.randn(3, 4), torch.tensor([0, 1, -1])
    assert torch.equal(forward(net, x, task), net.head(net.backbone(x), task))
    assert torch.equal(net(x), net.head(net.backbone(x)))


def test_widths_that_do_not_fit_are_refused():
    for head in (GrowingHead(9), nn.Linear(9, 2)):
        with pytest.raises(ValueError, match="makes 8 features and the head takes 9"):
            Classifier(MLP(4, hidden=(8,)), head)


def test_only_the_head_grows_so_nothing_grows_twice():
    net = Classifier(MLP(4, hidden=(8,)), GrowingHead(8))
    assert [module for module in net.modules() if isinstance(module, Growing)] == [net.head]


@pytest.mark.parametrize("made", [GrowingHead, CosineHead, MultiHead])
def test_bytes_are_learned_from_in_bf16(made):
    torch.manual_seed(0)
    front = nn.Sequential(Augment(pad=1), Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
    whole = TaskClassifier if made is MultiHead else Classifier
    net = whole(SmallCNN(3, 8, widths=(4,), hidden=16), made(16), front)
    net.head.grow(TaskSpec(0, (0, 1)))
    x = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    y = torch.arange(16) % 2
    with torch.autocast("cpu", torch.bfloat16):
        out = forward(net, x, torch.zeros_like(y) if wants_task(net) else None)
    nn.functional.cross_entropy(out.float(), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
