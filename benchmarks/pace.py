"""Milliseconds a step of every rung of the ladder: all rungs in turn, again and again, in one process; medians.

    python benchmarks/pace.py [--rounds 15] [--write]         (--write: into nbs/runs/ladder/pace.json, which chapter 18 reads)
    python benchmarks/pace.py --auxloss ...                   (chapter 13's two recipes: nbs/runs/auxloss/pace.json)

A step is loading 16 pictures, forwards, loss, backwards and the optimisers.
"""
import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.ladder import LADDER
from detr_lit.speed import alternate
from detr_lit.train import Recipe, Trainer, new_model, versions

RUNS = Path(__file__).parents[1] / "nbs/runs"


def pace(recipes: dict[str, Recipe], rounds: int, batch_size: int = 16, max_objects: int = 5) -> dict[str, float]:
    "Median milliseconds of a step of each recipe, the recipes alternating."
    data, place = ToyDetectionDataset(1_000_000, max_objects=max_objects), itertools.count()

    def stepper(recipe: Recipe):
        trainer = Trainer(new_model(data, recipe, 0), recipe, torch.device("cpu"))
        return lambda: trainer.step(collate([data[next(place)] for _ in range(batch_size)]), 1e-3)

    seconds = alternate({name: stepper(recipe) for name, recipe in recipes.items()}, rounds)
    return {name: round(1000 * statistics.median(t), 1) for name, t in seconds.items()}


def stored() -> dict[str, Recipe]:
    "The recipes of chapter 13's runs."
    configs = {name: json.loads((RUNS / f"auxloss/{name}-21/run.json").read_text())["config"] for name in ("all", "last")}
    return {name: Recipe(**config["recipe"]) for name, config in configs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--auxloss", action="store_true")
    args = parser.parse_args()
    file = RUNS / ("auxloss" if args.auxloss else "ladder") / "pace.json"
    milliseconds = pace(stored(), args.rounds, max_objects=10) if args.auxloss else pace(LADDER, args.rounds)
    for name, ms in milliseconds.items(): print(f"{ms:8.1f} ms   {name}")
    if args.write:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(milliseconds=milliseconds, rounds=args.rounds, versions=versions()), indent=1) + "\n")


if __name__ == "__main__": main()
