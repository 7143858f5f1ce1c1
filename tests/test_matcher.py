"Step 6: the matcher. Exact against brute force and the official form; empty images, layers, types; what is refused."
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from detr_lit.matcher import HungarianMatcher, check_predictions, check_targets, pairwise_giou


def corners(b):
    return box_convert(b, "cxcywh", "xyxy")


def image(m, k=3):
    return dict(labels=torch.randint(1, k + 1, (m,)), boxes=torch.rand(m, 4) * .4 + .3)


def batch(sizes, n=6, k=3):
    outputs = dict(pred_logits=torch.randn(len(sizes), n, k + 1), pred_boxes=torch.rand(len(sizes), n, 4) * .4 + .3)
    return outputs, [image(m, k) for m in sizes]


def reference_cost(logits, boxes, target, weights=(1., 5., 2.)):
    "One image's cost, pair by pair, in plain Python floats where it can be."
    p, c = logits.softmax(-1), torch.zeros(len(boxes), len(target["labels"]))
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            l1 = sum(abs(a - b) for a, b in zip(boxes[i].tolist(), target["boxes"][j].tolist()))
            giou = generalized_box_iou(corners(boxes[i:i + 1]), corners(target["boxes"][j:j + 1])).item()
            c[i, j] = -weights[0] * p[i, target["labels"][j]] + weights[1] * l1 + weights[2] * (1 - giou)
    return c


def brute_force(c):
    tries = torch.tensor(list(permutations(range(c.shape[0]), c.shape[1])), dtype=torch.long)
    return c[tries, torch.arange(c.shape[1])].sum(1).min()


# ---------------------------------------------------------------- GIoU
def test_giou_is_torchvisions():
    a, b = corners(torch.rand(3, 7, 4) * .5 + .1), corners(torch.rand(3, 5, 4) * .5 + .1)
    want = torch.stack([generalized_box_iou(x, y) for x, y in zip(a, b)])
    torch.testing.assert_close(pairwise_giou(a, b), want, atol=1e-5, rtol=1e-5)


def test_giou_of_a_box_with_itself_is_one():
    a = corners(torch.rand(2, 5, 4) * .5 + .1)
    assert torch.equal(pairwise_giou(a, a).diagonal(dim1=1, dim2=2), torch.ones(2, 5))


def test_giou_far_apart_nears_minus_one():
    a = torch.tensor([[[0., 0, .01, .01]]])
    b = torch.tensor([[[.99, .99, 1, 1]]])
    assert box_iou(a[0], b[0]) == 0 and -1 < pairwise_giou(a, b).item() < -.99


def test_giou_without_area_is_a_number():
    point, line, box = [.5, .5, .5, .5], [.2, .5, .8, .5], [.2, .2, .8, .8]
    giou = pairwise_giou(*[torch.tensor([[point, line, box]])] * 2)[0]
    assert giou.isfinite().all() and (giou >= -1).all() and giou[0, 0] == giou[1, 1] == -1 and giou[2, 2] == 1


# ---------------------------------------------------------------- cost
def test_cost_pair_by_pair():
    outputs, targets = batch([3, 3])
    labels, objects = (torch.stack([t[k] for t in targets]) for k in ("labels", "boxes"))
    for weights in [(1., 5., 2.), (2., 0., 0.), (0., 3., 0.), (0., 0., 7.)]:
        want = [reference_cost(*x, weights) for x in zip(*outputs.values(), targets)]
        got = HungarianMatcher(*weights).cost(*outputs.values(), labels, objects)
        torch.testing.assert_close(got, torch.stack(want), atol=1e-5, rtol=1e-5)


def test_defaults_are_the_syllabus():
    m = HungarianMatcher()
    assert (m.cost_class, m.cost_bbox, m.cost_giou) == (1.0, 5.0, 2.0)
    assert not list(m.parameters()) and not m.state_dict()


