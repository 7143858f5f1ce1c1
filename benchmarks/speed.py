"""Ours beside `transformers` (and the official code, where you have it): seconds, ratios, peak memory.

    python benchmarks/speed.py [--only CASE ...] [--repeats 7] [--official PATH] [--device cuda] [--write] [--smoke]

All contenders of a case are alternated in one process; what counts is the median of the rounds' ratios, to the better
of the peers. Memory is measured in a fresh process for each contender. --write stores nbs/runs/bench/speed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import (
    ROOT,
    Step,
    answers,
    in_fresh_process,
    judges,
    made_by,
    peak_megabytes,
    pictures,
    store,
    trains,
    waiting,
)
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR
from detr_lit.speed import alternate, count_flops, for_inference, matmul_peak, parts, speedup
from detr_lit.train import quick_bf16

R50 = dict(num_classes=91, num_queries=100, backbone_name="resnet50")
TOY = dict(num_classes=3, num_queries=100, backbone_name="resnet18")
TINY = dict(num_classes=91, num_queries=8, backbone_name="resnet18", d_model=32, n_heads=2, n_enc_layers=1, n_dec_layers=2,
            dim_ff=32)  # fmt: skip
PEERS = ("transformers", "official")
FAST, FAST_BF16 = ("ours",), ("ours", "ours_bf16")
# name: (what it is, how a side is made, sides, goal of each of ours, rounds, on a GPU only)
CASES: dict[str, tuple] = {
    "inference": ("R50, 800 x 1066, batch 1, one forward pass", partial(answers, arguments=R50, size=(1, 800, 1066)),
                  ("transformers", "transformers_bf16", "plain", "ours", "ours_bf16"), dict(ours=1.8, ours_bf16=4.0), 1.0),
    "train_toy": ("ResNet-18, 128 x 128, batch 16, one training step", partial(trains, arguments=TOY, size=(16, 128, 128)),
                  ("transformers", "transformers_bf16", "ours", "ours_bf16"), dict(ours=1.3, ours_bf16=2.0), 1.0),
    "train_r50": ("R50, 640 x 640, batch 2, one training step",
                  partial(trains, arguments=R50, size=(2, 640, 640), most=20),
                  ("transformers", "transformers_bf16", "ours", "ours_bf16"), dict(ours=1.3, ours_bf16=2.0), 0.6),
    "loss_100": ("matching and loss, 6 layers, 16 pictures, 100 queries, up to 60 objects",
                 partial(judges, queries=100, batch=16, most=60), ("transformers", "ours"), dict(ours=4.0), 3.0),
    "loss_300": ("matching and loss, 6 layers, 16 pictures, 300 queries, up to 60 objects",
                 partial(judges, queries=300, batch=16, most=60), ("transformers", "ours"), dict(ours=10.0), 1.0),
    "loss_100_backward": ("the same with 100 queries, and the gradient",
                          partial(judges, queries=100, batch=16, most=60, backward=True), ("transformers", "ours"), {}, 3.0),
}  # fmt: skip
GPU_CASES: dict[str, tuple] = {
    "gpu_inference": ("R50, 800 x 1333, batch 8, one forward pass", partial(answers, arguments=R50, size=(8, 800, 1333)),
                      ("transformers", "transformers_bf16", "ours", "ours_bf16"), {}, 3.0),
    "gpu_training": ("R50, 800 x 1333, batch 8, one training step",
                     partial(trains, arguments=R50, size=(8, 800, 1333), most=20),
                     ("transformers", "transformers_bf16", "ours", "ours_bf16"), {}, 3.0),
}  # fmt: skip


def shrink(case: tuple) -> tuple:
    "The same case, tiny: to see that everything runs."
    what, make, sides, goals, _ = case
    small: dict[str, Any] = dict(queries=8, batch=2, most=4, layers=2) if make.func is judges else dict(
        arguments=TINY, size=(2, 64, 96)) | (dict(most=4) if make.func is trains else {})  # fmt: skip
    return "tiny: " + what, partial(make, **small), sides, goals, 0.1


def cases(args: argparse.Namespace) -> dict[str, tuple]:
    found = GPU_CASES if args.device != "cpu" else CASES
    return {n: shrink(c) if args.smoke else c for n, c in found.items()}


def sides_of(case: tuple, args: argparse.Namespace) -> list[str]:
    peer = ["official"] if args.official else []
    return [s for s in (*peer, *case[2]) if not s.endswith("_bf16") or quick_bf16(args.device) or args.smoke]


def same(outputs: dict[str, Any]) -> float:
    "How far ours is from transformers', in float32 and with equal weights: boxes, or totals of the loss."
    a, b = outputs.get("ours"), outputs.get("transformers")
    if isinstance(a, dict):
        return (a["pred_boxes"] - b.pred_boxes).abs().max().item()
    return abs(a - b) / abs(b)


def contest(name: str, case: tuple, args: argparse.Namespace) -> dict[str, Any]:
    "One case: every side's seconds and memory, and the ratio of ours to the better peer."
    what, make, _, goals, share = case
    rows: dict[str, dict] = {}
    steps: dict[str, Step] = {}
    for side in sides_of(case, args):
        try:
            steps[side] = make(side, device=args.device, path=args.official)
            steps[side]()
        except Exception as error:  # a peer that can't run is a row as well
            if side.startswith(("ours", "plain")):
                raise
            steps.pop(side, None)
            rows[side] = dict(error=f"{error!r:.200}")
    result: dict[str, Any] = dict(what=what)
    if make.func is not trains:
        result["difference"] = same({s: steps[s]() for s in ("ours", "transformers")})
        assert result["difference"] < 1e-3, f"{name}: the sides do not compute the same: {result['difference']}"
    seconds = alternate(steps, max(2, round(args.repeats * share)))
    steps.clear()
    for side, s in seconds.items():
        rows[side] = dict(seconds=statistics.median(s), low=min(s), high=max(s))
        if make.func is not judges:
            flags = [x for x in ("--smoke" if args.smoke else "", f"--official={args.official}" if args.official else "") if x]
            rows[side]["peak_mb"] = in_fresh_process(__file__, "--alone", name, side, "--device", args.device, *flags)
    peers = [s for s in seconds if s.startswith(PEERS)]
    plain = [p for p in peers if not p.endswith("_bf16")]

    def least(side: str, others: list[str]) -> float:
        return min(speedup(seconds, side, other) for other in others)

    result["ratios"] = {
        side: dict(goal=goals.get(side), best_f32_peer=least(side, plain), best_peer=least(side, peers))
        for side in seconds if side.startswith("ours")}  # fmt: skip
    return result | dict(rows=rows)


# ---------------------------------------------------------------- the machine, the roofline, the loader, the import
def roofline(args: argparse.Namespace) -> dict[str, Any]:
    "Each part of R50's forward pass: operations, seconds, share of the measured peak."
    arguments, size, n = (TINY, (1, 64, 96), 64) if args.smoke else (R50, (1, 800, 1066), 2048)
    torch.manual_seed(0)
    model, images, result = DETR(**arguments).to(args.device), pictures(*size, args.device), {}
    images = images.contiguous(memory_format=torch.channels_last)
    for kind, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        bf16 = kind == "bfloat16"
        if bf16 and not quick_bf16(args.device):
            continue
        with torch.autocast(args.device, torch.bfloat16, enabled=bf16):
            functions = parts(for_inference(model, bf16), images)
            flops = {name: count_flops(f) for name, f in functions.items()}
            functions = {name: waiting(f, args.device) for name, f in functions.items()}
            seconds = alternate(functions, max(3, args.repeats))
        peak = max(matmul_peak(size, dtype, device=args.device) for size in (n // 2, n))
        result[kind] = dict(peak=peak, parts={
            name: dict(flops=flops[name], seconds=statistics.median(row), share=flops[name] / statistics.median(row) / peak)
            for name, row in seconds.items()})  # fmt: skip
    return result


def linear(args: argparse.Namespace) -> dict[str, float]:
    "Seconds of the first layer of the encoder's network at 800 x 1066, as a product and as a convolution of one pixel."
    layer = torch.nn.Linear(256, 2048, device=args.device).requires_grad_(False)
    kernel = layer.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    x = torch.rand(1, 25, 34, 256, device=args.device)                        # a feature map, channels last
    ways = dict(product=lambda: layer(x), convolution=lambda: torch.conv2d(x.permute(0, 3, 1, 2), kernel, layer.bias))
    assert torch.allclose(ways["convolution"]().permute(0, 2, 3, 1), layer(x), atol=1e-4)
    seconds = alternate({name: waiting(way, args.device) for name, way in ways.items()}, 3 if args.smoke else 50)
    return {name: statistics.median(row) for name, row in seconds.items()}


def loader(args: argparse.Namespace) -> dict[str, float]:
    "Seconds a batch of 16 toy pictures takes to make, by number of workers; compare with a training step."
    batches = 2 if args.smoke else 40
    data = ToyDetectionDataset(16 * (batches + 4))

    def seconds(workers: int) -> float:
        batch = iter(DataLoader(data, 16, num_workers=workers, collate_fn=collate))
        [next(batch) for _ in range(3)]  # the workers have started
        return statistics.mean(alternate(dict(batch=lambda: next(batch)), batches)["batch"])

    return {str(workers): seconds(workers) for workers in (0, 1, 2)}


def importing(args: argparse.Namespace) -> dict[str, float]:
    "Seconds that each import takes after those before it, in fresh processes; the last one is what the book's modules add."
    modules = ("torch", "detr_lit", "torchvision", "scipy.optimize", "matplotlib.pyplot", "detr_lit.train")
    code = ("import importlib, sys\nfrom time import perf_counter as t\n"
            "for m in sys.argv[1:]: a = t(); importlib.import_module(m); print(t() - a)")
    command = [sys.executable, "-c", code, *modules]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT) for _ in range(1 if args.smoke else 5)]
    return {m: statistics.median(s) for m, s in zip(modules, zip(*([float(x) for x in r.stdout.split()] for r in runs)))}


STEP = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::cudnn_convolution"),
    "dropout's random numbers": ("aten::bernoulli_", "aten::native_dropout"),
}
KINDS = {
    "train_toy": STEP,
    "train_r50": STEP,
    "loss_300": {
        "softmax of all classes": ("aten::_softmax", "aten::_log_softmax"),
        "copies": ("aten::cat", "aten::index", "aten::gather", "aten::copy_", "aten::index_select"),
        "boxes, pair by pair": ("aten::maximum", "aten::minimum", "aten::sub", "aten::clamp", "aten::_cdist_forward",
                                "aten::add", "aten::mul", "aten::div", "aten::rsub", "aten::prod"),
    },
}  # fmt: skip


def profiled(args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of a call by kind of operation, for both sides: float32 training steps, and the loss.

    What PyTorch's profiler does not see is between its operations: Python, and the assignment in scipy.
    """
    result: dict[str, dict] = {}
    for case, kinds in KINDS.items():
        make, result[case] = cases(argparse.Namespace(device="cpu", smoke=args.smoke))[case][1], {}
        for side in ("transformers", "ours"):
            step = make(side)
            wall = statistics.median(alternate(dict(step=step), 3)["step"])
            with profile(activities=[ProfilerActivity.CPU]) as profiler: step()
            spent = {e.key: e.self_cpu_time_total / 1e6 for e in profiler.key_averages()}
            row = {kind: sum(spent.get(name, 0.0) for name in names) for kind, names in kinds.items()}
            row |= {"other operations": sum(spent.values()) - sum(row.values())}
            result[case][side] = row | {"between operations": max(0.0, wall - sum(row.values()))}
    return result


