"""The detectors with anchors of the first chapter: their pictures, their NMS, and a training of seconds."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_convert, box_iou

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import anchors as script

from detr_lit.data import ToyDetectionDataset, collate


def corners(target):
    return 128 * box_convert(target["boxes"], "cxcywh", "xyxy")


def test_crowds_are_pairs_that_overlap():
    for image, target in script.Crowds(60, split="test"):
        boxes, labels = corners(target), target["labels"]
        assert image.shape == (3, 128, 128) and 0 <= image.min() and image.max() <= 1
        assert 2 <= len(labels) <= 6 and len(labels) % 2 == 0 and torch.equal(labels[::2], labels[1::2])
        overlap = box_iou(boxes[::2], boxes[1::2]).diag()
        assert (overlap >= 0.299).all() and (overlap <= 0.751).all()
        colours = image.flatten(1).T.unique(dim=0)
        assert len(colours) == len(labels) + 1  # black, and one for each


def test_a_crowd_has_an_address():
    a, b, c = (script.Crowds(9, split=s, seed=n)[5] for s, n in (("val", 1), ("val", 1), ("test", 1)))
    assert torch.equal(a[0], b[0]) and not torch.equal(a[0], c[0])
    with pytest.raises(IndexError): script.Crowds(9)[9]


def test_half_of_the_training_pictures_are_crowds():
    data = script.Mixed(10, seed=3)
    assert torch.equal(data[4][0], ToyDetectionDataset(10, seed=3)[4][0])
    assert torch.equal(data[5][0], script.Crowds(10, seed=3)[5][0]) and len(data) == 10


@pytest.mark.parametrize("name", [*script.ANCHORS, "fast"])
def test_every_detector_learns_to_fit_one_batch(name):
    data = script.Mixed(4)
    trainer, batch = script.trainer_of(name, data, 0), collate([data[i] for i in range(4)])
    loss = []
    for _ in range(25):
        out = trainer.step(batch, 0.5)
        losses = out[0]["total"] if name == "fast" else sum(out.values())
        loss.append(losses.item())
    assert loss[-1] < 0.7 * loss[0]


def test_all_candidates_are_seen_and_the_detector_is_left_as_it_was():
    torch.manual_seed(0)
    model = script.retinanet().eval()
    model.score_thresh = 0.0
    found, truths = script.candidates(model, script.exams(n=2)["sparse"])
    assert len(found[0]["boxes"]) > 400 and (model.nms_thresh, model.detections_per_img) == (0.5, 100)
    cut = script.suppress(found, 0.5)
    assert len(cut[0]["boxes"]) == 100 and len(truths) == 2
    same = cut[0]["labels"][:, None] == cut[0]["labels"]
    assert (box_iou(cut[0]["boxes"], cut[0]["boxes"]).fill_diagonal_(0)[same] <= 0.5).all()


def test_soft_suppression_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 10], [50, 50, 60, 60]])
    found = dict(boxes=boxes, labels=torch.tensor([1, 1, 2, 1]), scores=torch.tensor([0.9, 0.8, 0.7, 0.02]))
    (soft,) = script.soften([found], sigma=0.5)
    assert soft["scores"].tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-0.25 / 0.5), 0.02])
    assert soft["labels"].tolist() == [1, 2, 1, 1] and torch.equal(found["scores"], torch.tensor([0.9, 0.8, 0.7, 0.02]))
    assert [len(d["scores"]) for d in script.soften([{k: v[:0] for k, v in found.items()}])] == [0]


def test_best_f1_by_hand():
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    truth = dict(boxes=objects, labels=torch.tensor([1, 2]))
    found = dict(
        boxes=torch.cat([objects, objects]), labels=torch.tensor([1, 2, 1, 1]), scores=torch.tensor([0.9, 0.6, 0.8, 0.1])
    )
    got = script.best_f1([found], [truth])  # right, a double, right, another class
    assert got == pytest.approx(dict(f1=0.8, precision=2 / 3, recall=1, score=0.6))


def test_a_run_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "plan", lambda *a: dict(task="why", num_steps=2, name=a[0], seed=a[1]))
    monkeypatch.setattr(script, "exams", lambda n=2: dict(sparse=ToyDetectionDataset(2), crowded=script.Crowds(2)))
    run = script.load_or_run("retinanet", 31, folder=tmp_path)
    assert run["history"][-1]["step"] == 2 and run["nms"]["crowded"].keys() == {"none", "soft", *map(str, script.THRESHOLDS)}
    assert run == json.loads((tmp_path / "run.json").read_text()) == script.load_or_run("retinanet", 31, folder=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert script.load_or_run("retinanet", 31, folder=tmp_path)["files"] == run["files"]
    assert (tmp_path / "model.safetensors").read_bytes() != b"broken"
