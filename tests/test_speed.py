"""What makes a model quicker must not change what it says; what measures must measure. No clock decides anything here."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detr_lit.backbone import Backbone
from detr_lit.detr import DETR
from detr_lit.inference import predict
from detr_lit.speed import (
    QuickDETR,
    alternate,
    count_flops,
    fit_exponent,
    fold_norm,
    fold_norms,
    for_inference,
    in_float32,
    matmul_peak,
    parts,
    speedup,
)
from detr_lit.train import quick_bf16

SMALL = dict(num_queries=6, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=48)
BATCH_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)


@torch.no_grad()
def lived(module: nn.Module, *args: torch.Tensor) -> nn.Module:
    "Norms with statistics of what they see, and weights that are not one and zero; eval mode."

    def measure(norm, seen):
        norm.running_mean.copy_(seen[0].mean((0, 2, 3)))
        norm.running_var.copy_(seen[0].var((0, 2, 3)) + 0.1)
        norm.weight.copy_(0.2 + 0.2 * torch.rand_like(norm.weight))  # ones make a deep fresh net chaotic
        norm.bias.copy_(0.1 * torch.randn_like(norm.bias))

    hooks = [m.register_forward_pre_hook(measure) for m in module.modules() if isinstance(m, BATCH_NORMS)]
    module.eval()(*args)
    for hook in hooks:
        hook.remove()
    return module


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def count(module: nn.Module, kinds) -> int:
    return sum(isinstance(m, kinds) for m in module.modules())


# ---------------------------------------------------------------- folding
@pytest.mark.parametrize("conv", [nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)])
@pytest.mark.parametrize("norm", [FrozenBatchNorm2d(6), nn.BatchNorm2d(6, eps=1e-2)])
@torch.no_grad()
def test_one_norm(conv, norm):
    torch.manual_seed(0)
    both, x = lived(nn.Sequential(conv, norm), torch.randn(2, 4, 9, 9)), torch.randn(2, 4, 12, 9)
    before = {k: v.clone() for k, v in both.state_dict().items()}
    assert apart(fold_norm(conv, norm)(x), both(x)) < 1e-6
    assert all(torch.equal(v, before[k]) for k, v in both.state_dict().items())


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("name", ["convnet", "resnet18", "resnet50", "resnext50_32x4d"])
@torch.no_grad()
def test_every_backbone(name, norm):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 96)
    net = lived(Backbone(16, name, norm=norm), x)
    exact, wide = copy.deepcopy(net).double(), x.double()
    assert apart(fold_norms(exact)(wide), exact(wide)) < 1e-12
    folded = fold_norms(net)
    assert apart(folded(x), net(x)) < 1e-5
    assert count(folded, BATCH_NORMS) == 0 and count(folded, nn.GroupNorm) == count(net, nn.GroupNorm)
    assert (count(net, BATCH_NORMS) > 0) == (norm != "group")
    convs = [m for m in folded.modules() if isinstance(m, nn.Conv2d)]
    assert norm == "group" or all(c.bias is not None for c in convs)


@torch.no_grad()
def test_dilated():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    net = lived(Backbone(16, "resnet50", stride=16, dilation=True), x)
    assert apart(fold_norms(net)(x), net(x)) < 1e-5


def test_the_original_is_untouched_and_the_copy_is_in_eval_mode():
    torch.manual_seed(0)
    model = DETR(3, **SMALL, backbone_name="convnet", stride=16, norm="batch").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quick = for_inference(model, bf16=True)
    quick(torch.rand(1, 3, 64, 64))
    assert model.training and not quick.training and type(model) is DETR and type(quick) is QuickDETR
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert not any(p.requires_grad for p in quick.parameters())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in quick.parameters()}


@pytest.mark.parametrize("wrong", [nn.GroupNorm(2, 6), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(5),
                                   nn.BatchNorm2d(6, track_running_stats=False)])  # fmt: skip
def test_a_norm_that_is_no_constant_is_refused(wrong):
    with pytest.raises(Exception, match="norm"):
        fold_norm(nn.Conv2d(4, 6, 3), wrong)


# ---------------------------------------------------------------- a model for answers
FORMS = {
    "plain": dict(backbone_name="resnet18"),
    "soft": dict(backbone_name="convnet", stride=16, norm="batch", query_boxes=True, gaze="soft", temperature=20.0),
    "points": dict(backbone_name="convnet", stride=8, norm="group", query_boxes=True, gaze="points", n_enc_layers=0),
}


@pytest.mark.parametrize("form", list(FORMS))
@torch.no_grad()
def test_the_same_answers(form):
    torch.manual_seed(0)
    model = lived(DETR(3, **(SMALL | FORMS[form])), torch.rand(2, 3, 96, 64))
    images = [torch.rand(3, 96, 64), torch.rand(3, 70, 90)]
    plain = model(images, return_attention=True)
    quick, rough = for_inference(model)(images, return_attention=True), for_inference(model, bf16=True)(images)
    assert quick.keys() == plain.keys() and rough.keys() == {"pred_logits", "pred_boxes", "aux_outputs"}
    for key in ("pred_logits", "pred_boxes"):
        assert apart(quick[key], plain[key]) < 1e-4 and apart(rough[key], plain[key]) < 0.1
        assert rough[key].dtype == torch.float32 == rough["aux_outputs"][0][key].dtype
    assert apart(rough["pred_logits"], plain["pred_logits"]) > 1e-5  # bfloat16 was used
    assert apart(quick["decoder_attention"][-1], plain["decoder_attention"][-1]) < 1e-4
    assert quick["feature_size"] == plain["feature_size"]


def test_channels_last_reaches_the_backbone():
    quick, seen = for_inference(DETR(3, **SMALL, backbone_name="resnet18")), []
    quick.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    quick(torch.rand(1, 3, 64, 96))
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and not seen[0].is_contiguous()
    weight = quick.backbone.body.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_what_takes_a_detr_takes_a_quick_one():
    toy, picture = DETR.from_pretrained("toy"), torch.rand(3, 128, 128)
    found, quick = predict(toy, picture, 0.0)[0], predict(for_inference(toy), picture, 0.0)[0]
    torch.testing.assert_close(found["boxes"], quick["boxes"], rtol=0, atol=1e-2)
    assert for_inference(toy).class_names == toy.class_names and for_inference(toy)(picture[None])["pred_boxes"].grad_fn is None
    assert quick["boxes"].shape == found["boxes"].shape


def test_in_float32():
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    got = in_float32(dict(a=half, b=[dict(c=half)], d=(3, 4), e=whole))
    assert got["a"].dtype == got["b"][0]["c"].dtype == torch.float32 and got["e"].dtype == torch.int64 and got["d"] == (3, 4)


# ---------------------------------------------------------------- counting
@torch.no_grad()
def test_flops_by_hand():
    conv, linear = nn.Conv2d(3, 8, 5, 2, 2), nn.Linear(8, 5)
    image, rows = torch.rand(2, 3, 20, 32), torch.rand(7, 8)
    assert count_flops(lambda: conv(image)) == 2 * 2 * 10 * 16 * 8 * 3 * 25
    assert count_flops(lambda: linear(rows)) == 2 * 7 * 8 * 5
    assert count_flops(lambda: rows.relu()) == 0
    q = torch.rand(1, 2, 6, 4)
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 6 * 6 * 4


def test_flops_of_the_parts_by_hand():
    n, d, ff, k = 6, 32, 48, 3
    model = DETR(k, **SMALL, backbone_name="resnet18")
    flops = {name: count_flops(f) for name, f in parts(model, torch.rand(1, 3, 64, 96)).items()}
    tokens = 2 * 3
    assert flops["encoder"] == 2 * tokens * (4 * d * d + 2 * d * ff) + 4 * tokens**2 * d
    itself, cross = 8 * n * d * d + 4 * n * n * d, 4 * n * d * d + 4 * tokens * d * d + 4 * n * tokens * d
    heads = 2 * n * (d * (k + 1) + 2 * d * d + 4 * d)
    assert flops["decoder"] == 2 * (itself + cross + 4 * n * d * ff + heads)
    assert list(flops) == ["backbone", "encoder", "decoder"] and flops["backbone"] > flops["decoder"]


def test_parts_leave_the_model_alone():
    model = DETR(3, **SMALL, backbone_name="resnet18").train()
    parts(model, torch.rand(1, 3, 64, 64))["backbone"]()
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_peak():
    assert matmul_peak(32, repeats=2) > 1e6
    assert isinstance(quick_bf16(), bool) and (torch.cuda.is_available() or not quick_bf16("cuda"))


# ---------------------------------------------------------------- measuring
class Clock:
    "Seconds that pass only by work."

    def __init__(self):
        self.now, self.calls = 0.0, []

    def work(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds(self.now) if callable(seconds) else seconds

        return run


def test_alternate_takes_turns_and_drops_the_first_round():
    clock = Clock()
    first = iter([100.0])
    functions = dict(a=clock.work("a", lambda now: next(first, 2.0)), b=clock.work("b", 3.0))
    seconds = alternate(functions, 3, clock=lambda: clock.now)
    assert clock.calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert seconds == dict(a=[2.0] * 3, b=[3.0] * 3)
    assert speedup(seconds, "a", than="b") == 1.5 and speedup(seconds, "b", than="a") == pytest.approx(2 / 3)


def test_ratios_survive_a_neighbour():
    clock = Clock()
    busy = lambda x: lambda now: x * (10 if 20 < now < 500 else 1)
    seconds = alternate(dict(slow=clock.work("slow", busy(4.0)), quick=clock.work("quick", busy(1.0))), 15, lambda: clock.now)
    assert max(seconds["quick"]) > min(seconds["slow"]) and speedup(seconds, "quick", than="slow") == 4


@pytest.mark.parametrize("power", [0.5, 1, 2, 3])
def test_exponents(power):
    sizes = [3, 10, 40, 100]
    assert fit_exponent(sizes, [0.2 * s**power for s in sizes]) == pytest.approx(power)


# ---------------------------------------------------------------- the scripts
@pytest.mark.slow
@pytest.mark.parametrize("name", ["speed", "growth"])
def test_benchmarks_run_from_end_to_end(root, tmp_path, name):
    flags = ["--smoke", "--repeats", "1", "--write", "--folder", str(tmp_path)]
    command = [sys.executable, str(root / f"benchmarks/{name}.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    made, stored = (json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, root / "nbs/runs/bench"))

    def shape(value):
        "The names in a result: what a chapter can rely on."
        return {k: shape(v) for k, v in value.items() if k != "rows"} if isinstance(value, dict) else None

    assert made.keys() == stored.keys() and made["made_by"].keys() == stored["made_by"].keys()
    if name == "growth":
        assert made["sweeps"].keys() == stored["sweeps"].keys()
    else:
        assert shape(made["cases"]) == shape(stored["cases"])
        assert all(r.get("difference", 0) < 1e-3 for r in stored["cases"].values())
        ours = [row for case in made["cases"].values() for side, row in case["rows"].items() if side.startswith("ours")]
        assert len(ours) == 9 and all(row["seconds"] > 0 for row in ours)


def test_an_unknown_case_is_refused(root):
    command = [sys.executable, str(root / "benchmarks/speed.py"), "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no case nonsense" in done.stderr