# ---------------------------------------------------------------- the optimum
def test_optimum_by_brute_force():
    sizes = torch.randint(0, 4, (300,)).tolist()
    outputs, targets = batch(sizes)
    for logits, boxes, t, (q, o) in zip(*outputs.values(), targets, HungarianMatcher()(outputs, targets)):
        c = reference_cost(logits, boxes, t)
        assert sorted(o.tolist()) == list(range(len(t["labels"]))) and len(set(q.tolist())) == len(q)
        torch.testing.assert_close(c[q, o].sum(), brute_force(c), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[5, 1, 0, 9], [63] * 3, [0, 0, 1], [100, 3]])
def test_same_pairs_as_the_official_form(sizes):
    "Every prediction against the objects of all images, then cut into blocks."
    outputs, targets = batch(sizes, n=100, k=91)
    labels, objects = (torch.cat([t[k] for t in targets]) for k in ("labels", "boxes"))
    prob, boxes = outputs["pred_logits"].flatten(0, 1).softmax(-1), outputs["pred_boxes"].flatten(0, 1)
    giou = generalized_box_iou(corners(boxes), corners(objects))
    c = 5 * torch.cdist(boxes, objects, p=1) - prob[:, labels] - 2 * giou
    blocks = c.view(len(sizes), 100, -1).split(sizes, -1)
    for i, (q, o) in enumerate(HungarianMatcher()(outputs, targets)):
        qo, oo = linear_sum_assignment(blocks[i][i])
        assert q.tolist() == qo.tolist() and o.tolist() == oo.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 6), st.integers(1, 4))
def test_any_size_any_order(seed, n, m, b):
    torch.manual_seed(seed)
    m = min(n, m)
    outputs, targets = batch([m] * b, n=n)
    pairs = HungarianMatcher()(outputs, targets)
    order = torch.randperm(n)
    again = HungarianMatcher()({k: v[:, order] for k, v in outputs.items()}, targets)
    for (q, o), (q2, o2) in zip(pairs, again):
        assert order[q2[o2.argsort()]].tolist() == q[o.argsort()].tolist()


def test_rectangular_toy_that_greedy_and_transposed_get_wrong():
    objects = torch.tensor([[.30, .50, .20, .40], [.54, .50, .20, .40], [.80, .30, .20, .20]])
    boxes = torch.tensor([[.10, .12, .14, .14], [.43, .50, .20, .40], [.66, .54, .26, .44], [.74, .34, .20, .24]])
    logits = torch.tensor([[2., 0, 0, 0], [0, 0, 2, 0], [0, 0, 1, 0], [1, 0, 0, 1.2]])
    target = dict(labels=torch.tensor([2, 2, 3]), boxes=objects)
    (q, o), = HungarianMatcher()(dict(pred_logits=logits[None], pred_boxes=boxes[None]), [target])
    assert q.tolist() == [1, 2, 3] and o.tolist() == [0, 1, 2]


def test_class_decides_between_equal_boxes():
    "Two queries on one spot; only their classes differ. Label 1 must read column 1."
    logits = torch.tensor([[[4., 0, 0], [0, 4, 0], [0, 0, 4]]])
    outputs = dict(pred_logits=logits, pred_boxes=torch.full((1, 3, 4), .5))
    target = dict(labels=torch.tensor([2, 1]), boxes=torch.full((2, 4), .5))
    (q, o), = HungarianMatcher()(outputs, [target])
    assert dict(zip(o.tolist(), q.tolist())) == {0: 2, 1: 1}


def test_the_spot_beats_a_stranger_without_opinion():
    "-p and not -log p: a query right on the object keeps it, however wrong its class."
    p = torch.tensor([[[.5, .5 - 1e-6, 1e-6], [.5, .25, .25]]])
    boxes = torch.tensor([[[.25, .25, .2, .2], [.8, .8, .3, .3]]])
    target = dict(labels=torch.tensor([2]), boxes=boxes[0, :1])
    (q, _), = HungarianMatcher()(dict(pred_logits=p.log(), pred_boxes=boxes), [target])
    assert q.tolist() == [0]


