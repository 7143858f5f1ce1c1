"""How cost grows: seconds and memory against picture side, queries, objects, batch, layers, and tokens.

    python benchmarks/growth.py [--only SWEEP ...] [--repeats 3] [--write] [--smoke]

Each sweep runs in a process of its own. Memory is the most that a call holds at a time of what PyTorch allocates: weights
and inputs don't count, nor do the libraries' own buffers. Exponents are slopes in double logarithm over the upper half of
the sizes. --write stores nbs/runs/bench/growth.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import ROOT, Step, in_fresh_process, judges, made_by, pictures, store, trains, working_megabytes
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from detr_lit.detr import DETR
from detr_lit.speed import alternate, count_flops, fit_exponent, for_inference, parts

R18 = dict(num_classes=91, num_queries=100, backbone_name="resnet18")
Curves = dict[str, Step]


def side(n: int) -> tuple[Curves, Curves]:
    "The parts of a forward pass, and what to count operations of: the same."
    torch.manual_seed(0)
    image = pictures(1, n, n, "cpu").contiguous(memory_format=torch.channels_last)
    found = parts(for_inference(DETR(**R18)), image)
    return found, found


def tokens(n: int) -> tuple[Curves, Curves]:
    "One self-attention, table written out or fused, and one encoder layer's network beside it."
    torch.manual_seed(0)
    x = torch.randn(1, n, 256)
    attention = nn.MultiheadAttention(256, 8, batch_first=True).eval().requires_grad_(False)
    ffn = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256)).requires_grad_(False)

    def attend() -> Any:
        return attention(x, x + 1, x, need_weights=False)

    def plain() -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return attend()

    return {"fused attention": attend, "plain attention": plain, "network": lambda: ffn(x)}, {
        "plain attention": plain, "network": lambda: ffn(x)}  # fmt: skip


def queries(n: int) -> tuple[Curves, Curves]:
    torch.manual_seed(0)
    found = parts(for_inference(DETR(**(R18 | dict(num_queries=n)))), pictures(1, 512, 512, "cpu"))
    loss = judges("ours", n, 4, 10, counts=[min(10, n)] * 4)
    return {"decoder": found["decoder"], "matching and loss": loss}, {"decoder": found["decoder"]}


def targets(m: int) -> tuple[Curves, Curves]:
    return {"matching and loss": judges("ours", 300, 4, m, counts=[m] * 4)}, {}


def assignment(n: int) -> tuple[Curves, Curves]:
    "scipy's assignment of a square table: of random costs, and of products, the classical hard case."
    g = torch.Generator().manual_seed(0)
    random, i = torch.rand(n, n, generator=g).numpy(), torch.arange(1.0, n + 1)
    hard = (i[:, None] * i).numpy()
    return {"random costs": lambda: linear_sum_assignment(random), "hard costs": lambda: linear_sum_assignment(hard)}, {}


def batch(n: int) -> tuple[Curves, Curves]:
    return {"training step": trains("ours", R18, (n, 128, 128))}, {}


def layers(n: int) -> tuple[Curves, Curves]:
    torch.manual_seed(0)
    model = for_inference(DETR(**(R18 | dict(n_enc_layers=n, n_dec_layers=n))))
    found = parts(model, pictures(1, 512, 512, "cpu"))
    both = {k: found[k] for k in ("encoder", "decoder")}
    return both, both


# name: (how, sizes, theory: how fast it grows at worst)
SWEEPS: dict[str, tuple[Callable[[int], tuple[Curves, Curves]], list[int], dict[str, float]]] = {
    "side": (side, [128, 256, 384, 512, 800, 1066, 1333], dict(backbone=2, encoder=4, decoder=2)),
    "tokens": (tokens, [256, 512, 1024, 2048, 4096], {"fused attention": 2, "plain attention": 2, "network": 1}),
    "queries": (queries, [10, 30, 100, 300, 1000], {"decoder": 2, "matching and loss": 1}),
    "objects": (targets, [0, 10, 30, 100, 300], {"matching and loss": 3}),
    "assignment": (assignment, [50, 100, 200, 400, 800], {"random costs": 3, "hard costs": 3}),
    "batch": (batch, [1, 2, 4, 8, 16], {"training step": 1}),
    "layers": (layers, [1, 2, 4, 8, 12], dict(encoder=1, decoder=1)),
}
SMALLEST = {"side": [64, 96], "tokens": [16, 32], "queries": [5, 10], "objects": [0, 5], "assignment": [8, 16],
            "batch": [1, 2], "layers": [1, 2]}  # fmt: skip


def sweep(name: str, repeats: int, smoke: bool) -> dict[str, Any]:
    "Every size of a sweep: seconds, memory and operations of each curve."
    how, sizes, _ = SWEEPS[name]
    rows: list[dict[str, Any]] = []
    curves = counted = {}
    with torch.no_grad() if name != "batch" else torch.enable_grad():
        for n in SMALLEST[name] if smoke else sizes:
            curves = counted = {}  # the last size's models go first
            gc.collect()
            curves, counted = how(n)
            seconds = {k: statistics.median(s) for k, s in alternate(curves, repeats).items()}
            memory = {k: working_megabytes(f) for k, f in curves.items()} if name != "assignment" else {}
            rows.append(dict(size=n, seconds=seconds, mb=memory, flops={k: count_flops(f) for k, f in counted.items()}))
    return dict(rows=rows)


def slopes(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    "The exponent of every curve, over the upper half of the sizes."
    upper = [r for r in rows if r["size"] > 0][-max(2, (len(rows) + 1) // 2) :]
    if len(upper) < 2:
        return {}
    names = upper[0][key]
    return {k: fit_exponent([r["size"] for r in upper], [r[key][k] for r in upper]) for k in names if upper[0][key][k] > 0}


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SWEEPS), default=list(SWEEPS), metavar="SWEEP")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result (with --only: in what is there)")
    parser.add_argument("--folder", type=Path, default=ROOT / "nbs/runs/bench", help="where --write writes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--alone", choices=list(SWEEPS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.alone:
        print(json.dumps(sweep(args.alone, args.repeats, args.smoke)))
        return None
    result: dict[str, Any] = dict(made_by=made_by("cpu", args.repeats), sweeps={})
    if args.write and (old := args.folder / "growth.json").exists():
        result["sweeps"] = json.loads(old.read_text())["sweeps"]
    for name in args.only:
        flags = ["--smoke"] if args.smoke else []
        found = in_fresh_process(__file__, "--alone", name, "--repeats", str(args.repeats), *flags)
        found |= dict(theory=SWEEPS[name][2], exponents=slopes(found["rows"], "seconds"),
                      counted=slopes(found["rows"], "flops"), memory=slopes(found["rows"], "mb"))  # fmt: skip
        result["sweeps"][name] = found
        print(f"\n{name}")
        for r in found["rows"]:
            costs = [f"{k} {1e3 * s:.2f} ms" + (f" {r['mb'][k]:.0f} MB" if k in r["mb"] else "") for k, s in r["seconds"].items()]
            print(f"  {r['size']:6}  {'  '.join(costs)}")
        for k, e in found["exponents"].items():
            more = "".join(f", {n} {found[n][k]:.2f}" for n in ("counted", "memory") if k in found[n])
            print(f"  {k}: exponent {e:.2f}{more}, at worst {found['theory'][k]}", file=sys.stdout, flush=True)
    if args.write:
        print(f"\nwritten: {store('growth', result, args.folder).name}")
    return result


if __name__ == "__main__":
    main()
