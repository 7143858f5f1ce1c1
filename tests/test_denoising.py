"""Helpers: noise within its bounds, teams that hear nobody else, losses by loops, plain models in the end."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert, generalized_box_iou

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.denoising import Denoising, Groups, apart, noisy_boxes
from detr_lit.detr import DETR
from detr_lit.loss import DetrLoss
from detr_lit.train import HELPERS, Recipe, Trainer, make_helper, part, train_detr

TINY = dict(num_queries=6, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=64, backbone_name="convnet",
            stride=16, norm="batch", dropout=0.0)
BOXED = TINY | dict(query_boxes=True)
KINDS = pytest.mark.parametrize("kind", sorted(HELPERS))
TARGETS = [dict(labels=torch.tensor([1, 3]), boxes=torch.tensor([[.3, .4, .2, .3], [.7, .6, .4, .2]])),
           dict(labels=torch.zeros(0, dtype=torch.int64), boxes=torch.zeros(0, 4)),
           dict(labels=torch.tensor([2]), boxes=torch.tensor([[.5, .5, .6, .4]]))]
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def model(**changes):
    "In eval mode, no head at zero: a leak would show in the boxes too."
    torch.manual_seed(0)
    net = DETR(3, **BOXED | changes).eval()
    for p in net.heads.parameters(): p.data += 0.1 * torch.randn_like(p)
    return net


@given(st.floats(0, 0.99), st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4))
def test_noise_stays_within_its_bounds(amount, box):
    box = torch.tensor(box)
    off = (noisy_boxes(box.expand(50, 4), amount) - box.clamp(0.01, 0.99)).abs()
    assert (off[:, :2] <= amount * box[2:] / 2 + 1e-5).all() and (off[:, 2:] <= amount * box[2:] + 1e-5).all()


def test_noise_is_used_up_on_both_sides_and_differs_from_box_to_box():
    many = noisy_boxes(torch.tensor([.5, .5, .2, .4]).expand(5000, 4), 0.5)
    low, high = many.aminmax(dim=0)
    torch.testing.assert_close(low, torch.tensor([.45, .4, .1, .2]), atol=.005, rtol=0)
    torch.testing.assert_close(high, torch.tensor([.55, .6, .3, .6]), atol=.005, rtol=0)
    assert torch.corrcoef(many.T).fill_diagonal_(0).abs().max() < 0.1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_apart_is_a_chequerboard_of_teams(sizes):
    team = [t for t, n in enumerate(sizes) for _ in range(n)]
    assert apart(*sizes).tolist() == [[a != b for b in team] for a in team]


@KINDS
@pytest.mark.parametrize("changes", [{}, dict(gaze="soft"), dict(gaze="points"), dict(pre_norm=True)])
def test_the_models_own_queries_hear_no_helper(kind, changes):
    net = model(**changes)
    helper = make_helper(net, kind)
    alone, with_helper = net(IMAGES), net(IMAGES, extra=helper.ask(TARGETS))
    own, others = part(with_helper, slice(6)), part(with_helper, slice(6, None))
    for a, b in zip([alone, *alone["aux_outputs"]], [own, *own["aux_outputs"]]):
        torch.testing.assert_close(a["pred_logits"], b["pred_logits"], atol=1e-5, rtol=0)
        torch.testing.assert_close(a["pred_boxes"], b["pred_boxes"], atol=1e-5, rtol=0)
    assert others["pred_logits"].shape[1] == helper.ask(TARGETS).vectors.shape[1] > 0


@KINDS
def test_teams_of_helpers_hear_no_other_team(kind):
    "A change in one team's queries changes no other team's answers."
    net = model()
    extra = make_helper(net, kind, groups=3).ask(TARGETS)
    size = extra.vectors.shape[1] // (3 if kind == "denoising" else 2)
    moved = extra._replace(vectors=torch.cat([extra.vectors[:, :size] + 1, extra.vectors[:, size:]], 1))
    a, b = (part(net(IMAGES, extra=e), slice(6, None))["pred_logits"] for e in (extra, moved))
    torch.testing.assert_close(a[:, size:], b[:, size:], atol=1e-5, rtol=0)
    assert (a[:, :size] - b[:, :size]).abs().max() > 1e-3


def test_denoising_asks_about_each_object_in_each_team():
    net = model()
    helper = Denoising(net, groups=2, amount=0.0, flip=0.0)
    extra = helper.ask(TARGETS)
    for team in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(extra.boxes[0, team].sigmoid(), TARGETS[0]["boxes"])
        torch.testing.assert_close(extra.vectors[0, team], helper.words.weight[[1, 3]])
        torch.testing.assert_close(extra.vectors[2, team], helper.words.weight[[2, 0]])          # the second is a filler


def test_flips_are_as_frequent_as_said_and_never_no_object():
    helper = Denoising(model(), groups=1500, amount=0.0, flip=0.5)
    words = helper.ask([TARGETS[2]]).vectors[0]
    told = (words[:, None] == helper.words.weight).all(-1).int().argmax(1)
    counts = [(told == k).float().mean().item() for k in range(4)]
    assert counts[0] == 0 and all(abs(c - want) < 0.05 for c, want in zip(counts[1:], (1 / 6, 2 / 3, 1 / 6)))


def test_denoising_loss_by_loops():
    net, criterion = model(), DetrLoss(3, noobj_weight=0.3)
    helper = Denoising(net, groups=2)
    out = part(net(IMAGES, extra=helper.ask(TARGETS)), slice(6, None))
    total = 0.0
    for layer in (out, *out["aux_outputs"]):
        terms = []
        for i, t in enumerate(TARGETS):
            for team in range(2):
                for j, (label, box) in enumerate(zip(t["labels"], t["boxes"])):
                    logits, mine = layer["pred_logits"][i, 2 * team + j], layer["pred_boxes"][i, 2 * team + j]
                    corners = [box_convert(b[None], "cxcywh", "xyxy") for b in (mine, box)]
                    terms.append(F.cross_entropy(logits[None], label[None]) + 5 * (mine - box).abs().sum()
                                 + 2 * (1 - generalized_box_iou(*corners)[0, 0]))
        total = total + sum(terms) / len(terms)
    torch.testing.assert_close(helper.loss(out, TARGETS, criterion), total, atol=1e-4, rtol=1e-5)


def test_groups_loss_is_the_mean_over_teams():
    net, criterion = model(), DetrLoss(3)
    helper = Groups(net, groups=3)
    out = net(IMAGES, extra=helper.ask(TARGETS))
    each = [criterion(part(out, slice(a, a + 6)), TARGETS) for a in (6, 12)]
    got = helper.loss(part(out, slice(6, None)), TARGETS, criterion)
    box_terms = sum(5 * v if "bbox" in k else 2 * v for e in each for k, v in e.items() if "bbox" in k or "giou" in k) / 2
    class_terms = sum(v for e in each for k, v in e.items() if "class" in k) / 2
    assert abs(got - box_terms - class_terms) < 0.05 * got                  # the class means have weights of their own
    alone = DetrLoss(3, weight_class=0.0)
    torch.testing.assert_close(helper.loss(part(out, slice(6, None)), TARGETS, alone), box_terms, atol=1e-4, rtol=1e-5)


def test_groups_help_free_queries_too():
    torch.manual_seed(0)
    net = DETR(3, **TINY)
    extra = Groups(net, groups=2).ask(TARGETS)
    assert extra.boxes is None and net(IMAGES, extra=extra)["pred_logits"].shape == (3, 12, 4)


@KINDS
def test_batches_without_objects(kind):
    net, nothing = model(), [TARGETS[1]] * 3
    helper = make_helper(net, kind)
    loss = helper.loss(part(net(IMAGES, extra=helper.ask(nothing)), slice(6, None)), nothing, DetrLoss(3))
    assert math.isfinite(loss.item()) and (kind == "groups" or loss.item() == 0)


@KINDS
def test_every_weight_of_a_helper_learns_and_none_is_in_the_model(kind):
    trainer = Trainer(model(), Recipe(lr=1e-2, weight_decay=0.0, helper=dict(kind=kind)), torch.device("cpu"))
    before = [p.detach().clone() for p in trainer.helper.parameters()]
    losses, outputs, _ = trainer.step(collate([ToyDetectionDataset(4, image_size=64)[i] for i in range(4)]))
    assert outputs["pred_logits"].shape[1] == 6
    assert losses["total"] > sum(v for k, v in losses.items() if k.startswith("loss_class"))
    assert all((p - b).abs().max() > 0 for p, b in zip(trainer.helper.parameters(), before))
    assert trainer.result.state_dict().keys() == model().state_dict().keys()


@KINDS
def test_resumed_with_a_helper_to_the_same_weights(kind, tmp_path):
    recipe = Recipe(model=BOXED, lr=1e-3, helper=dict(kind=kind))
    plan = dict(batch_size=2, recipe=recipe, data=ToyDetectionDataset(50, image_size=64), progress=False)
    whole, _ = train_detr(6, out=tmp_path / "a", save_every=3, **plan)
    import detr_lit.train as lib
    kept = lib.Trainer.step
    calls = []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 5: raise KeyboardInterrupt
        return kept(self, *args)

    lib.Trainer.step = dies
    try:
        with pytest.raises(KeyboardInterrupt): train_detr(6, out=tmp_path / "b", save_every=3, **plan)
    finally: lib.Trainer.step = kept
    again, _ = train_detr(6, out=tmp_path / "b", save_every=3, resume=True, **plan)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("make, match", [
    (lambda: noisy_boxes(torch.rand(1, 4), 1.0), "amount is 1.0"),
    (lambda: Denoising(DETR(3, **TINY)), "query_boxes=True"),
    (lambda: Denoising(model(), groups=0), "groups is 0"),
    (lambda: Denoising(model(), flip=1.5), "flip 1.5"),
    (lambda: Groups(model(), groups=1), "groups is 1"),
    (lambda: make_helper(model(), "nurse"), "helper is 'nurse'; it must be one of \\['denoising', 'groups'\\]"),
])
def test_bad_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match): make()
