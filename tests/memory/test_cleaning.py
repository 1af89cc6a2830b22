import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lifelong.memory import REASONS, Cleaning, Memory
from lifelong.memory.cleaning import row_hash

OFF = {"copies": False}


def rows(x, y, task=None):
    y = torch.tensor(y)
    task = torch.zeros_like(y) if task is None else torch.tensor(task)
    return {"x": torch.as_tensor(x), "y": y, "task": task}


def judged(cleaning, columns, memory, **known):
    return [REASONS[code] for code in cleaning.judge(columns, memory, **known).tolist()]


def filled(cleaning, columns, features=None):
    memory = Memory(len(columns["y"]))
    more = cleaning.columns(columns, features)
    memory.add({**columns, **more}, None, torch.Generator())
    return memory


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_copies_are_found_in_the_batch_and_in_the_memory(values):
    held = rows(torch.tensor([[0.0, 1.0], [2.0, 2.0]]), [0, 0])
    memory = filled(Cleaning(), held)
    seen, expected = {(0, 1), (2, 2)}, []
    for value in values:
        expected.append("copy" if value in seen else "kept")
        seen.add(value)
    columns = rows(torch.tensor(values).float(), [0] * len(values))
    assert judged(Cleaning(), columns, memory) == expected


def test_hashes_of_rows_that_differ_differ():
    bits = torch.eye(24, dtype=torch.uint8).repeat(1, 2) * 128  # in the top bits of two words
    found = row_hash({"x": torch.cat((bits, bits.flip(1), torch.zeros(1, 48, dtype=torch.uint8)))})
    assert len(found.unique()) == len(torch.cat((bits, bits.flip(1))).unique(dim=0)) + 1
    pairs = torch.cartesian_prod(torch.arange(200), torch.arange(200))
    assert len(row_hash({"x": pairs}).unique()) == 40_000
    assert len(row_hash({"x": (pairs % 256).to(torch.uint8)}).unique()) == 40_000


def test_hashes_see_every_named_input_and_nothing_else():
    columns = {"x/a": torch.tensor([[1.0], [1.0]]), "x/b": torch.tensor([3, 4]), "y": torch.ones(2)}
    one, other = row_hash(columns).tolist()
    assert one != other
    assert row_hash({**columns, "y": torch.zeros(2)}).tolist() == [one, other]
    swapped = {"x/a": columns["x/b"].float()[:, None], "x/b": columns["x/a"].long().flatten()}
    assert not set(row_hash(swapped).tolist()) & {one, other}


def test_near_copies_are_those_of_a_greater_cosine():
    cleaning, chance = Cleaning(near=0.9, **OFF), torch.Generator().manual_seed(0)
    old, new = torch.randn(20, 3, generator=chance), torch.randn(30, 3, generator=chance)
    memory = filled(cleaning, rows(old, [0] * 20), old)
    both = torch.cat((old, new))
    cosine = F.cosine_similarity(both[:, None], both[None], dim=2)
    cosine = cosine[20:].tril(19)
    assert (cosine - 0.9).abs().min() > 2e-3  # none so near to the edge that 16 bits matter
    expected = ["near copy" if row.max() > 0.9 else "kept" for row in cosine]
    assert judged(cleaning, rows(new, [0] * 30), memory, features=new) == expected
    assert {"near copy", "kept"} == set(expected)


def test_neighbours_outvote_a_label_only_where_it_is_known():
    cleaning = Cleaning(neighbours=3, **OFF)
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 1.7])
    features = torch.stack((angles.cos(), angles.sin()), 1)
    memory = filled(cleaning, rows(features, [0, 0, 0, 1, 1, 1]), features)
    asked = torch.tensor([[1.0, 0.05], [1.0, 0.05], [0.0, 1.0], [1.0, 0.05]])
    found = judged(cleaning, rows(asked, [0, 1, 1, 2]), memory, features=asked)
    assert found == ["kept", "neighbours", "kept", "kept"]  # class 2 is new
    assert judged(cleaning, rows(asked, [0, 1, 1, 2]), Memory(9), features=asked) == ["kept"] * 4


@pytest.mark.parametrize(("share", "kept"), [(1.0, 5), (0.8, 4), (0.5, 3), (0.01, 1)])
def test_a_share_of_the_smallest_losses_is_kept(share, kept):
    losses = torch.tensor([0.5, 3.0, 0.1, 9.0, 1.0])
    columns = rows(torch.zeros(5, 1), [0] * 5)
    reason = Cleaning(small_loss=share, **OFF).judge(columns, Memory(9), losses=losses)
    assert set(losses[reason == 0].tolist()) == set(losses.sort().values[:kept].tolist())
    assert set(reason.tolist()) <= {0, REASONS.index("high loss")}


def test_quotas_count_rows_held_and_earlier_ones_of_the_batch():
    cleaning = Cleaning(per_class=2, per_task=4)
    memory = filled(cleaning, rows(torch.tensor([[1.0], [2.0]]), [0, 1], [7, 7]))
    columns = rows(
        torch.tensor([[1.0], [3.0], [4.0], [5.0], [6.0], [7.0]]), [0, 0, 0, 2, 3, 4], [7] * 5 + [8]
    )
    expected = ["copy", "kept", "class quota", "kept", "task quota", "kept"]
    assert judged(cleaning, columns, memory) == expected


def test_wrong_use_is_refused():
    for wrong in ({"near": 0}, {"small_loss": 1.5}, {"neighbours": 0}, {"per_class": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Cleaning(**wrong)
    columns = rows(torch.zeros(2, 1), [0, 0])
    with pytest.raises(ValueError, match="give those of the rows"):
        Cleaning(near=0.5).judge(columns, Memory(2))
    with pytest.raises(ValueError, match="give those of the rows"):
        Cleaning(small_loss=0.5).judge(columns, Memory(2))
