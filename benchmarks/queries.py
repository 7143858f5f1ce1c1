"""Milliseconds a step of one recipe with 1 to 100 queries: all in turn, again and again, in one process; medians.

    python benchmarks/queries.py [--rounds 15] [--write]      (--write: into nbs/runs/by_number/pace.json, which chapter 11 reads)
"""
import argparse
import json
from pathlib import Path

from pace import pace

from detr_lit.ladder import rung
from detr_lit.train import RECIPES, versions

FILE = Path(__file__).parents[1] / "nbs/runs/by_number/pace.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    recipes = {str(n): rung(RECIPES["laptop"], num_queries=n, surplus=True) for n in (1, 2, 3, 5, 10, 25, 100)}
    milliseconds = pace(recipes, args.rounds)
    for n, ms in milliseconds.items(): print(f"{ms:8.1f} ms   {n} queries")
    if args.write:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(dict(milliseconds=milliseconds, rounds=args.rounds, versions=versions()), indent=1) + "\n")


if __name__ == "__main__": main()