# ---------------------------------------------------------------- batches, layers, types
def test_layers_stacked_into_the_batch():
    layers, targets = zip(*[batch([2, 0, 4]) for _ in range(3)])
    stacked = {k: torch.cat([out[k] for out in layers]) for k in layers[0]}
    together = HungarianMatcher()(stacked, list(targets[0]) * 3)
    apart = [p for out in layers for p in HungarianMatcher()(out, targets[0])]
    assert all(torch.equal(a, b) for x, y in zip(together, apart) for a, b in zip(x, y)) and len(together) == 9


def test_another_image_never_matters():
    outputs, targets = batch([2, 5, 0])
    whole = HungarianMatcher()(outputs, targets)
    for i in range(3):
        (q, o), = HungarianMatcher()({k: v[i:i + 1] for k, v in outputs.items()}, targets[i:i + 1])
        assert torch.equal(q, whole[i][0]) and torch.equal(o, whole[i][1])


@pytest.mark.parametrize("sizes", [[0], [0, 0], [0, 1], [6, 6], [1]])
def test_sizes_and_types(sizes):
    outputs, targets = batch(sizes)
    for m, (q, o) in zip(sizes, HungarianMatcher()(outputs, targets)):
        assert q.shape == o.shape == (m,) and q.dtype == o.dtype == torch.int64
        assert q.device.type == o.device.type == "cpu"


def test_no_image():
    assert HungarianMatcher()(dict(pred_logits=torch.zeros(0, 6, 4), pred_boxes=torch.zeros(0, 6, 4)), []) == []


