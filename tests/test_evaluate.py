"COCO's numbers against pycocotools, the hand-written loops, and the conventions at the edges."
import contextlib
import io
import math
import time

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.nn.functional import interpolate as resize
from torchvision.ops import box_convert

from detr_lit import evaluate as module
from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR
from detr_lit.evaluate import (
    IOU_THRESHOLDS,
    METRICS,
    average_precision,
    class_metrics,
    coco_metrics,
    collect,
    evaluate,
    find_hits,
    precision_recall,
)

TINY = dict(num_queries=5, d_model=32, n_heads=2, n_enc_layers=1, n_dec_layers=1, dim_ff=32)


def boxes(rng, n, spread=60, least=8, most=60):
    corner, side = rng.uniform(0, spread, (n, 2)), rng.uniform(least, most, (n, 2))
    return torch.from_numpy(np.concatenate([corner, corner + side], 1))


def case(seed, images=20, queries=30, objects=6, crowds=False, scale=1.0):
    "Random detections, some near objects; some images without objects, some without detections."
    rng = np.random.default_rng(seed)
    found, real = [], []
    for n, m in zip(rng.integers(0, queries, images), rng.integers(0, objects, images)):
        n *= rng.random() > .15
        t = dict(boxes=boxes(rng, m) * scale, labels=torch.from_numpy(rng.integers(1, 4, m)))
        if crowds: t["iscrowd"] = torch.from_numpy((rng.random(m) < .3).astype(np.int64))
        d = dict(boxes=boxes(rng, n) * scale, labels=torch.from_numpy(rng.integers(1, 4, n)),
                 scores=torch.from_numpy(rng.random(n).round(2)))
        near = min(n, m)
        d["boxes"][:near] = t["boxes"][:near] + torch.from_numpy(rng.normal(0, 2, (near, 1))) * scale
        d["labels"][:near] = t["labels"][:near]
        found.append(d); real.append(t)
    return found, real


def judge(found, real):
    "pycocotools' evaluation, its rows written here and not by `coco_rows`."
    annotations, results = [], []
    for i, (d, t) in enumerate(zip(found, real), 1):
        for j in range(len(t["labels"])):
            x0, y0, x1, y1 = t["boxes"][j].tolist()
            area = t["area"][j].item() if "area" in t else (x1 - x0) * (y1 - y0)
            crowd = t["iscrowd"][j].item() if "iscrowd" in t else 0
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=t["labels"][j].item(),
                                    bbox=[x0, y0, x1 - x0, y1 - y0], area=area, iscrowd=crowd))
        for j in range(len(d["labels"])):
            x0, y0, x1, y1 = d["boxes"][j].tolist()
            results.append(dict(image_id=i, category_id=d["labels"][j].item(), bbox=[x0, y0, x1 - x0, y1 - y0],
                                score=d["scores"][j].item()))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(images=[dict(id=i) for i in range(1, len(real) + 1)],
                            categories=[dict(id=c) for c in (1, 2, 3)], annotations=annotations)
        coco.createIndex()
        ev = COCOeval(coco, coco.loadRes(results), "bbox")
        ev.evaluate(); ev.accumulate(); ev.summarize()
    return ev


def reference(found, real):
    stats = judge(found, real).stats
    return dict(zip(METRICS, np.where(stats < 0, np.nan, stats)))


def reference_by_class(found, real):
    "The twelve numbers of classes 1 to 3, each read from its own slice of pycocotools' tables."
    ev, rows = judge(found, real), []
    def mean(x): return x[x > -1].mean() if (x > -1).any() else np.nan
    for k in range(3):
        p, r = ev.eval["precision"][:, :, k], ev.eval["recall"][:, k]                  # demands, recalls, sizes, most boxes
        cuts = [p[..., 0, 2], p[0, :, 0, 2], p[5, :, 0, 2], *(p[..., a, 2] for a in (1, 2, 3)),
                *(r[:, 0, m] for m in (0, 1, 2)), *(r[:, a, 2] for a in (1, 2, 3))]
        rows.append(dict(zip(METRICS, map(mean, cuts))))
    return rows


