import pytest
import torch
from torch import nn

from lifelong.nets import Attention


def made(**settings):
    torch.manual_seed(0)
    own = nn.MultiheadAttention(8, 2, batch_first=settings.pop("batch_first", True), **settings)
    nn.init.normal_(own.in_proj_bias if own.in_proj_bias is not None else own.out_proj.weight)
    return own, Attention.of(own)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 4, "vdim": 6}])
def test_it_computes_what_torch_does(settings, weights):
    own, ours = made(**settings)
    q = torch.randn(3, 5, 8)
    k = torch.randn(3, 4, settings.get("kdim", 8))
    v = torch.randn(3, 4, settings.get("vdim", 8))
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[0, 2:] = True
    causal = torch.ones(5, 4, dtype=torch.bool).triu(1)
    named = {"key_padding_mask": padding, "attn_mask": causal, "need_weights": weights}
    told, mine = own(q, k, v, **named), ours(q, k, v, **named)
    torch.testing.assert_close(mine[0], told[0])
    assert (mine[1] is None) == (told[1] is None)
    if weights:
        torch.testing.assert_close(mine[1], told[1])


def test_masks_of_each_head_and_length_first_are_as_in_torch():
    own, ours = made(batch_first=False)
    x = torch.randn(5, 3, 8)
    mask = torch.randn(3 * 2, 5, 5)
    named = {"attn_mask": mask, "average_attn_weights": False}
    for mine, told in zip(ours(x, x, x, **named), own(x, x, x, **named), strict=True):
        torch.testing.assert_close(mine, told)


def test_a_prefix_is_seen_by_every_place_and_by_none_but_through_attention():
    ours = Attention(8, 2)
    x, prefix = torch.randn(2, 3, 8), (torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    padding = torch.tensor([[False, False, True]] * 2)
    fused, _ = ours(x, x, x, padding, need_weights=False, prefix=prefix)
    slow, weights = ours(x, x, x, padding, prefix=prefix)
    torch.testing.assert_close(fused, slow)
    assert weights.shape == (2, 3, 7)
    assert (weights[..., :4] > 0).all()
    assert (weights[..., -1] == 0).all()


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="add_bias_kv"):
        Attention.of(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        Attention(8, 3)
    with pytest.raises(ValueError, match="give \\(rows, length, width\\)"):
        Attention(8, 2)(*[torch.zeros(5, 8)] * 3)
