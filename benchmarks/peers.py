"""What the benchmarks share: the contenders, the memory of a fresh process, and what made a run."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's package, installed or not

from detr_lit.backbone import freeze_stem
from detr_lit.detr import DETR
from detr_lit.loss import DetrLoss
from detr_lit.pretrained import as_transformers
from detr_lit.speed import for_inference
from detr_lit.train import Recipe, Trainer, quick_bf16, versions

ROOT = Path(__file__).resolve().parents[1]
Step = Callable[[], Any]


# ---------------------------------------------------------------- data
def pictures(batch: int, height: int, width: int, device: str) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)


def objects(counts: list[int], classes: int, device: str = "cpu") -> list[dict[str, Tensor]]:
    "Targets with so many objects: boxes cx, cy, w, h inside the picture."
    g = torch.Generator().manual_seed(1)

    def one(m: int) -> dict[str, Tensor]:
        size = 0.05 + 0.3 * torch.rand(m, 2, generator=g)
        centre = size / 2 + (1 - size) * torch.rand(m, 2, generator=g)
        return dict(labels=torch.randint(1, classes + 1, (m,), generator=g), boxes=torch.cat([centre, size], 1))

    return [{k: v.to(device) for k, v in one(m).items()} for m in counts]


def crowds(batch: int, most: int) -> list[int]:
    "How many objects each picture has: few in most, `most` in the last, as in COCO."
    return [1 + round((most - 1) * (i / max(batch - 1, 1)) ** 4) for i in range(batch)][-batch:]


def theirs(targets: list[dict[str, Tensor]], classes: int) -> list[dict[str, Tensor]]:
    "The same targets for `transformers` and the official code: our last class is their class 0."
    return [dict(class_labels=t["labels"] % classes, labels=t["labels"] % classes, boxes=t["boxes"]) for t in targets]


# ---------------------------------------------------------------- the official code, where there is a checkout
def official(path: str, arguments: dict[str, Any], device: str) -> tuple[nn.Module, nn.Module]:
    "(model, criterion) as the checkout's `build` makes them, with COCO's 91 classes and random weights."
    if path not in sys.path:
        sys.path.insert(0, path)
    import models.backbone as theirs_backbone
    from models.detr import build

    a = dict(d_model=256, n_heads=8, n_enc_layers=6, n_dec_layers=6, dim_ff=2048, dropout=0.1) | arguments
    with mock.patch.object(theirs_backbone, "is_main_process", lambda: False), warnings.catch_warnings():  # no download
        warnings.simplefilter("ignore")
        model, criterion, _ = build(argparse.Namespace(
            dataset_file="coco", device=device, hidden_dim=a["d_model"], position_embedding="sine", lr_backbone=1e-5,
            masks=False, frozen_weights=None, backbone=a["backbone_name"], dilation=False, dropout=a["dropout"],
            nheads=a["n_heads"], dim_feedforward=a["dim_ff"], enc_layers=a["n_enc_layers"], dec_layers=a["n_dec_layers"],
            pre_norm=False, num_queries=a["num_queries"], aux_loss=True, set_cost_class=1, set_cost_bbox=5,
            set_cost_giou=2, bbox_loss_coef=5, giou_loss_coef=2, eos_coef=0.1))  # fmt: skip
    return model.to(device), criterion


# ---------------------------------------------------------------- contenders
def waiting(step: Step, device: str) -> Step:
    "A step that returns when its work is done: a GPU is waited for."
    if device == "cpu":
        return step

    def waited() -> Any:
        result = step()
        torch.cuda.synchronize()
        return result

    return waited


def in_bf16(step: Step, device: str, bf16: bool) -> Step:
    def cast() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return step()

    return cast


def answers(side: str, arguments: dict[str, Any], size: tuple[int, int, int], device: str = "cpu", path: str = "") -> Step:
    "One forward pass: `side` is ours, transformers or official, with _bf16 or without. Outputs as the side gives them."
    name, bf16 = side.removesuffix("_bf16"), side.endswith("_bf16")
    torch.manual_seed(0)
    model, images = DETR(**arguments).to(device).eval(), pictures(*size, device)
    if name == "ours":
        quick = for_inference(model, bf16)
        return waiting(lambda: quick(images), device)
    if name == "plain":
        return waiting(torch.no_grad()(in_bf16(lambda: model(images), device, bf16)), device)
    pixels = model.normalize(images)
    if name == "transformers":
        twin = as_transformers(model).to(device)
        return waiting(torch.no_grad()(in_bf16(lambda: twin(pixels), device, bf16)), device)
    net = official(path, arguments, device)[0].eval()
    return waiting(torch.no_grad()(in_bf16(lambda: net(pixels), device, bf16)), device)


def descend(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return loss.item()


def freeze(names: tuple[str, ...], model: nn.Module) -> list[nn.Parameter]:
    "Freeze what begins so, as the official code does with stem and first stage; what is left is trained."
    for name, p in model.named_parameters():
        if name.startswith(names):
            p.requires_grad_(False)
    return [p for p in model.parameters() if p.requires_grad]


def trains(side: str, arguments: dict[str, Any], size: tuple[int, int, int], device: str = "cpu", path: str = "",
           most: int = 5) -> Step:  # fmt: skip
    "One training step, with loss, clipping and AdamW; stem and first stage frozen, dropout in the same places."
    name, bf16 = side.removesuffix("_bf16"), side.endswith("_bf16")
    torch.manual_seed(0)
    model, images = DETR(**arguments).to(device), pictures(*size, device)
    freeze_stem(model.backbone.body)
    targets = objects(crowds(size[0], most), arguments["num_classes"], device)
    if name == "ours":
        trainer = Trainer(model, Recipe(bf16=bf16), torch.device(device))
        batch = images, torch.zeros(size, dtype=torch.bool, device=device), targets

        def ours() -> float:
            return trainer.step(batch)[0]["total"].item()

        return waiting(ours, device)
    pixels, labels = model.normalize(images), theirs(targets, arguments["num_classes"])
    if name == "transformers":
        p = arguments.get("dropout", 0.1)
        twin = as_transformers(model, auxiliary_loss=True, attention_dropout=p, activation_dropout=p).to(device).train()
        for head in (twin.class_labels_classifier, twin.bbox_predictor):  # its loss knows no bfloat16
            head.register_forward_hook(lambda module, args, out: out.float())
        body = "model.backbone.model."
        optimizer = torch.optim.AdamW(freeze((f"{body}conv1", f"{body}bn1", f"{body}layer1"), twin), 1e-4)
        loss_of = in_bf16(lambda: twin(pixels, labels=labels).loss, device, bf16)
        return waiting(lambda: descend(loss_of(), twin, optimizer), device)
    net, criterion = official(path, arguments, device)
    optimizer = torch.optim.AdamW([p for p in net.train().parameters() if p.requires_grad], 1e-4)

    def total() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            out = net(pixels)
        rows = [{k: v.float() for k, v in o.items() if k.startswith("pred")} for o in (out, *out["aux_outputs"])]
        terms = criterion(rows[0] | dict(aux_outputs=rows[1:]), labels)
        return sum(terms[k] * w for k, w in criterion.weight_dict.items() if k in terms)

    return waiting(lambda: descend(total(), net, optimizer), device)


def judges(side: str, queries: int, batch: int, most: int, classes: int = 91, layers: int = 6, device: str = "cpu",
           path: str = "", backward: bool = False, counts: list[int] | None = None) -> Step:  # fmt: skip
    "Matching and loss of all layers, on outputs made up; -> the weighted total."
    g = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(layers, batch, queries, classes + 1, generator=g)).to(device).requires_grad_(backward)
    boxes = (0.1 + 0.4 * torch.rand(layers, batch, queries, 4, generator=g)).to(device).requires_grad_(backward)
    targets = objects(counts or crowds(batch, min(most, queries)), classes, device)
    order, labels = [classes, *range(1, classes), 0], theirs(targets, classes)
    rows = [dict(pred_logits=k, pred_boxes=b) for k, b in zip(logits, boxes)]

    def judged(total: Callable[[], Tensor]) -> Step:
        def step() -> float:
            loss = total()
            if backward:
                loss.backward()
            return loss.item()

        return waiting(step, device)

    if side == "ours":
        criterion = DetrLoss(classes).to(device)
        return judged(lambda: criterion(rows[-1] | dict(aux_outputs=rows[:-1]), targets)["total"])
    permuted = logits[..., order].detach().requires_grad_(backward)
    if side == "transformers":
        from transformers import DetrConfig
        from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss as their_loss

        config = DetrConfig(num_labels=classes, auxiliary_loss=True, decoder_layers=layers, use_pretrained_backbone=False)
        return judged(lambda: their_loss(permuted[-1], labels, device, boxes[-1], config, permuted, boxes)[0])
    arguments = dict(num_classes=classes, num_queries=queries, backbone_name="resnet18", n_dec_layers=layers)
    criterion = official(path, arguments, device)[1]
    their_rows = [dict(pred_logits=k, pred_boxes=b) for k, b in zip(permuted, boxes)]

    def total() -> Tensor:
        terms = criterion(their_rows[-1] | dict(aux_outputs=their_rows[:-1]), labels)
        return sum(terms[k] * w for k, w in criterion.weight_dict.items() if k in terms)

    return judged(total)


# ---------------------------------------------------------------- memory
def megabytes(peak: bool = True) -> float:
    "This process's memory, at its highest or now. Linux's own counter: getrusage's begins with the parent's."
    try:
        key = "VmHWM:" if peak else "VmRSS:"
        return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith(key)) / 1024
    except (OSError, StopIteration):
        scale = 2**20 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def reset_peak() -> None:
    "Set the high-water mark back to what is held now, where Linux lets us."
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def working_megabytes(step: Step) -> float:
    "The most that one call holds at a time, of what PyTorch allocates on the processor: its profiler's events, added up."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()  # the only place with single allocations in their order
    held = highest = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += size
        highest = max(highest, held)
    return highest / 2**20


def peak_megabytes(make: Callable[[], Step], device: str, calls: int = 2) -> float:
    """The highest memory while a contender works, beyond what the imports take: weights, optimiser, activations.

    Where Linux lets us, the mark is set back after the contender was made, so that two copies of its weights don't count.
    """
    if device != "cpu":
        step = make()
        torch.cuda.reset_peak_memory_stats()
        [step() for _ in range(calls)]
        return torch.cuda.max_memory_allocated() / 2**20
    imported = megabytes(peak=False)
    step = make()
    reset_peak()
    [step() for _ in range(calls)]
    return megabytes() - imported


def in_fresh_process(script: str, *args: str) -> Any:
    "What a script prints as JSON on its last line, in a process of its own."
    done = subprocess.run([sys.executable, script, *args], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(script).name} {' '.join(args)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- what made a run
def processor() -> str:
    try:
        return next(row.split(":")[1].strip() for row in open("/proc/cpuinfo") if row.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def made_by(device: str, repeats: int) -> dict[str, Any]:
    import transformers

    name = torch.cuda.get_device_name() if device != "cpu" else processor()
    return versions() | dict(transformers=transformers.__version__, processor=name, bf16=quick_bf16(device), device=device,
                             repeats=repeats)  # fmt: skip


def rounded(value: Any) -> Any:
    "Numbers with five digits, all through a structure of dicts and lists."
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def store(name: str, result: dict[str, Any], folder: Path) -> Path:
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rounded(result), indent=1) + "\n")
    return file
