"""The set loss: a plain-loop second implementation, contracts, limit cases, two processes."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou

from detr_lit.loss import (
    DetrLoss,
    box_losses,
    class_loss,
    count_objects,
    gather_pairs,
    layer_terms,
    set_statistics,
    stack_layers,
)
from detr_lit.matcher import HungarianMatcher

CPU = torch.device("cpu")


def random_boxes(*size):
    return torch.rand(*size, 4) * 0.3 + torch.tensor([0.2, 0.2, 0.1, 0.1])


def random_outputs(batch=3, queries=8, classes=4, layers=3):
    def one():
        logits, boxes = torch.randn(batch, queries, classes + 1) * 2, random_boxes(batch, queries)
        return dict(pred_logits=logits.requires_grad_(), pred_boxes=boxes.requires_grad_())

    return {**one(), "aux_outputs": [one() for _ in range(layers - 1)]}


def random_targets(counts=(3, 0, 5), classes=4):
    return [dict(labels=torch.randint(1, classes + 1, (m,)), boxes=random_boxes(m)) for m in counts]


def leaves(outputs):
    return [o[k] for o in [outputs, *outputs.get("aux_outputs", [])] for k in ("pred_logits", "pred_boxes")]


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def plain_giou(a, b):
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners(a), corners(b)
    inter = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    inter = inter * (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter
    hull = torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)
    hull = hull * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    return inter / union - (hull - union) / hull


def plain_loss(outputs, targets, matcher, noobj=0.1, weights=(1.0, 5.0, 2.0)):
    "Layer by layer, image by image, query by query; nothing shared with the module but the matcher."
    n = max(1, sum(len(t["labels"]) for t in targets))
    result, total = {}, 0.0
    for suffix, layer in [("", outputs)] + [(f"_{i}", o) for i, o in enumerate(outputs.get("aux_outputs", []))]:
        pairs = matcher({k: layer[k] for k in ("pred_logits", "pred_boxes")}, targets)
        top = bottom = l1 = giou = torch.zeros(())
        for b, t in enumerate(targets):
            owner = dict(zip(pairs[b][0].tolist(), pairs[b][1].tolist()))
            for q in range(layer["pred_logits"].shape[1]):
                scores, obj = layer["pred_logits"][b, q], owner.get(q)
                label = 0 if obj is None else int(t["labels"][obj])
                w = noobj if label == 0 else 1.0
                top, bottom = top + w * (scores.exp().sum().log() - scores[label]), bottom + w
                if obj is not None:
                    mine, wanted = layer["pred_boxes"][b, q], t["boxes"][obj]
                    l1, giou = l1 + sum(abs(mine[i] - wanted[i]) for i in range(4)), giou + 1 - plain_giou(mine, wanted)
        terms = (top / bottom, l1 / n, giou / n)
        total = total + sum(w * v for w, v in zip(weights, terms))
        result |= {f"loss_{k}{suffix}": v for k, v in zip(("class", "bbox", "giou"), terms)}
    return result | dict(total=total)


@pytest.mark.parametrize("counts", [(3, 0, 5), (1, 1, 1), (8, 2, 0), (0, 0, 0)])
def test_equals_plain_loops_with_gradients(counts):
    outputs, targets = random_outputs(), random_targets(counts)
    ours, plain = DetrLoss(4)(outputs, targets), plain_loss(outputs, targets, HungarianMatcher())
    assert ours.keys() == plain.keys()
    for k, v in plain.items():
        torch.testing.assert_close(ours[k], v, rtol=1e-5, atol=1e-5)
    ours_g = torch.autograd.grad(ours["total"], leaves(outputs))
    plain_g = torch.autograd.grad(plain["total"], leaves(outputs), allow_unused=True)
    for a, b in zip(ours_g, plain_g):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-5, atol=1e-5)
    assert any(g.abs().sum() > 0 for g in ours_g)


def test_keys_and_weights():
    outputs, targets = random_outputs(layers=6), random_targets()
    losses = DetrLoss(4)(outputs, targets)
    names = ("loss_class", "loss_bbox", "loss_giou")
    assert set(losses) == {f"{n}{s}" for n in names for s in ("", "_0", "_1", "_2", "_3", "_4")} | {"total"}
    assert all(v.shape == () and v.dtype == torch.float32 for v in losses.values())
    weights = dict(loss_class=0.5, loss_bbox=3.0, loss_giou=7.0)
    other = DetrLoss(4, weight_class=0.5, weight_bbox=3.0, weight_giou=7.0)(outputs, targets)
    assert all(torch.equal(losses[k], other[k]) for k in losses if k != "total")  # terms come without weights
    torch.testing.assert_close(
        other["total"], sum(weights[k[:10].rstrip("_")] * v for k, v in other.items() if k != "total")
    )
    single = {k: outputs[k] for k in ("pred_logits", "pred_boxes")}
    assert set(DetrLoss(4)(single, targets)) == {*names, "total"}


def test_each_layer_is_matched_anew():
    outputs, targets = random_outputs(layers=1), random_targets()
    order = torch.randperm(8)
    shuffled = {k: outputs[k][:, order] for k in ("pred_logits", "pred_boxes")}
    losses = DetrLoss(4)(outputs | dict(aux_outputs=[shuffled]), targets)
    for name in ("loss_class", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(losses[name], losses[f"{name}_0"])


def test_aux_outputs_keep_their_names():
    "`_0` is the first decoder layer, the plain names the last."
    outputs, targets = random_outputs(layers=3), random_targets()
    losses = DetrLoss(4)(outputs, targets)
    for suffix, layer in (("", outputs), ("_0", outputs["aux_outputs"][0]), ("_1", outputs["aux_outputs"][1])):
        alone = DetrLoss(4)({k: layer[k] for k in ("pred_logits", "pred_boxes")}, targets)
        for name in ("loss_class", "loss_bbox", "loss_giou"):
            torch.testing.assert_close(losses[name + suffix], alone[name])


def test_order_of_images_queries_and_objects_does_not_matter():
    outputs, targets = random_outputs(layers=1), random_targets()
    total = DetrLoss(4)(outputs, targets)["total"]
    q, b = torch.randperm(8), [2, 0, 1]
    moved = {k: v[b][:, q] for k, v in outputs.items() if k != "aux_outputs"}
    mixed = [{k: v.flip(0) for k, v in targets[i].items()} for i in b]
    torch.testing.assert_close(DetrLoss(4)(moved, mixed)["total"], total)


def test_class_loss_is_torchs_weighted_mean_layer_by_layer():
    logits, wanted, weight = torch.randn(3, 2, 5, 4), torch.randint(0, 4, (3, 2, 5)), torch.tensor([0.1, 1, 1, 1])
    expected = torch.stack([F.cross_entropy(x.flatten(0, 1), w.flatten(), weight) for x, w in zip(logits, wanted)])
    torch.testing.assert_close(class_loss(logits, wanted, weight), expected)


def test_box_losses_against_other_formulas():
    mine, objects = random_boxes(20).requires_grad_(), random_boxes(20)
    l1, giou = box_losses(mine, objects)
    xyxy = [torch.stack(corners(b.unbind(-1)), -1) for b in (mine, objects)]
    torch.testing.assert_close(l1, torch.cdist(mine[:, None], objects[:, None], p=1)[:, 0, 0])
    torch.testing.assert_close(giou, 1 - generalized_box_iou(*xyxy).diag(), atol=1e-5, rtol=1e-5)
    assert (complete_box_iou_loss(*xyxy) > 0).all()  # the boxes do differ
    assert torch.autograd.gradcheck(
        lambda b: sum(x.sum() for x in box_losses(b, objects.double())), mine.detach().double().requires_grad_()
    )


def test_a_perfect_answer_costs_nothing():
    targets = random_targets((2, 3))
    logits, boxes = torch.full((2, 5, 5), -40.0), random_boxes(2, 5)
    logits[..., 0] = 40
    for b, t in enumerate(targets):
        for q, (label, box) in enumerate(zip(t["labels"], t["boxes"])):
            logits[b, q, 0], logits[b, q, label], boxes[b, q] = -40, 40, box
    losses = DetrLoss(4)(dict(pred_logits=logits, pred_boxes=boxes), targets)
    assert losses["total"] < 1e-5
    stats = set_statistics(dict(pred_logits=logits), targets, [(torch.arange(len(t["labels"])),) * 2 for t in targets])
    assert stats["class_error"] == stats["cardinality_error"] == 0 and stats["matched_no_object"] < 1e-9
    assert stats["no_object"] == pytest.approx(5 / 10)


@pytest.mark.parametrize("noobj", [0.1, 1.0, 0.0])
def test_no_object_anywhere(noobj):
    outputs, targets = random_outputs(), random_targets((0, 0, 0))
    losses = DetrLoss(4, noobj_weight=noobj)(outputs, targets)
    losses["total"].backward()
    grads = [x.grad for x in leaves(outputs)]
    assert losses["loss_bbox"] == losses["loss_giou_1"] == 0
    assert all(v.isfinite() for v in losses.values()) and all(g is not None and g.isfinite().all() for g in grads)
    assert all((g == 0).all() for g in grads[1::2])  # boxes: zero, and there
    assert (grads[0].abs().sum() > 0) == (noobj > 0)


@pytest.mark.parametrize("side", [0.0, 1e-30, 1e-8, 1.0])
def test_degenerate_predicted_boxes_have_finite_gradients(side):
    outputs, targets = random_outputs(layers=1), random_targets((2, 2, 2))
    boxes = outputs["pred_boxes"].detach().clone()
    boxes[..., 2:] = side
    boxes.requires_grad_()
    loss = DetrLoss(4)(dict(pred_logits=outputs["pred_logits"], pred_boxes=boxes), targets)["total"]
    loss.backward()
    assert loss.isfinite() and boxes.grad.isfinite().all() and boxes.grad.abs().sum() > 0


def test_saturated_box_logits_have_finite_gradients():
    raw = torch.full((1, 4, 4), -200.0, requires_grad=True)  # sigmoid: exactly 0
    loss = DetrLoss(4)(dict(pred_logits=torch.zeros(1, 4, 5), pred_boxes=raw.sigmoid()), random_targets((2,)))["total"]
    loss.backward()
    assert loss.isfinite() and raw.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    outputs, targets = random_outputs(layers=2), random_targets()

    def cast(o):
        return {k: v.detach().to(dtype).requires_grad_() for k, v in o.items() if k != "aux_outputs"}

    low = cast(outputs) | dict(aux_outputs=[cast(outputs["aux_outputs"][0])])
    high = {k: low[k].float() for k in ("pred_logits", "pred_boxes")}
    high["aux_outputs"] = [{k: v.float() for k, v in low["aux_outputs"][0].items()}]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = DetrLoss(4)(low, targets)
    expected = DetrLoss(4)(high, targets)
    assert all(v.dtype == torch.float32 for v in losses.values())
    assert all(torch.equal(losses[k], expected[k]) for k in expected)
    losses["total"].backward()
    assert low["pred_boxes"].grad.dtype == dtype and low["pred_boxes"].grad.isfinite().all()


def test_named_errors():
    outputs, targets = random_outputs(), random_targets()
    with pytest.raises(ValueError, match="5 columns; no object and 7 classes want 8"):
        DetrLoss(7)(outputs, targets)
    with pytest.raises(ValueError, match="3 images; there are 2 targets"):
        DetrLoss(4)(outputs, targets[:2])
    with pytest.raises(ValueError, match="9 objects"):
        DetrLoss(4)(outputs, random_targets((9, 0, 0)))
    with pytest.raises(ValueError, match="labels"):
        DetrLoss(4)(outputs, [dict(labels=torch.tensor([0]), boxes=random_boxes(1)), *targets[1:]])
    broken = dict(pred_logits=outputs["pred_logits"], pred_boxes=outputs["pred_boxes"] * math.nan)
    with pytest.raises(ValueError, match="(?i)nan"):
        DetrLoss(4)(broken, targets)


def test_nothing_that_it_is_given_changes():
    outputs, targets = random_outputs(), random_targets()
    before = [x.detach().clone() for x in leaves(outputs)], [{k: v.clone() for k, v in t.items()} for t in targets]
    DetrLoss(4)(outputs, targets)["total"].backward()
    assert len(targets) == 3 and all(torch.equal(a, b) for a, b in zip(before[0], leaves(outputs)))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before[1], targets) for k in a)


def test_it_has_no_state_to_save_and_takes_another_matcher():
    assert not DetrLoss(4).state_dict() and not list(DetrLoss(4).parameters())
    matcher = HungarianMatcher(0.0, 1.0, 0.0)
    assert DetrLoss(4, matcher).matcher is matcher
    torch.testing.assert_close(DetrLoss(4, noobj_weight=0.3).class_weight, torch.tensor([0.3, 1, 1, 1, 1]))
    outputs, targets = random_outputs(), random_targets()
    torch.testing.assert_close(
        DetrLoss(4, matcher)(outputs, targets)["total"], plain_loss(outputs, targets, matcher)["total"]
    )


def test_helpers():
    outputs, targets = random_outputs(), random_targets()
    logits, boxes = stack_layers(outputs)
    assert torch.equal(logits[0], outputs["pred_logits"]) and torch.equal(
        boxes[2], outputs["aux_outputs"][1]["pred_boxes"]
    )
    pairs = HungarianMatcher()(outputs, targets)
    image, query, labels, objects = gather_pairs(pairs, targets)
    assert image.tolist() == [0] * 3 + [2] * 5 and query.dtype == labels.dtype == torch.int64
    assert torch.equal(objects[3:], targets[2]["boxes"][pairs[2][1]])
    one = layer_terms(logits[:1], boxes[:1], targets, pairs, torch.tensor([0.1, 1, 1, 1, 1]))
    torch.testing.assert_close(one["loss_bbox"][0], DetrLoss(4)(outputs, targets)["loss_bbox"])
    assert count_objects(targets, CPU) == 8 and count_objects(random_targets((0,)), CPU) == 1


def test_statistics_against_counting():
    outputs, targets = random_outputs(batch=5, layers=1), random_targets((3, 0, 5, 8, 1))
    pairs = HungarianMatcher()(outputs, targets)
    top = outputs["pred_logits"].argmax(-1)
    wrong = [int(top[b, q]) != int(targets[b]["labels"][o]) for b, p in enumerate(pairs) for q, o in zip(*p)]
    apart = [abs(sum(int(c) > 0 for c in top[b]) - len(t["labels"])) for b, t in enumerate(targets)]
    silent = [outputs["pred_logits"][b, q].softmax(0)[0].item() for b, p in enumerate(pairs) for q in p[0]]
    stats = set_statistics(outputs, targets, pairs)
    assert stats == pytest.approx(
        dict(
            class_error=sum(wrong) / len(wrong),
            cardinality_error=sum(apart) / 5,
            no_object=float((top == 0).sum()) / 40,
            matched_no_object=sum(silent) / len(silent),
        )
    )
    assert all(isinstance(v, float) for v in stats.values())


WORKER = """
import json, sys, torch
import torch.distributed as dist
from torch import nn
from detr_lit.loss import DetrLoss, count_objects
torch.set_num_threads(1)
rank, world, store, cases = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], torch.load(sys.argv[4])
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mine, said = slice(rank * 2, rank * 2 + 2), []
for case in cases:
    model = nn.Linear(4, 4)
    model.load_state_dict(case["model"])
    model = nn.parallel.DistributedDataParallel(model)
    made, targets = model(case["x"][mine]), case["targets"][mine]
    logits, boxes = torch.cat([made, case["logits"][mine, :, 4:]], -1), made.sigmoid()
    losses = DetrLoss(4, weight_class=3.0)(dict(pred_logits=logits, pred_boxes=boxes), targets)
    losses["total"].backward()
    n = count_objects(targets, torch.device("cpu")).item()
    said.append(dict(n=n, grad=model.module.weight.grad.tolist(), **{k: v.item() for k, v in losses.items()}))