def same(a, b, tol):
    return np.allclose([a[k] for k in METRICS], [b[k] for k in METRICS], rtol=0, atol=tol, equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pycocotools(seed, crowds, scale):
    found, real = case(seed, crowds=crowds, scale=scale)
    ours = coco_metrics(found, real)
    assert same(ours, reference(found, real), 1e-6)
    assert tuple(ours) == METRICS and .1 < ours["AP50"] < 1


def test_pycocotools_many_detections():
    "More than a hundred of one class in an image: the surest hundred count."
    found, real = case(0, images=3, queries=900, objects=40)
    assert same(coco_metrics(found, real), reference(found, real), 1e-6)


def test_the_surest_hundred_of_a_class_and_image_count():
    "COCO's limit, for a model of more than 100 queries: what ranks behind is as if it had not been said."
    def said(rank, n=150):
        boxes = torch.tensor([[0., 0, 5, 5]]).repeat(n, 1)
        boxes[rank - 1] = torch.tensor([50., 50, 90, 90])
        return [dict(scores=torch.linspace(1, .1, n), labels=torch.ones(n, dtype=torch.long), boxes=boxes)]
    real = [dict(labels=torch.tensor([1]), boxes=torch.tensor([[50., 50, 90, 90]]))]
    assert coco_metrics(said(100), real)["AP"] == pytest.approx(.01) and coco_metrics(said(101), real)["AP"] == 0
    assert same(coco_metrics(said(100), real), reference(said(100), real), 1e-6)
    two = [{k: torch.cat([v, said(1)[0][k]]) for k, v in said(1)[0].items()}]
    two[0]["labels"][150:] = 2                                      # another class has a hundred of its own
    assert coco_metrics(two, real)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("crowds", [False, True])
def test_pycocotools_ties(crowds):
    "All scores equal, within images and between them: the order of the lists decides, as it does there."
    found, real = case(4, crowds=crowds)
    tied = [dict(d, scores=torch.full_like(d["scores"], .5)) for d in found]
    assert same(coco_metrics(tied, real), reference(tied, real), 1e-6)
    assert not same(coco_metrics(tied, real), coco_metrics(found, real), 1e-3)


def test_pycocotools_empty_images():
    found, real = case(6, crowds=True)
    found = [*found, empty(True), found[0], empty(True)]           # nothing found; nothing there; neither
    real = [*real, real[0], empty(), empty()]
    assert len(real[0]["labels"]) and len(found[0]["labels"])
    assert same(coco_metrics(found, real), reference(found, real), 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_classes_alone_against_pycocotools(seed):
    found, real = case(seed, crowds=True, scale=2.0)
    found, real = [*found, empty(True), found[0], empty(True)], [*real, real[0], empty(), empty()]
    if seed == 3:                                                   # a class of detections only
        real = [{k: v[t["labels"] != 2] for k, v in t.items()} for t in real]
    table = class_metrics(found, real, ["a", "b", "c", "nobody"])
    assert list(table) == ["a", "b", "c", "nobody"]
    for c, (ours, theirs) in enumerate(zip(table.values(), reference_by_class(found, real)), 1):
        assert same(ours, theirs, 1e-6)
        crowd = [t.get("iscrowd", torch.zeros_like(t["labels"])) for t in real]
        assert ours["objects"] == sum(((t["labels"] == c) & (k == 0)).sum().item() for t, k in zip(real, crowd))
    assert table["nobody"]["objects"] == 0 and all(math.isnan(table["nobody"][k]) for k in METRICS)
    assert math.isnan(table["b"]["AP"]) == (seed == 3)
    assert np.nanmean([row["AP"] for row in table.values()]) == pytest.approx(coco_metrics(found, real)["AP"], abs=1e-9)


def test_area_of_outline():
    found, real = case(1)
    outlined = [dict(t, area=torch.full((len(t["labels"]),), 2000.0)) for t in real]
    ours = coco_metrics(found, outlined)
    assert same(ours, reference(found, outlined), 1e-6) and math.isnan(ours["AP_small"])


@pytest.mark.parametrize("seed", range(12))
def test_by_hand_equals_library(seed):
    found, real = case(seed, images=6, queries=12)
    rows = [[average_precision(found, real, c, iou) for c in (1, 2, 3)] for iou in IOU_THRESHOLDS]
    m, every = coco_metrics(found, real), np.array(rows)
    assert abs(np.nanmean(every) - m["AP"]) < 1e-9
    assert abs(np.nanmean(every[0]) - m["AP50"]) < 1e-9 and abs(np.nanmean(every[5]) - m["AP75"]) < 1e-9


def test_hits_best_free_object():
    objects = torch.tensor([[0., 0, 10, 10], [0, 4, 10, 14]])
    b = torch.tensor([[0., 0, 10, 10], [0, 1, 10, 11]])
    assert find_hits(torch.tensor([.9, .8]), b, objects, .5).tolist() == [True, True]  # the second takes the free one
    assert find_hits(torch.tensor([.9, .8]), b, objects, .6).tolist() == [True, False]
    assert find_hits(torch.tensor([.1, .2]), b[[0, 0]], objects[:1]).tolist() == [False, True]
    lower = objects[:1] + torch.tensor([0, 5, 0, 5])
    assert find_hits(torch.tensor([.9]), lower, objects[:1], 1 / 3).tolist() == [True]  # reaching is enough


def test_hits_of_nothing():
    assert find_hits(torch.ones(2), torch.tensor([[0., 0, 1, 1]] * 2), torch.zeros(0, 4)).tolist() == [False, False]
    assert find_hits(torch.zeros(0), torch.zeros(0, 4), torch.tensor([[0., 0, 1, 1]])).tolist() == []


def test_curve():
    found, real = case(3)
    precision, recall = precision_recall(found, real, 1)
    n = sum((d["labels"] == 1).sum().item() for d in found)
    assert len(precision) == len(recall) == n
    assert (recall.diff() >= 0).all() and recall[-1] <= 1 and ((precision >= 0) & (precision <= 1)).all()
    assert torch.allclose(precision * torch.arange(1, n + 1), recall * sum((t["labels"] == 1).sum() for t in real))


def empty(scores=False):
    nothing = dict(labels=torch.zeros(0, dtype=torch.long), boxes=torch.zeros(0, 4))
    return nothing | dict(scores=torch.zeros(0)) if scores else nothing


def test_empty_sides():
    found, real = case(0, scale=.5)
    none_found = coco_metrics([empty(True)] * len(real), real)
    assert none_found["AP"] == none_found["AR100"] == none_found["AP_small"] == 0
    assert math.isnan(none_found["AP_large"])
    assert all(math.isnan(v) for v in coco_metrics(found, [empty()] * len(found)).values())
    assert all(math.isnan(v) for v in coco_metrics([], []).values())
    assert all(math.isnan(v) for v in coco_metrics([empty(True)], [empty()]).values())
    assert math.isnan(average_precision(found, real, 7)) and average_precision([empty(True)] * len(real), real, 1) == 0


def test_detections_in_empty_images_cost():
    found, real = case(0)
    sure = dict(boxes=torch.tensor([[0., 0, 9, 9]] * 3), labels=torch.tensor([1, 2, 3]), scores=torch.full((3,), 1.0))
    assert coco_metrics([*found, sure], [*real, empty()])["AP"] < coco_metrics(found, real)["AP"]
    more = coco_metrics([*found, empty(True)], [*real, empty()])
    assert more["AP"] == pytest.approx(coco_metrics(found, real)["AP"])


def test_class_without_object_does_not_count():
    found, real = case(0)
    ninth = dict(labels=torch.tensor([9]), boxes=torch.tensor([[0., 0, 5, 5]]), scores=torch.ones(1))
    other = [{k: torch.cat([d[k], ninth[k]]) for k in ninth} for d in found]
    assert coco_metrics(other, real)["AP"] == pytest.approx(coco_metrics(found, real)["AP"])


def test_perfect_and_order_of_images():
    _, real = case(2)
    perfect = [dict(t, scores=torch.ones(len(t["labels"]))) for t in real]
    assert coco_metrics(perfect, real)["AP"] == pytest.approx(1)
    found, real = case(5)
    found = [dict(d, scores=d["scores"] + torch.rand(len(d["scores"])) * 1e-3) for d in found]  # no ties
    assert coco_metrics(found[::-1], real[::-1])["AP"] == pytest.approx(coco_metrics(found, real)["AP"])


@pytest.mark.parametrize("change, says", [
    (lambda d, t: (d[:-1], t), "detections are of 19 images"),
    (lambda d, t: ([dict(x, boxes=box_convert(x["boxes"], "xyxy", "cxcywh")) for x in d], t),
     r"detections\[\d+\]: boxes want finite x0 <= x1"),
    (lambda d, t: (d, [dict(x, boxes=x["boxes"] * torch.nan) for x in t]), r"truths\[\d+\]: boxes"),
    (lambda d, t: (d, [dict(x, labels=x["labels"] - 1) for x in t]), r"truths\[\d+\]: labels want 1 or more"),
    (lambda d, t: ([dict(x, scores=x["scores"] * torch.nan) for x in d], t),
     r"detections\[\d+\]: scores want to be finite"),
])
def test_refuses(change, says):
    with pytest.raises(ValueError, match=says): coco_metrics(*change(*case(0)))


def test_silent(capfd, caplog):
    caplog.set_level("INFO")
    coco_metrics(*case(0))
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_half_and_integer_inputs():
    found, real = case(0, images=3)
    found = [{k: v.half() if v.is_floating_point() else v.int() for k, v in d.items()} for d in found]
    assert 0 <= coco_metrics(found, real)["AP"] <= 1


def test_quick():
    found, real = case(0, images=500, queries=50)
    began = time.process_time()
    coco_metrics(found, real)
    assert time.process_time() - began < 2.5


class Knows(DETR):
    "Gives each image's true boxes, in its own queries' order; `answers` are given in the data's order."
    def forward(self, images, mask=None, **_):
        assert not self.training
        n = len(images)
        now, self.answers = self.answers[:n], self.answers[n:]
        logits, out = torch.zeros(n, 5, 4), torch.full((n, 5, 4), .5)
        logits[..., 0] = 9
        for b, t in enumerate(now):
            for i, (c, box) in enumerate(zip(t["labels"], t["boxes"])):
                logits[b, i] = 0; logits[b, i, c] = 9; out[b, i] = box
        return dict(pred_logits=logits, pred_boxes=out)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluate_of_unequal_images(batch_size):
    toy = ToyDetectionDataset(8)
    samples = [(resize(im[None], size=(64 + 16 * (i % 3), 96 - 8 * i))[0], t) for i, (im, t) in enumerate(toy)]
    model = Knows(3, **TINY).train()
    model.answers = [t for _, t in samples]
    assert evaluate(model, samples, batch_size)["AP"] > .99
    assert model.training  # the mode is restored


def test_evaluate_measures_in_pixels_of_the_data():
    one = dict(labels=torch.tensor([1]), boxes=torch.tensor([[.5, .5, .5, .5]]))
    for size, name in [(50, "AP_small"), (150, "AP_medium"), (400, "AP_large")]:
        model = Knows(3, **TINY); model.answers = [one]
        result = evaluate(model, [(torch.zeros(3, size, size), one)])
        assert result[name] == pytest.approx(1)
        assert sum(math.isnan(result[k]) for k in ("AP_small", "AP_medium", "AP_large")) == 2


def test_evaluate_padding_makes_nothing_larger():
    one = dict(labels=torch.tensor([1]), boxes=torch.tensor([[.5, .5, .5, .5]]))
    model = Knows(3, **TINY); model.answers = [one, one]
    result = evaluate(model, [(torch.zeros(3, 50, 50), one), (torch.zeros(3, 400, 400), one)])
    assert result["AP_small"] == result["AP_large"] == pytest.approx(1) and math.isnan(result["AP_medium"])


def test_evaluate_counts_every_query():
    "A box behind a loud 'no object' still counts, with the probability of its best class."
    class Shy(Knows):
        def forward(self, images, mask=None, **_):
            out = super().forward(images, mask)
            out["pred_logits"][..., 0] = 30
            return out
    toy = ToyDetectionDataset(8)
    model = Shy(3, **TINY); model.answers = [t for _, t in toy]
    assert evaluate(model, toy)["AP"] > .99


def test_collect_gives_what_evaluate_judges():
    toy, model = ToyDetectionDataset(6, max_objects=3), DETR(3, **TINY)
    found, real = collect(model, toy, batch_size=4)
    assert [sorted(d) for d in found] == [["boxes", "labels", "queries", "scores"]] * 6
    for t, (_, wanted) in zip(real, toy):
        assert torch.allclose(box_convert(t["boxes"], "xyxy", "cxcywh") / 128, wanted["boxes"], atol=1e-6)
    assert same(coco_metrics(found, real), evaluate(model, toy, 4), 0)
    assert sum(r["objects"] for r in class_metrics(found, real, toy.class_names).values()) == sum(len(t["labels"]) for t in real)


def test_evaluate_no_gradients_and_empty_data():
    model = DETR(3, **TINY)
    assert all(math.isnan(v) for v in evaluate(model, []).values())
    evaluate(model, ToyDetectionDataset(2))
    assert all(p.grad is None for p in model.parameters())


def test_public_names():
    assert {"average_precision", "class_metrics", "coco_metrics", "evaluate", "METRICS"} <= set(module.__all__)