def test_no_gradient_and_nothing_changed():
    outputs, targets = batch([3])
    outputs = {k: v.requires_grad_() for k, v in outputs.items()}
    before = {k: v.clone() for k, v in outputs.items()}
    (q, _), = HungarianMatcher()(outputs, targets)
    assert not q.requires_grad and all(torch.equal(outputs[k], before[k]) and outputs[k].grad is None for k in outputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_cost_in_float32_whatever_comes(dtype, monkeypatch):
    outputs, targets = batch([3, 1])
    outputs = {k: v.to(dtype) for k, v in outputs.items()}
    seen, cost = [], HungarianMatcher.cost
    monkeypatch.setattr(HungarianMatcher, "cost", lambda self, *args: seen.append(cost(self, *args)) or seen[-1])
    with torch.autocast("cpu", torch.bfloat16):
        pairs = HungarianMatcher()(outputs, targets)
    assert seen[0].dtype == torch.float32
    for a, b in zip(pairs, HungarianMatcher()({k: v.float() for k, v in outputs.items()}, targets)):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_boxes_of_targets_may_be_doubles():
    outputs, targets = batch([3])
    doubles = [t | dict(boxes=t["boxes"].double()) for t in targets]
    assert torch.equal(HungarianMatcher()(outputs, targets)[0][0], HungarianMatcher()(outputs, doubles)[0][0])


def test_a_flat_prediction_on_a_tiny_object_is_matched():
    outputs = dict(pred_logits=torch.zeros(1, 2, 4), pred_boxes=torch.tensor([[[.5, .5, 0., 0.], [.9, .9, 0., 0.]]]))
    target = dict(labels=torch.tensor([1]), boxes=torch.tensor([[.5, .5, 1e-30, 1e-30]]))
    (q, _), = HungarianMatcher()(outputs, [target])
    assert q.tolist() == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    outputs, targets = batch([2, 0, 4])
    there = [{k: v.cuda() for k, v in x.items()} for x in (outputs, *targets)]
    for (q, o), (q2, o2) in zip(HungarianMatcher()(outputs, targets), HungarianMatcher()(there[0], there[1:])):
        assert torch.equal(q, q2) and torch.equal(o, o2)


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", ["pred_logits", "pred_boxes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("m", [0, 2])
def test_refuses_predictions_that_are_no_numbers(name, value, m):
    outputs, targets = batch([m, m])
    outputs[name][1, 4, 2] = value
    with pytest.raises(ValueError, match=rf"{name}\[1, 4, 2\] is {value}; wanted finite"):
        HungarianMatcher()(outputs, targets)


def test_refuses_shapes_that_do_not_fit():
    logits, boxes = batch([1, 1])[0].values()
    words = r"pred_logits \[.* and pred_boxes \[.*wanted \[B, N, K\+1\] and \[B, N, 4\]"
    for pair in [(logits, boxes[:, :5]), (logits[0], boxes[0]), (logits, boxes[..., :3])]:
        with pytest.raises(ValueError, match=words):
            check_predictions(*pair)


def test_refuses_another_number_of_targets():
    outputs, targets = batch([1, 1])
    with pytest.raises(ValueError, match="got 1 targets for 2 images"):
        HungarianMatcher()(outputs, targets[:1])


FINE = [.5, .5, .1, .1]


@pytest.mark.parametrize("labels, words", [
    (torch.tensor([0, 1]), r"holds 0; wanted 1 to 3"),
    (torch.tensor([1, 4]), r"holds 4; wanted 1 to 3"),
    (torch.tensor([-1, 1]), r"holds -1; wanted 1 to 3"),
    (torch.tensor([1, 2], dtype=torch.int32), r"is torch.int32 \[2\]; wanted torch.int64 \[M\]"),
    (torch.tensor([1., 2.]), r"is torch.float32 \[2\]"),
    (torch.tensor([[1], [2]]), r"is torch.int64 \[2, 1\]"),
])
def test_refuses_labels(labels, words):
    "By the number of the image; the empty one before it holds nobody up."
    outputs, targets = batch([0, 1, 2])
    targets[2]["labels"] = labels
    with pytest.raises(ValueError, match=r"targets\[2\]\['labels'\] " + words):
        HungarianMatcher()(outputs, targets)


@pytest.mark.parametrize("labels, boxes, words", [
    ([1], [FINE, FINE], r"is \[2, 4\]; 1 labels want \[1, 4\]"),
    ([1, 2], [FINE + [.1], FINE + [.1]], r"is \[2, 5\]; 2 labels want \[2, 4\]"),
    ([], [], r"is \[0\]; 0 labels want \[0, 4\]"),
    ([1, 2], [FINE, [.5, .25, 0, .5]], r"holds \[0.5, 0.25, 0.0, 0.5\]; wanted .* w and h > 0"),
    ([1, 2], [[.5, .5, .1, -.1], FINE], "holds .*w and h > 0"),
    ([1, 2], [FINE, [64., 64, 20, 20]], r"holds \[64.0, 64.0, 20.0, 20.0\]; wanted cx, cy, w, h in \[0, 1\]"),
    ([1, 2], [FINE, [-.25, .5, .1, .1]], r"holds \[-0.25, .*in \[0, 1\]"),
    ([1, 2], [FINE, [.5, float("nan"), .1, .1]], "holds .*nan"),
    ([1, 2], [[.5, .5, float("inf"), .1], FINE], "holds .*inf"),
])
def test_refuses_boxes(labels, boxes, words):
    outputs, targets = batch([0, 1, 2])
    targets[2] = dict(labels=torch.tensor(labels, dtype=torch.long), boxes=torch.tensor(boxes))
    with pytest.raises(ValueError, match=r"targets\[2\]\['boxes'\] " + words):
        HungarianMatcher()(outputs, targets)


def test_refuses_more_objects_than_queries():
    outputs, _ = batch([1, 1])
    with pytest.raises(ValueError, match=r"targets\[1\] holds 7 objects; wanted at most 6, one a query"):
        HungarianMatcher()(outputs, [image(6), image(7)])


def test_rounding_is_let_pass():
    check_targets([dict(labels=torch.tensor([3]), boxes=torch.tensor([[.5, .5, 1.0000001, 1.]]))], 1, 3)


@pytest.mark.parametrize("weights", [(-1., 5., 2.), (1., -5., 2.), (1., 5., -2.), (0., 0., 0.)])
def test_refuses_weights_below_zero(weights):
    with pytest.raises(ValueError, match="costs are"):
        HungarianMatcher(*weights)
