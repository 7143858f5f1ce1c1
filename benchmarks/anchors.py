"""Detectors with anchors beside DETR: the same pictures, backbone and seconds; what NMS does to each.

    python benchmarks/anchors.py pace [--write]            a step of each, alternating: nbs/runs/anchors/pace.json
    python benchmarks/anchors.py train                     the runs in nbs/runs/anchors that are missing

RetinaNet and Faster R-CNN are torchvision's, on the book's small backbone. The chapter nbs/why_detr.ipynb reads what
this writes and calls the functions for its pictures.
"""
import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_convert, box_iou

from detr_lit.backbone import ConvNet
from detr_lit.data import SPLITS, ToyDetectionDataset, collate, random_shape, shape_mask, tight_box
from detr_lit.detr import DETR
from detr_lit.evaluate import coco_metrics, collect, find_hits
from detr_lit.speed import alternate
from detr_lit.train import RECIPES, Batches, Muon, Recipe, Trainer, as_json, checksum, new_model, precision, versions

RUNS = Path(__file__).parents[1] / "nbs/runs/anchors"
SEEDS, SECONDS = (31, 32, 33), 30
THRESHOLDS = tuple(n / 10 for n in range(1, 10))
Found = list[dict[str, Tensor]]


# ---------------------------------------------------------------- pictures
def iou(a: tuple, b: tuple) -> float:
    "Overlap of two boxes cx, cy, w, h."
    w, h = (min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1))
    both = max(w, 0.) * max(h, 0.)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def pair(rng: np.random.Generator, size: int, num_classes: int) -> tuple[int, np.ndarray] | None:
    """Two shapes of one class whose boxes overlap -> kind, owner [size, size] (0 behind, 1 in front, -1 none).

    Overlaps of 0.3 to 0.75 are about equally wanted; what can't be had (a quarter of each stays visible) gives None.
    """
    kind, _, (rows, cols), mask = random_shape(rng, size, num_classes)
    (h, w), y, x, wanted = mask.shape, rows.start, cols.start, rng.uniform(.3, .8)
    hs, ws = (np.maximum(12, n * rng.uniform(.75, 1.33, 16)).astype(int) for n in (h, w))
    ys, xs = (y + h * rng.uniform(-.5, .5, 16)).astype(int), (x + w * rng.uniform(-.5, .5, 16)).astype(int)
    gap = [abs(wanted - iou((x + w / 2, y + h / 2, w, h), (q + b / 2, p + a / 2, b, a)))
           if min(p, q) >= 0 and max(p + a, q + b) <= size else 1 for p, q, a, b in np.stack([ys, xs, hs, ws], 1).tolist()]
    k = int(np.argmin(gap))
    owner = np.full((size, size), -1)
    owner[rows, cols][mask] = 0
    if gap[k] > .1: return None
    owner[ys[k]:ys[k] + hs[k], xs[k]:xs[k] + ws[k]][shape_mask(kind, int(hs[k]), int(ws[k]))] = 1
    seen = (owner == 0).sum() >= mask.sum() / 4 and .3 <= iou(tight_box(owner == 0), tight_box(owner == 1)) <= .75
    return (kind, owner) if seen else None


