"""Milliseconds a step of every rung of the ladder: all rungs in turn, again and again, in one process; medians.

    python benchmarks/pace.py [--rounds 15] [--write]         (--write: into nbs/runs/ladder/pace.json, which chapter 18 reads)

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

FILE = Path(__file__).parents[1] / "nbs/runs/ladder/pace.json"


def pace(recipes: dict[str, Recipe], rounds: int, batch_size: int = 16) -> dict[str, float]:
    "Median milliseconds of a step of each recipe, the recipes alternating."
    data, place = ToyDetectionDataset(1_000_000), itertools.count()

    def stepper(recipe: Recipe):
        trainer = Trainer(new_model(data, recipe, 0), recipe, torch.device("cpu"))
        return lambda: trainer.step(collate([data[next(place)] for _ in range(batch_size)]), 1e-3)

    seconds = alternate({name: stepper(recipe) for name, recipe in recipes.items()}, rounds)
    return {name: round(1000 * statistics.median(t), 1) for name, t in seconds.items()}


def command(recipes: dict[str, Recipe], file: Path, what: str) -> None:
    "Time the recipes as the command line says, print, and store."
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    milliseconds = pace(recipes, args.rounds)
    for name, ms in milliseconds.items(): print(f"{ms:8.1f} ms   {name}")
    if args.write:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(milliseconds=milliseconds, rounds=args.rounds, versions=versions()), indent=1) + "\n")


if __name__ == "__main__": command(LADDER, FILE, __doc__)
