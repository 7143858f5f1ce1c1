"""A detector with anchors on the trees, beside DETR: same photograph, crops, backbone and seconds.

    python benchmarks/crowns.py pace [--write]             a step of both, alternating: nbs/runs/crowns/pace.json
    python benchmarks/crowns.py tune                       settings tried at a third of the length: nbs/runs/crowns/tuning.json
    python benchmarks/crowns.py train                      the runs nbs/runs/crowns/retinanet-* that are missing

RetinaNet is torchvision's. Its trainer is that of anchors.py, its weights are averaged as the recipe `crowns` does.
The chapter nbs/16b_crowns.ipynb reads what this writes.
"""
import argparse
import copy
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from anchors import AnchorTrainer, Found, candidates, short, store, stored, suppress
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from detr_lit.backbone import resnet_body
from detr_lit.data import collate
from detr_lit.datasets import TreeCrowns
from detr_lit.evaluate import coco_metrics
from detr_lit.speed import alternate
from detr_lit.train import RECIPES, Batches, Trainer, as_json, follow, new_model, versions

ROOT = Path(__file__).parents[1] / "nbs/runs"
RUNS, PHOTOS = ROOT / "crowns", ROOT / "tree_photos"
SEEDS, STEPS, BATCH = (0, 1, 2), 1200, 16
CROWNS = RECIPES["crowns"]
THRESHOLDS = (.2, .3, .4, .5)
SETTINGS: dict[str, Any] = dict(lr=1e-3, muon=.02, channels=64, sides=[14, 20, 28, 38, 52])
# What was tried on the held-out photograph, as DETR's recipe was; the first is SETTINGS.
TRIES: dict[str, dict[str, Any]] = {
    "AdamW and Muon": {}, "half the step sizes": dict(lr=5e-4, muon=.01), "AdamW alone": dict(muon=0.),
    "AdamW alone, a third": dict(lr=3e-4, muon=0.), "twice the channels": dict(channels=128),
    "three sizes of anchors": dict(sides=[16, 28, 48])}


class Features(nn.Sequential):
    "The backbone of the recipe `crowns`, and a 1 x 1 convolution: what torchvision's detectors ask for."
    def __init__(self, channels: int):
        body, width = resnet_body("resnet18", CROWNS.model["stride"], norm=CROWNS.model["norm"])
        super().__init__(body, nn.Conv2d(width, channels, 1))
        self.out_channels = channels


def retinanet(channels: int, sides: list[int], image_size: int = 160) -> RetinaNet:
    "torchvision's RetinaNet for one class, anchors for crowns of 12 to 60 pixels; group norm, since it starts from nothing."
    anchors = AnchorGenerator((tuple(sides),), ((.75, 1., 1.33),))
    head = RetinaNetHead(channels, anchors.num_anchors_per_location()[0], 2, norm_layer=lambda c: nn.GroupNorm(8, c))
    return RetinaNet(Features(channels), 2, anchor_generator=anchors, head=head, score_thresh=.01, detections_per_img=100,
                     min_size=image_size, max_size=image_size, _skip_resize=True)


def trainer_of(seed: int, lr: float, muon: float, **parts: Any) -> AnchorTrainer:
    "A trainer with a new RetinaNet."
    torch.manual_seed(seed)
    return AnchorTrainer(retinanet(**parts), lr=lr, muon=muon, clip=CROWNS.clip, bf16=CROWNS.bf16)


def crops(seed: int) -> TreeCrowns:
    "What both are trained on."
    return TreeCrowns("train", PHOTOS, num_samples=1_000_000, seed=seed)


def exam() -> TreeCrowns:
    "What both are judged on."
    return TreeCrowns("val", PHOTOS)


