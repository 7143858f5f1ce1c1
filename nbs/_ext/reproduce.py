"""Retrain the runs in nbs/runs from their own configuration and compare.

`make reproduce`, or `make reproduce ARGS="toy-laptop-0 --write"` for one, kept.

A run reproduces if its final AP50 on the held-out pictures is within the tolerance of the stored one. Equal seeds give
equal weights on one machine; another processor rounds differently, and a thousand steps amplify that, so the
tolerance is that of a new seed.
"""
import argparse
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from detr_lit.data import ToyDetectionDataset
from detr_lit.datasets import TreeCrowns
from detr_lit.duplicates import DuplicateReport
from detr_lit.layers import LayerWatch
from detr_lit.mistakes import scoring
from detr_lit.queries import asking
from detr_lit.specialisation import watching
from detr_lit.train import Recipe, load_or_train
from detr_lit.voc import PascalVOC, start_from, write_trees

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "nbs" / "runs"
# The ladder is judged in mid-climb, where seeds differ most.
TOLERANCE = {"toy": 0.05, "toy-test": 0.15, "toy-exam": 0.05, "trees": 0.10, "toy-crowd": 0.10, "toy-layers": 0.15,
             "why": 0.05, "voc-trees": 0.10, "voc-trees-toy": 0.10, "voc-trees-toy-frozen": 0.10,
             "toy-queries": 0.15, "toy-places": 0.15, "toy-frames": 0.15, "crowns-anchors": 0.10}
SHARES = {"trees-eighth": 1 / 8, "trees-quarter": 1 / 4, "trees-half": 1 / 2, "trees-whole": 1.0}
TOLERANCE |= dict.fromkeys(SHARES, 0.10)
FILMED = {"toy-frames"}                                          # what chapter 09 looks at in training: it alone writes them
SCRIPTS = {"why": "anchors", "crowns-anchors": "crowns"}         # detectors with anchors have loops of their own
MEASURES = {"toy-crowd": DuplicateReport, "toy-layers": LayerWatch}


def data_of(task: str, seed: int):
    "What the chapters train and judge on: the photographs are the copies that lie beside them."
    exams = {"toy": dict(split="val"), "toy-test": dict(split="test"), "toy-exam": dict(split="test", seed=2),
             "toy-queries": dict(split="test", seed=5), "toy-places": dict(split="test", seed=7)}
    if task == "toy-frames": return ToyDetectionDataset(1_000_000, seed=seed), ToyDetectionDataset(32, split="test")
    if task in exams: return ToyDetectionDataset(1_000_000, seed=seed), ToyDetectionDataset(500, **exams[task])
    if task in MEASURES:
        crowd = dict(max_objects=10)
        return ToyDetectionDataset(1_000_000, seed=seed, **crowd), ToyDetectionDataset(300, split="test", seed=6, **crowd)
    photos = RUNS / "tree_photos"
    if task.startswith("voc-trees"):
        tree = write_trees(tempfile.mkdtemp(), photos)
        train = PascalVOC(tree, sets=[("2007", "trainval")], short=160, passes=1000, seed=seed)
        return train, PascalVOC(tree, "test", short=160)
    share = SHARES.get(task, 1.0)
    return TreeCrowns("train", photos, seed=seed, num_samples=1_000_000, share=share), TreeCrowns("val", photos)


def start_of(task: str, seed: int) -> dict:
    "The model that a training goes on with, if it has one, as an argument of `load_or_train`."
    if not task.startswith("voc-trees-toy"): return {}
    freeze = ("backbone",) if task.endswith("frozen") else ()
    return dict(model=lambda: start_from("toy", ("tree",), num_queries=32, freeze=freeze, seed=seed))


def remake(folder: Path, into: Path) -> tuple[dict, dict]:
    "-> (the stored run, the same run trained anew into another folder)."
    old = json.loads((folder / "run.json").read_text())
    config = dict(old["config"])
    if config["task"] in SCRIPTS:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        script = import_module(SCRIPTS[config["task"]])
        return old, script.load_or_run(config["name"], config["seed"], folder=into, again=True)
    recipe, task, steps = Recipe(**config.pop("recipe")), config["task"], config.pop("num_steps")
    kept = [f for f in old["files"] if f.endswith("model.safetensors")]
    weights = (folder / kept[0]).resolve().parent if kept and into == folder else into / "weights" if kept else None
    train, val = data_of(task, config["seed"])
    measure = MEASURES[task](val) if task in MEASURES else None
    if task in SHARES:
        ground = TreeCrowns("train", RUNS / "tree_photos", augment=False, share=SHARES[task])
        measure = scoring(ground, "AP50_known", steps)
    if (seen := old.get("seen")) and task not in FILMED:
        note = asking if "picture" in seen[0] else watching
        measure = note(val, [look["step"] for look in seen])
    more = dict(data=train, val=val, measure=measure, log_every=int(old["history"][0]["step"])) | start_of(task, config["seed"])
    return old, load_or_train(into, steps, recipe=recipe, weights=weights, again=True, **more, **config)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="folders in nbs/runs, ladder/gaze-3 say; all by default")
    parser.add_argument("--write", action="store_true", help="replace the stored runs")
    args = parser.parse_args()
    folders = [RUNS / n for n in args.names] or sorted(p.parent for p in RUNS.rglob("run.json"))
    bad = []
    for folder in folders:
        with tempfile.TemporaryDirectory() as tmp:
            filmed = json.loads((folder / "run.json").read_text())["config"]["task"] in FILMED
            if filmed and args.write: print(f"{folder}: chapter 09 writes it, once the folder is gone; compared only")
            old, new = remake(folder, folder if args.write and not filmed else Path(tmp))
        a, b = (r["history"][-1] for r in (old, new))
        ok = abs(a["AP50"] - b["AP50"]) <= TOLERANCE[old["config"]["task"]]
        print(f"{folder.relative_to(RUNS).as_posix():40} "
              f"AP50 {a['AP50']:.3f} -> {b['AP50']:.3f}   AP {a['AP']:.3f} -> {b['AP']:.3f}   "
              f"{a['seconds']:.0f} s -> {b['seconds']:.0f} s   {'ok' if ok else 'NOT reproduced'}", flush=True)
        if not ok: bad.append(folder)
    print(f"{len(folders) - len(bad)} of {len(folders)} runs reproduced; they are in {RUNS}")
    return bool(bad)


if __name__ == "__main__": sys.exit(main())
