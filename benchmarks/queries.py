"""Milliseconds a step of one recipe with 1 to 100 queries: all in turn, again and again, in one process; medians.

    python benchmarks/queries.py [--rounds 15] [--write]      (--write: into nbs/runs/by_number/pace.json, which chapter 11 reads)
"""
from pace import FILE, command

from detr_lit.ladder import rung
from detr_lit.train import RECIPES

if __name__ == "__main__":
    recipes = {str(n): rung(RECIPES["laptop"], num_queries=n, surplus=True) for n in (1, 2, 3, 5, 10, 25, 100)}
    command(recipes, FILE.parents[1] / "by_number/pace.json", __doc__)
