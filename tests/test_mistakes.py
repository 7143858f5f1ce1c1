"""Chapter 16b: a detector's mistakes by kind."""
import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision.ops import box_iou

from detr_lit.mistakes import KINDS, mended, scoring, sort_mistakes


def some_boxes(n, generator):
    at = torch.rand(n, 2, generator=generator) * 30
    return torch.cat([at, at + 4 + 12 * torch.rand(n, 2, generator=generator)], 1)


def scene(seed, n=12, m=5, classes=2):
    g = torch.Generator().manual_seed(seed)
    def labels(k): return torch.randint(1, classes + 1, (k,), generator=g)
    truth = dict(boxes=some_boxes(m, g), labels=labels(m))
    near = truth["boxes"][torch.randint(m, (n,), generator=g)] + 3 * torch.randn(n, 4, generator=g).sort(1).values
    boxes = torch.where(torch.rand(n, 1, generator=g) < .7, near, some_boxes(n, g))
    return dict(boxes=boxes, labels=labels(n), scores=torch.rand(n, generator=g)), truth


def by_loops(found, truth):
    "One detection after the other, the surest first."
    kinds, taken = [""] * len(found["scores"]), set()
    for i in found["scores"].argsort(descending=True).tolist():
        overlaps = box_iou(found["boxes"][i:i + 1].double(), truth["boxes"].double())[0].tolist()
        own = {j: v for j, v in enumerate(overlaps) if truth["labels"][j] == found["labels"][i]}
        free = {j: v for j, v in own.items() if j not in taken and v >= .5}
        if free:
            taken.add(max(free, key=free.get))
            kinds[i] = "right"
        elif max(own.values(), default=0) >= .5: kinds[i] = "twice"
        elif any(v >= .5 for j, v in enumerate(overlaps) if j not in own): kinds[i] = "confused"
        elif max(own.values(), default=0) >= .1: kinds[i] = "loose"
        else: kinds[i] = "elsewhere"
    return kinds


def test_kinds_by_loops():
    seen = set()
    for seed in range(60):
        found, truth = scene(seed)
        kinds, which = sort_mistakes(found, truth)
        assert [KINDS[k] for k in kinds] == by_loops(found, truth), seed
        seen |= {KINDS[k] for k in kinds}
        overlap = box_iou(found["boxes"].double(), truth["boxes"].double()) * (found["labels"][:, None] == truth["labels"])
        assert torch.equal(which, torch.where(overlap.amax(1) > 0, overlap.argmax(1), -1))
    assert seen == set(KINDS)


def test_nothing_found_and_nothing_there():
    found, truth = scene(0)
    none, empty = ({k: v[:0] for k, v in d.items()} for d in (found, truth))
    assert [len(x) for x in sort_mistakes(none, truth)] == [0, 0] == [len(x) for x in sort_mistakes(none, empty)]
    kinds, which = sort_mistakes(found, empty)
    assert {KINDS[k] for k in kinds} == {"elsewhere"} and (which == -1).all()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_one_kind_is_mended(kind):
    many = 0
    for seed in range(30):
        found, truth = scene(seed)
        before, boxes = sort_mistakes(found, truth)[0], found["boxes"].clone()
        bad = before == KINDS.index(kind)
        after = mended(found, truth, kind)
        many += int(bad.sum())
        assert torch.equal(found["boxes"], boxes)                          # the detections given stay as they were
        if kind != "loose":
            assert all(torch.equal(after[k], found[k][~bad]) for k in found)
            continue
        assert torch.equal(after["boxes"][~bad], boxes[~bad]) and torch.equal(after["scores"], found["scores"])
        kinds = {KINDS[k] for k in sort_mistakes(after, truth)[0][bad]}
        assert kinds <= {"right", "twice"}                                 # an object is taken once, as ever
    assert many > 5


def test_what_is_right_needs_no_mending():
    with pytest.raises(ValueError, match="kind is 'right'"): mended(*scene(0), "right")


def test_a_training_is_scored_at_one_step(monkeypatch):
    monkeypatch.setattr("detr_lit.mistakes.evaluate", lambda model, data: dict(AP50=len(data)))
    look = scoring(TensorDataset(torch.zeros(3)), "known", 600)
    assert look(600, None) == dict(known=3) and look(599, None) == {}
