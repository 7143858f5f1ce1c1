"""Exercise 1: what a model answers is written down as it is, counted right, and kept by a training that asks for it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert

from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR
from detr_lit.evaluate import precision_recall
from detr_lit.inference import predict
from detr_lit.ladder import rung
from detr_lit.queries import answers, asking, tally
from detr_lit.train import RECIPES, load_or_train

EXAM = ToyDetectionDataset(6, split="test", seed=5)
TARGETS = [t for _, t in EXAM]
TOY = DETR.from_pretrained("toy")


def test_answers_are_predicts_own():
    said = answers(TOY, EXAM, 0.3, batch_size=4)                     # a last batch that is not full
    assert json.loads(json.dumps(said)) == said
    for i, (image, _) in enumerate(EXAM):
        found, mine = predict(TOY, [image], 0.3)[0], [k for k, p in enumerate(said["picture"]) if p == i]
        assert [said["query"][k] for k in mine] == found["queries"].tolist()
        assert [said["label"][k] for k in mine] == found["labels"].tolist()
        boxes = box_convert(torch.tensor([said["box"][k] for k in mine]), "cxcywh", "xyxy") * 128
        assert (boxes - found["boxes"]).abs().max() < 0.2
        assert (torch.tensor([said["score"][k] for k in mine]) - found["scores"]).abs().max() < 1e-3


def test_boxes_are_fractions_of_oblong_pictures():
    picture = torch.zeros(3, 96, 128)
    picture[:, 20:60, 30:100] = 1.0
    said = answers(TOY, [(picture, TARGETS[0])], 0.0)
    pixels = predict(TOY, [picture], 0.0)[0]["boxes"]
    again = box_convert(torch.tensor(said["box"]), "cxcywh", "xyxy") * torch.tensor([128, 96, 128, 96])
    assert (again - pixels).abs().max() < 0.2


def test_the_truth_finds_everything_and_nothing_twice():
    rows = [(i, int(k), b.tolist()) for i, t in enumerate(TARGETS) for k, b in zip(t["labels"], t["boxes"])]
    said = dict(zip(("picture", "label", "box"), map(list, zip(*rows))))
    count = tally(said, TARGETS)
    assert torch.equal(count["found"], count["objects"]) and not count["twice"].any() and not count["false"].any()
    doubled = tally({k: v + v for k, v in said.items()}, TARGETS)
    assert torch.equal(doubled["found"], count["found"]) and torch.equal(doubled["twice"], count["found"])
    wrong = tally(said | dict(label=[k % 3 + 1 for k in said["label"]]), TARGETS)
    assert wrong["false"].sum() >= wrong["kept"].sum() - wrong["found"].sum() - wrong["twice"].sum() > 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_counts_add_up_and_agree_with_the_evaluation(seed):
    g = torch.Generator().manual_seed(seed)
    target = dict(boxes=torch.rand(4, 4, generator=g) * .3 + .2, labels=torch.randint(1, 3, (4,), generator=g))
    near = target["boxes"].repeat(2, 1) + .04 * torch.randn(8, 4, generator=g)
    said = dict(picture=[0] * 8, label=target["labels"].repeat(2).tolist(), box=near.clamp(.05, .9).tolist())
    count = {k: int(v) for k, v in tally(said, [target]).items()}
    assert count["kept"] == 8 == count["found"] + count["twice"] + count["false"] and count["found"] <= count["objects"] == 4
    truth = [dict(target, boxes=box_convert(target["boxes"], "cxcywh", "xyxy"))]
    boxes = box_convert(torch.tensor(said["box"]), "cxcywh", "xyxy")
    mine = [dict(boxes=boxes, labels=torch.tensor(said["label"]), scores=torch.ones(8))]
    share = {k: float(precision_recall(mine, truth, k)[1][-1:].nan_to_num().sum()) for k in (1, 2)}
    hits = sum(share[k] * int((target["labels"] == k).sum()) for k in share)
    assert count["found"] <= round(hits)                       # COCO lets a second answer fall to another object near by


def test_nothing_said():
    count = tally(dict(picture=[], label=[], box=[]), TARGETS)
    assert count["objects"].tolist() == [len(t["labels"]) for t in TARGETS] and not count["kept"].any()
    assert all(v.numel() == 0 for v in tally(dict(picture=[], label=[], box=[]), []).values())


@pytest.mark.parametrize("n, name", [(1, "laptop"), (2, "plain")])
def test_a_training_with_fewer_queries_than_objects(n, name, tmp_path):
    recipe = rung(RECIPES[name], num_queries=n, surplus=True, d_model=32, dim_ff=32)
    ask = dict(recipe=recipe, batch_size=4, task="t", val=EXAM, eval_every=1, progress=False)
    run = load_or_train(tmp_path, 2, measure=asking(EXAM, [2]), **ask)
    again = load_or_train(tmp_path, 2, measure=asking(EXAM, [2]), **ask)
    assert not run["loaded"] and again["loaded"] and again["seen"] == run["seen"]
    assert [look["step"] for look in run["seen"]] == [2] and len(run["history"]) == 2
    assert max([0, *torch.tensor(run["seen"][0]["picture"], dtype=torch.int64).bincount().tolist()]) <= n
    with pytest.raises(ValueError, match="wanted at most"):
        load_or_train(tmp_path / "b", 2, **ask | dict(recipe=rung(recipe, surplus=False)))


def test_a_run_without_answers_is_trained_again_when_asked(tmp_path):
    recipe = rung(RECIPES["laptop"], d_model=32, dim_ff=32)
    ask = dict(recipe=recipe, batch_size=2, task="t", val=EXAM, progress=False)
    assert "seen" not in load_or_train(tmp_path, 1, **ask)
    assert not load_or_train(tmp_path, 1, measure=asking(EXAM, [1]), **ask)["loaded"]
    assert load_or_train(tmp_path, 1, **ask)["loaded"]