print(json.dumps(said))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path, root):
    "A real gloo group: DDP's averaged gradient equals that of one process with the whole batch, few objects or none."
    cases = [
        dict(
            model=nn.Linear(4, 4).state_dict(),
            x=torch.randn(4, 6, 4),
            logits=torch.randn(4, 6, 5),
            targets=random_targets(c),
        )
        for c in ((1, 0, 5, 4), (0, 0, 3, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    ]
    torch.save(cases, tmp_path / "cases.pt")
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"
    command = [sys.executable, "-c", WORKER]
    files = ["2", str(tmp_path / "store"), str(tmp_path / "cases.pt")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = [subprocess.Popen([*command, str(rank), *files], env=env, **pipes) for rank in range(2)]
    try:
        said = [w.communicate(timeout=600) for w in workers]
    finally:
        for w in workers:
            w.kill()
    assert all(w.returncode == 0 for w in workers), "\n".join(err for _, err in said)
    replies = [json.loads(out.splitlines()[-1]) for out, _ in said]
    for case, *both in zip(cases, *replies):
        model = nn.Linear(4, 4)
        model.load_state_dict(case["model"])
        made = model(case["x"])
        logits = torch.cat([made, case["logits"][..., 4:]], -1)
        losses = DetrLoss(4, weight_class=3.0)(dict(pred_logits=logits, pred_boxes=made.sigmoid()), case["targets"])
        losses["total"].backward()
        objects = sum(len(t["labels"]) for t in case["targets"])
        assert [r["n"] for r in both] == [max(1, objects) / 2] * 2
        for r in both:
            torch.testing.assert_close(torch.tensor(r["grad"]), model.weight.grad, rtol=1e-4, atol=1e-6)
        for k, v in losses.items(): assert sum(r[k] for r in both) / 2 == pytest.approx(v.item(), rel=1e-5, abs=1e-6)