class Crowds(Dataset):
    "1 to 3 pairs of shapes in an embrace; pairs keep clear of each other. Items as `ToyDetectionDataset`'s."
    def __init__(self, num_samples: int = 1000, image_size: int = 128, num_classes: int = 3, *, split: str = "train",
                 seed: int = 0):
        self.num_samples, self.image_size, self.split, self.seed = num_samples, image_size, split, seed
        self.class_names = ToyDetectionDataset(num_classes=num_classes).class_names

    def __len__(self) -> int: return self.num_samples

    def __getitem__(self, idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        if not 0 <= idx < len(self): raise IndexError(f"sample {idx} of {len(self)}")
        size, rng = self.image_size, np.random.default_rng((self.seed, SPLITS.index(self.split), idx, 2))
        image, free, labels, boxes = np.zeros((3, size, size), np.float32), np.ones((size, size), bool), [], []
        wanted = rng.integers(1, 4)
        for _ in range(200):
            if len(labels) == 2 * wanted: break
            made = pair(rng, size, len(self.class_names))
            if made is None or not free[made[1] >= 0].all(): continue
            kind, owner = made
            tone = int(rng.integers(3))
            for k in (0, 1):                                             # two bright colours that differ
                colour = rng.uniform(.1, 1, 3)
                colour[(tone + k) % 3], colour[(tone + k + 1) % 3] = 1, rng.uniform(.1, .7)
                image[:, owner == k] = colour[:, None]
                boxes.append(tight_box(owner == k)); labels.append(kind + 1)
            free &= owner < 0
        target = dict(boxes=torch.tensor(boxes).view(-1, 4) / size, labels=torch.tensor(labels, dtype=torch.int64))
        return torch.from_numpy(image), target


class Mixed(Dataset):
    "Even samples are the book's scenes, odd ones are crowds."
    def __init__(self, num_samples: int = 1_000_000, **where: Any):
        self.halves = ToyDetectionDataset(num_samples, **where), Crowds(num_samples, **where)
        self.class_names, self.image_size = self.halves[0].class_names, self.halves[0].image_size

    def __len__(self) -> int: return len(self.halves[0])

    def __getitem__(self, idx: int) -> tuple[Tensor, dict[str, Tensor]]: return self.halves[idx % 2][idx]


def exams(split: str = "test", seed: int = 8, n: int = 300) -> dict[str, Dataset]:
    "The pictures to judge by: the book's, and crowds."
    return dict(sparse=ToyDetectionDataset(n, split=split, seed=seed), crowded=Crowds(n, split=split, seed=seed))


# ---------------------------------------------------------------- detectors
class Features(nn.Sequential):
    "The backbone of the recipe `fast`, stride 8, and a 1 x 1 convolution: what torchvision's detectors ask for."
    def __init__(self, channels: int = 64):
        body = ConvNet(8)
        super().__init__(body, nn.Conv2d(body.channels, channels, 1))
        self.out_channels = channels


def anchor_grid() -> AnchorGenerator:
    "Five sizes and three shapes for each cell, for objects of 12 to 56 pixels."
    return AnchorGenerator(((12, 17, 24, 34, 48),), ((.5, 1., 2.),))


PICTURES = dict(min_size=128, max_size=128, _skip_resize=True)


def retinanet(num_classes: int = 3) -> RetinaNet:
    "torchvision's RetinaNet, small; group norm in its head, since it starts from nothing."
    anchors = anchor_grid()
    head = RetinaNetHead(64, anchors.num_anchors_per_location()[0], num_classes + 1, norm_layer=lambda c: nn.GroupNorm(8, c))
    return RetinaNet(Features(), num_classes + 1, anchor_generator=anchors, head=head, score_thresh=.01,
                     detections_per_img=100, **PICTURES)


def faster_rcnn(num_classes: int = 3) -> FasterRCNN:
    "torchvision's Faster R-CNN, small."
    parts = dict(rpn_anchor_generator=anchor_grid(), box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
                 box_head=TwoMLPHead(64 * 25, 128), box_predictor=FastRCNNPredictor(128, num_classes + 1))
    counts = dict(rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=100, rpn_pre_nms_top_n_test=300,
                  rpn_post_nms_top_n_test=100, rpn_batch_size_per_image=64, box_batch_size_per_image=64)
    return FasterRCNN(Features(), box_score_thresh=.01, **parts, **counts, **PICTURES)


class AnchorTrainer:
    "As `detr_lit.train.Trainer`: `step` moves a detector of torchvision's by one batch."
    def __init__(self, model: nn.Module, lr: float = 1e-3, muon: float = 0.02, clip: float = 1.0, bf16: bool = True):
        self.model, self.clip, self.bf16 = model.to(memory_format=torch.channels_last).train(), clip, bf16
        last = ("cls_logits", "bbox_", "cls_score", "bbox_pred")
        matrices = {n: p for n, p in model.named_parameters() if muon and p.ndim > 1 and not any(x in n for x in last)}
        rest = [p for n, p in model.named_parameters() if n not in matrices]
        adamw = torch.optim.AdamW(rest, lr, (.9, .98), weight_decay=1e-4, fused=True)
        self.optimizers: list[torch.optim.Optimizer] = [adamw]
        if muon: self.optimizers.append(Muon(matrices.values(), lr=muon))
        for o in self.optimizers:
            for g in o.param_groups: g["initial_lr"] = g["lr"]

    def step(self, batch: tuple, factor: float = 1.0) -> dict[str, Tensor]:
        images, _, targets = batch
        images = images.contiguous(memory_format=torch.channels_last)
        size = images.shape[-1]
        with precision(torch.device("cpu"), self.bf16):
            losses = self.model(list(images), [dict(t, boxes=box_convert(t["boxes"], "cxcywh", "xyxy") * size) for t in targets])
        total = torch.stack([v.float() for v in losses.values()]).sum()
        for o in self.optimizers: o.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if not (total + norm).isfinite(): raise FloatingPointError("the loss or its gradient is not finite; try a smaller lr")
        for o in self.optimizers:
            for g in o.param_groups: g["lr"] = g["initial_lr"] * factor
            o.step()
        return losses


# ---------------------------------------------------------------- what they find
@torch.no_grad()
def candidates(model: nn.Module, data: Dataset, batch_size: int = 25) -> tuple[Found, Found]:
    "-> (detections, truths) in pixels: of a detector with anchors all that its last NMS gets to see, of a DETR its answers."
    if isinstance(model, DETR): return collect(model, data, batch_size)
    part = model if isinstance(model, RetinaNet) else model.roi_heads
    before = part.nms_thresh, part.detections_per_img
    part.nms_thresh, part.detections_per_img = 1.0, 10_000
    found, truths = Found(), Found()
    try:
        model.eval()
        for images, _, targets in torch.utils.data.DataLoader(data, batch_size, collate_fn=collate):
            found += [{k: v[d["labels"] > 0] for k, v in d.items()} for d in model(list(images))]     # RetinaNet knows a class 0
            truths += [dict(t, boxes=box_convert(t["boxes"], "cxcywh", "xyxy") * images.shape[-1]) for t in targets]
    finally: (part.nms_thresh, part.detections_per_img) = before
    return found, truths


def suppress(found: Found, threshold: float) -> Found:
    "Non-maximum suppression, class by class; the surest 100 of an image are kept."
    kept = [batched_nms(d["boxes"], d["scores"], d["labels"], threshold)[:100] for d in found]
    return [{k: v[i] for k, v in d.items()} for d, i in zip(found, kept)]


def soften(found: Found, sigma: float = .5, floor: float = .01) -> Found:
    "Soft-NMS (Bodla et al. 2017), class by class: scores fall with every surer neighbour; below `floor` a box is left out."
    out = []
    for d in found:
        left, scores = d["scores"].clone(), torch.zeros_like(d["scores"])
        fade = (-box_iou(d["boxes"], d["boxes"]) ** 2 / sigma).exp()
        fade[d["labels"][:, None] != d["labels"]] = 1
        while len(left) and left.max() > floor:
            k = left.argmax()
            scores[k], left[k] = left[k], 0
            left *= fade[k]
        best = scores.argsort(descending=True)[:min(100, int((scores > 0).sum()))]
        out.append({k: v[best] for k, v in (d | dict(scores=scores)).items()})
    return out


def best_f1(found: Found, truths: Found, iou_threshold: float = .5) -> dict[str, float]:
    "Precision and recall at the score that makes their harmonic mean largest, classes together."
    scores, hits = [], []
    for d, t in zip(found, truths):
        for label in d["labels"].unique():
            mine = d["labels"] == label
            scores.append(d["scores"][mine])
            hits.append(find_hits(d["scores"][mine], d["boxes"][mine], t["boxes"][t["labels"] == label], iou_threshold))
    score, order = torch.cat(scores).sort(descending=True)
    right, n = torch.cat(hits)[order].cumsum(0), sum(len(t["labels"]) for t in truths)
    f1 = 2 * right / (n + torch.arange(1, len(right) + 1))
    k = int(f1.argmax())
    return dict(f1=f1[k].item(), precision=right[k].item() / (k + 1), recall=right[k].item() / n, score=score[k].item())


def judge(found: Found, truths: Found) -> dict[str, float]:
    "COCO's numbers that the chapter shows, and the best F1."
    scores = coco_metrics(found, truths)
    return {k: scores[k] for k in ("AP", "AP50", "AP_small", "AP_medium")} | best_f1(found, truths)


# ---------------------------------------------------------------- training
ANCHORS: dict[str, Callable] = dict(retinanet=retinanet, faster_rcnn=faster_rcnn)
SETTINGS: dict[str, dict[str, Any]] = dict(retinanet=dict(lr=1e-3, muon=.02), faster_rcnn=dict(lr=2e-3, muon=.03))


def trainer_of(name: str, data: Dataset, seed: int, **changes: Any) -> Any:
    "A trainer with a new model: a detector with anchors, or one of the recipes for DETR."
    if name in RECIPES: return Trainer(new_model(data, RECIPES[name], seed), RECIPES[name], torch.device("cpu"))
    torch.manual_seed(seed)
    return AnchorTrainer(ANCHORS[name](len(data.class_names)), **SETTINGS[name] | changes)


def factor(name: str, step: int, steps: int) -> float:
    "The multiplier of all step sizes: DETR's as its recipe says, the others' like that of `fast`."
    return RECIPES[name if name in RECIPES else "fast"].factor(step, steps)


def train(name: str, steps: int, seed: int, tests: dict[str, Dataset], looks: int = 5, **changes: Any) -> tuple[nn.Module, list]:
    "-> (model, history): AP and AP50 on each of the tests at `looks` equal distances, NMS at 0.5 where there is any."
    data = Mixed(seed=seed)
    trainer, history, began = trainer_of(name, data, seed, **changes), [], time.perf_counter()
    marks = {math.ceil(steps * (i + 1) / looks) for i in range(looks)}
    for step, batch in enumerate(Batches(len(data), 16, seed, 0, steps)):
        trainer.model.train()
        trainer.step(collate([data[i] for i in batch]), factor(name, step, steps))
        if step + 1 not in marks: continue
        row = dict(step=step + 1, seconds=time.perf_counter() - began)
        for which, test in tests.items():
            found, truths = candidates(trainer.model, test)
            scores = coco_metrics(found if name in RECIPES else suppress(found, .5), truths)
            row |= {f"{k}_{which}": scores[k] for k in ("AP", "AP50")}
        history.append(row)
    return trainer.model.eval(), history


def sweep(model: nn.Module, tests: dict[str, Dataset]) -> dict[str, dict[str, dict[str, float]]]:
    "{test: {threshold of NMS, none, or soft: `judge`}}."
    out = {}
    for which, test in tests.items():
        found, truths = candidates(model, test)
        cut = {"none": suppress(found, 1.0), "soft": soften(found)} | {str(t): suppress(found, t) for t in THRESHOLDS}
        out[which] = {t: judge(f, truths) for t, f in cut.items()}
    return out


def settings(name: str) -> dict[str, Any]:
    "What a run's training was told, as it comes back from a file."
    return as_json(asdict(RECIPES[name]) if name in RECIPES else SETTINGS[name])


def short(value: Any) -> Any:
    "Numbers with five digits, however deep they lie."
    if isinstance(value, dict): return {k: short(v) for k, v in value.items()}
    if isinstance(value, list): return [short(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def plan(name: str, seed: int) -> dict[str, Any]:
    "A run's configuration: as many steps as its seconds allow on two quiet cores."
    ms = json.loads((RUNS / "pace.json").read_text())["milliseconds"][name]
    return dict(task="why", name=name, seconds=SECONDS, seed=seed, num_steps=round(1000 * SECONDS / ms), settings=settings(name))


def known(config: dict[str, Any]) -> dict[str, Any]:
    "A stored configuration; what recipes have learnt to say since then is at its default."
    if config["name"] not in RECIPES: return config
    return as_json(config | dict(settings=asdict(Recipe(**config["settings"]))))


def stored(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    "The run in a folder, if it is this one and whole."
    if not (file := folder / "run.json").exists(): return None
    run = json.loads(file.read_text())
    whole = known(run["config"]) == config and all(checksum(folder / f) == c for f, c in run["files"].items())
    return run if whole else None


def store(folder: Path, config: dict[str, Any], model: nn.Module | None, **results: Any) -> dict[str, Any]:
    "Write a run, with the weights of a model in half precision if there is one -> the run."
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        save_file(half, folder / "model.safetensors")
    files = ["model.safetensors"] if model is not None else []
    run = dict(config=config, versions=versions(), files={f: checksum(folder / f) for f in files}, **short(results))
    (folder / "run.json").write_text(json.dumps(run, separators=(",", ":")) + "\n")
    return run


def load_or_run(name: str, seed: int, *, folder: Path | None = None, again: bool = False) -> dict[str, Any]:
    """A run if its folder holds it, whole; else train and write it -> config, history, nms, files, versions.

    The curve is taken on a third of the pictures, the end on all. The first seed keeps its weights, in half precision.
    """
    folder, config = folder or RUNS / f"{name}-{seed}", plan(name, seed)
    if not again and (run := stored(folder, config)): return run
    model, history = train(name, config["num_steps"], seed, exams(n=100))
    nms = sweep(model, exams())
    end = nms["sparse"]["none" if name in RECIPES else "0.5"]
    history[-1] |= {k: end[k] for k in ("AP", "AP50")}
    return store(folder, config, model if seed == SEEDS[0] else None, history=history, nms=nms)


def kept_model(name: str) -> nn.Module:
    "The detector whose weights were kept, ready to use."
    folder = RUNS / f"{name}-{SEEDS[0]}"
    model = trainer_of(name, Mixed(), SEEDS[0]).model
    model.load_state_dict(load_file(folder / "model.safetensors"))                          # into float32
    return model.eval()


# ---------------------------------------------------------------- seconds
def pace(names: list[str], rounds: int, batch_size: int = 16) -> dict[str, float]:
    "Median milliseconds of a step (loading, forwards, loss, backwards, optimisers), the detectors alternating."
    data, place = Mixed(), itertools.count()

    def stepper(name: str) -> Callable[[], Any]:
        trainer = trainer_of(name, data, 0)
        return lambda: trainer.step(collate([data[next(place)] for _ in range(batch_size)]), .1)

    seconds = alternate({name: stepper(name) for name in names}, rounds)
    return {name: round(1000 * statistics.median(t), 1) for name, t in seconds.items()}


NAMES = [*ANCHORS, "fast"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pace", "train"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="of pace: store it")
    args = parser.parse_args()
    if args.what == "train":
        for name, seed in itertools.product(NAMES, SEEDS):
            print(f"{name:12} seed {seed}   AP {load_or_run(name, seed)['history'][-1]['AP']:.3f}", flush=True)
        return
    milliseconds = pace(NAMES, args.rounds)
    for name, ms in milliseconds.items(): print(f"{ms:8.1f} ms   {name}")
    if args.write:
        RUNS.mkdir(parents=True, exist_ok=True)
        made = dict(milliseconds=milliseconds, rounds=args.rounds, versions=versions())
        (RUNS / "pace.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__": main()
