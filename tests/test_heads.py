"Step 5: the heads. Shapes, structure, the official module's answers, the prior, the start, and what is refused."
import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import MLP

from detr_lit.heads import DetrPredictionHeads


@pytest.fixture
def x():
    return F.layer_norm(torch.randn(2, 4, 8), (8,))


def test_contract(x):
    logits, boxes = DetrPredictionHeads(8, 3)(x)
    assert logits.shape == (2, 4, 4) and boxes.shape == (2, 4, 4)
    assert logits.dtype == boxes.dtype == torch.float32
    assert ((boxes > 0) & (boxes < 1)).all()


def test_defaults_are_the_syllabus():
    heads = DetrPredictionHeads()
    assert heads.class_head.in_features == 256 and heads.class_head.out_features == 4


def test_names_of_parameters():
    layers = ("class_head", "bbox_head.0", "bbox_head.2", "bbox_head.4")
    assert set(DetrPredictionHeads(8, 3).state_dict()) == {f"{k}.{part}" for k in layers for part in ("weight", "bias")}


def test_parameter_count_of_the_official_heads():
    by_hand = 256 * 92 + 92 + 2 * (256 * 256 + 256) + 256 * 4 + 4
    assert sum(p.numel() for p in DetrPredictionHeads(256, 91).parameters()) == by_hand == 156_256


def test_box_head_is_torchvisions_mlp(x):
    heads, mlp = DetrPredictionHeads(8, 3), MLP(8, [8, 8, 4])
    for mine, theirs in zip(heads.bbox_head[::2], [m for m in mlp if isinstance(m, torch.nn.Linear)]):
        mine.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(heads(x)[1], mlp(x).sigmoid())


def test_class_head_is_linear(x):
    heads = DetrPredictionHeads(8, 3)
    torch.testing.assert_close(heads(x)[0], x @ heads.class_head.weight.T + heads.class_head.bias)


def test_gradient_reaches_every_parameter(x):
    heads = DetrPredictionHeads(8, 3)
    start = torch.zeros(4, 4, requires_grad=True)
    logits, boxes = heads(x, start)
    (logits.square().sum() + boxes.sum()).backward()
    assert all((p.grad != 0).any() for p in heads.parameters())
    assert (start.grad != 0).all()


def test_queries_are_read_one_by_one(x):
    heads = DetrPredictionHeads(8, 3)
    for whole, one in zip(heads(x), heads(x[1:, 2:3])):
        torch.testing.assert_close(whole[1:, 2:3], one)


def test_layers_stacked_into_the_batch():
    heads, layers = DetrPredictionHeads(8, 3), torch.randn(3, 2, 4, 8)
    start = torch.randn(4, 4)
    for together, apart in zip(heads(layers.flatten(0, 1), start), zip(*(heads(layer, start) for layer in layers))):
        torch.testing.assert_close(together.unflatten(0, (3, 2)), torch.stack(apart))


def test_start_is_added_before_the_sigmoid(x):
    heads, start = DetrPredictionHeads(8, 3), torch.rand(4, 4).logit()
    torch.testing.assert_close(heads(x, start)[1], (heads(x)[1].logit() + start).sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads(x, start)[0], heads(x)[0])
    torch.nn.init.zeros_(heads.bbox_head[-1].weight)
    torch.nn.init.zeros_(heads.bbox_head[-1].bias)
    torch.testing.assert_close(heads(x, start)[1], start.sigmoid().expand(2, -1, -1))


def test_start_of_zeros_changes_nothing(x):
    heads = DetrPredictionHeads(8, 3)
    assert torch.equal(heads(x)[1], heads(x, torch.zeros(4, 4))[1])


@pytest.mark.parametrize("prior", [.01, .5, .9, .99])
@pytest.mark.parametrize("k", [1, 3, 91])
def test_prior_is_the_probability_of_no_object(prior, k):
    prob = DetrPredictionHeads(8, k, no_object_prior=prior)(torch.zeros(1, 1, 8))[0].softmax(-1)[0, 0].detach()
    assert math.isclose(prob[0].item(), prior, rel_tol=1e-4)
    torch.testing.assert_close(prob[1:], torch.full((k,), (1 - prior) / k), rtol=1e-3, atol=1e-7)


def test_prior_touches_the_class_bias_only():
    torch.manual_seed(3)
    plain = DetrPredictionHeads(8, 3).state_dict()
    torch.manual_seed(3)
    prior = DetrPredictionHeads(8, 3, no_object_prior=.9).state_dict()
    assert [k for k in plain if not torch.equal(plain[k], prior[k])] == ["class_head.bias"]


@pytest.mark.parametrize("prior", [0., 1., -.1, 1.5, math.nan])
def test_refuses_a_prior_that_is_none(prior):
    with pytest.raises(ValueError, match="no_object_prior is .*between 0 and 1"):
        DetrPredictionHeads(8, 3, no_object_prior=prior)


@pytest.mark.parametrize("k", [0, -1])
def test_refuses_no_class(k):
    with pytest.raises(ValueError, match=f"num_classes is {k}; wanted at least 1"):
        DetrPredictionHeads(8, k)


def test_before_training_every_box_is_in_the_middle():
    for seed in range(3):
        torch.manual_seed(seed)
        boxes = DetrPredictionHeads(256, 91)(F.layer_norm(torch.randn(1, 100, 256), (256,)))[1]
        assert (boxes - .5).abs().max() < .15


def test_bfloat16(x):
    logits, boxes = DetrPredictionHeads(8, 3).bfloat16()(x.bfloat16())
    assert logits.dtype == boxes.dtype == torch.bfloat16 and boxes.isfinite().all()


def test_no_queries():
    logits, boxes = DetrPredictionHeads(8, 3)(torch.zeros(2, 0, 8))
    assert logits.shape == (2, 0, 4) and boxes.shape == (2, 0, 4)