EXTRAS = dict(roofline=roofline, linear=linear, profile=profiled, loader=loader, importing=importing)


# ---------------------------------------------------------------- the table
def table(result: dict[str, Any]) -> str:
    lines = []
    for case in result["cases"].values():
        lines.append(f"\n{case['what']}" + (f"   (outputs differ by {case['difference']:.0e})" if "difference" in case else ""))
        for side, row in case["rows"].items():
            r = case["ratios"].get(side)
            says = row.get("error") or f"{1e3 * row['seconds']:9.1f} ms  [{1e3 * row['low']:.1f}, {1e3 * row['high']:.1f}]"
            memory = f"  {row['peak_mb']:7.0f} MB" if "peak_mb" in row else ""
            goal = f", goal {r['goal']}" if r and r["goal"] else ""
            ratio = f"   {r['best_peer']:.2f} x the better peer ({r['best_f32_peer']:.2f} x in float32{goal})" if r else ""
            lines.append(f"  {side:20}{says}{memory}{ratio}")
    for kind, rows in result.get("roofline", {}).items():
        lines.append(f"\n{kind}: matrix products at {rows['peak'] / 1e9:.0f} GFLOP/s")
        lines += [f"  {n:20}{1e3 * p['seconds']:9.1f} ms  {p['flops'] / 1e9:8.2f} GFLOP  {p['share']:.0%} of the peak"
                  for n, p in rows["parts"].items()]  # fmt: skip
    if "linear" in result:
        lines.append("\na linear layer: " + ", ".join(f"as a {way} {1e3 * s:.2f} ms" for way, s in result["linear"].items()))
    for case, found in result.get("profile", {}).items():
        lines += [f"\n{case}, {side}: " + ", ".join(f"{kind} {1e3 * s:.1f} ms" for kind, s in row.items())
                  for side, row in found.items()]  # fmt: skip
    if "loader" in result:
        lines.append("\na batch of 16: " + ", ".join(f"{1e3 * s:.1f} ms with {w} workers" for w, s in result["loader"].items()))
    if "importing" in result:
        lines.append("\nimport: " + ", ".join(f"{m} {s:.2f} s" for m, s in result["importing"].items()))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help=f"of {', '.join([*CASES, *EXTRAS])}; all by default")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; cases with long steps take fewer")
    parser.add_argument("--official", default="", help="path to a checkout of facebookresearch/detr")
    parser.add_argument("--device", default="cpu", help="cuda: throughput at R50 800 x 1333 instead")
    parser.add_argument("--write", action="store_true", help="keep the result (with --only: in what is there)")
    parser.add_argument("--folder", type=Path, default=ROOT / "nbs/runs/bench", help="where --write writes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    found = cases(args)
    if args.alone:
        name, side = args.alone
        make = partial(found[name][1], side, device=args.device, path=args.official)
        print(json.dumps(peak_megabytes(make, args.device)))
        return None
    chosen = args.only or [*found, *EXTRAS]
    if unknown := [n for n in chosen if n not in {**found, **EXTRAS}]:
        parser.error(f"no case {unknown[0]}; there are {', '.join([*found, *EXTRAS])}")
    result: dict[str, Any] = dict(made_by=made_by(args.device, args.repeats), cases={})
    name = "speed" if args.device == "cpu" else "speed_gpu"
    if args.write and args.only and (old := args.folder / f"{name}.json").exists():
        result = json.loads(old.read_text()) | dict(made_by=result["made_by"])
    for n in chosen:
        print(f"... {n}", file=sys.stderr, flush=True)
        if n in EXTRAS:
            result[n] = EXTRAS[n](args)
        else:
            result["cases"][n] = contest(n, found[n], args)
    print(json.dumps(result["made_by"]), table(result), sep="\n")
    if args.write:
        print(f"\nwritten: {store(name, result, args.folder).name}")
    return result


if __name__ == "__main__":
    main()