def train(seed: int, steps: int, settings: dict[str, Any], looks: int = 4) -> tuple[nn.Module, list[dict[str, float]]]:
    "-> (averaged model, history): AP50 and AP on the held-out photograph at each threshold of NMS, at `looks` equal distances."
    trainer, data, history, began = trainer_of(seed, **settings), crops(seed), [], time.perf_counter()
    average = copy.deepcopy(trainer.model).eval()
    marks = {math.ceil(steps * (i + 1) / looks) for i in range(looks)}
    for step, batch in enumerate(Batches(len(data), BATCH, seed, 0, steps)):
        trainer.step(collate([data[i] for i in batch]), CROWNS.factor(step, steps))
        follow(trainer.model, average, min(CROWNS.average, (step + 1) / (step + 10)))
        if step + 1 not in marks: continue
        row = dict(step=step + 1, seconds=time.perf_counter() - began)
        found, truths = candidates(average, exam())
        for threshold in THRESHOLDS:
            scores = coco_metrics(suppress(found, threshold), truths)
            row |= {f"{k}_{threshold}": scores[k] for k in ("AP", "AP50")}
        history.append(row)
    return average, history


def best_threshold(row: dict[str, float]) -> float:
    "The threshold of NMS that gives the largest AP50 in a row of a history."
    return max(THRESHOLDS, key=lambda t: row[f"AP50_{t}"])


def plan(seed: int) -> dict[str, Any]:
    "A run's configuration: as many steps as take the time of DETR's."
    ms = json.loads((RUNS / "pace.json").read_text())["milliseconds"]
    tried = json.loads((RUNS / "tuning.json").read_text())["tries"]
    best = max(tried, key=lambda name: tried[name][-1][f"AP50_{best_threshold(tried[name][-1])}"])
    steps = round(STEPS * ms["crowns"] / ms["retinanet"])
    return dict(task="crowns-anchors", name="retinanet", seed=seed, num_steps=steps, settings=as_json(SETTINGS | TRIES[best]))


def load_or_run(name: str, seed: int, *, folder: Path | None = None, again: bool = False) -> dict[str, Any]:
    "A run if its folder holds it, whole; else train and write it. The first seed keeps its weights, in half precision."
    folder, config = folder or RUNS / f"{name}-{seed}", plan(seed)
    if not again and (run := stored(folder, config)): return run
    model, history = train(seed, config["num_steps"], config["settings"])
    threshold = best_threshold(history[-1])
    history[-1] |= {k: history[-1][f"{k}_{threshold}"] for k in ("AP", "AP50")}
    return store(folder, config, model if seed == SEEDS[0] else None, history=history)


def kept_model() -> nn.Module:
    "The RetinaNet whose weights were kept, ready to use."
    settings = {k: v for k, v in plan(SEEDS[0])["settings"].items() if k in ("channels", "sides")}
    model = retinanet(**settings)
    model.load_state_dict(load_file(RUNS / f"retinanet-{SEEDS[0]}" / "model.safetensors"))       # into float32
    return model.eval()


def detections(model: nn.Module, data: TreeCrowns, threshold: float) -> tuple[Found, Found]:
    "-> (detections after NMS, truths), in pixels of the tiles."
    found, truths = candidates(model, data)
    return suppress(found, threshold), truths


def pace(rounds: int) -> dict[str, float]:
    "Median milliseconds of a step of each (crops, forwards, loss, backwards, optimisers), alternating."
    data, place = crops(0), itertools.count()
    detr = Trainer(new_model(data, CROWNS, 0), CROWNS, torch.device("cpu"))
    anchors = trainer_of(0, **SETTINGS)
    both = {name: lambda t=t: t.step(collate([data[next(place)] for _ in range(BATCH)]), .1)
            for name, t in (("crowns", detr), ("retinanet", anchors))}
    return {name: round(1000 * statistics.median(t), 1) for name, t in alternate(both, rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pace", "tune", "train"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="of pace: store it")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.what == "pace":
        made = dict(milliseconds=pace(args.rounds), rounds=args.rounds, versions=versions())
        print(made["milliseconds"])
        if args.write: (RUNS / "pace.json").write_text(json.dumps(made, indent=1) + "\n")
    elif args.what == "tune":
        tries = {}
        for name, changes in TRIES.items():
            tries[name] = short(train(SEEDS[0], STEPS // 3, SETTINGS | changes, 2)[1])
            print(name, tries[name][-1], flush=True)
        (RUNS / "tuning.json").write_text(json.dumps(dict(tries=tries, steps=STEPS // 3, versions=versions()), indent=1) + "\n")
    else:
        for seed in SEEDS:
            print(f"seed {seed}   AP50 {load_or_run('retinanet', seed)['history'][-1]['AP50']:.3f}", flush=True)


if __name__ == "__main__": main()
