"""Milliseconds a step of every rung of the ladder: all rungs in turn, again and again, in one process; medians.

    python benchmarks/pace.py [--rounds 15] [--write]         (--write: into nbs/runs/ladder/pace.json, which chapter 18 reads)

A step is loading 16 pictures, forwards, loss, backwards and the optimisers.
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.ladder import LADDER
from detr_lit.train import Recipe, Trainer, new_model, versions

FILE = Path(__file__).parents[1] / "nbs/runs/ladder/pace.json"


def pace(recipes: dict[str, Recipe], rounds: int = 15, warm: int = 3, batch_size: int = 16) -> dict[str, float]:
    "Median milliseconds of a step of each recipe, the recipes alternating."
    data = ToyDetectionDataset(1_000_000)
    trainers = {name: Trainer(new_model(data, r, 0), r, torch.device("cpu")) for name, r in recipes.items()}
    took: dict[str, list[float]] = {name: [] for name in recipes}
    for i in range(warm + rounds):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            trainer.step(collate([data[batch_size * i + k] for k in range(batch_size)]), 1e-3)
            if i >= warm: took[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(t), 1) for name, t in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    milliseconds = pace(LADDER, args.rounds)
    for name, ms in milliseconds.items(): print(f"{ms:8.1f} ms   {name}")
    if args.write:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(dict(milliseconds=milliseconds, rounds=args.rounds, versions=versions()), indent=1) + "\n")


if __name__ == "__main__": main()
