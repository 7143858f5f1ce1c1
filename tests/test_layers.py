"""Chapter 13: every layer's AP, matching between calls and between layers, and a training without auxiliary losses."""
import math
from dataclasses import replace

import pytest
import torch

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR
from detr_lit.evaluate import evaluate
from detr_lit.layers import LayerWatch
from detr_lit.loss import DetrLoss
from detr_lit.train import Recipe, Trainer, known, train_detr

TINY = dict(num_queries=6, d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=3, dim_ff=32, backbone_name="convnet",
            stride=16, norm="batch", dropout=0.0)
CPU = torch.device("cpu")


def small(n=6, **kw): return ToyDetectionDataset(n, image_size=64, max_objects=4, split="val", **kw)


def model():
    torch.manual_seed(0)
    made = DETR(3, **TINY)
    for p in made.decoder.parameters(): p.data += 0.3 * torch.randn_like(p)
    return made.eval()


def by_loops(m, layer):
    "The query of each object at a layer, image by image and object by object."
    images, _, targets = collate([small()[i] for i in range(6)])
    with torch.no_grad(): outputs = m(images)
    pairs = DetrLoss(3).matcher([*outputs["aux_outputs"], outputs][layer], targets)
    return [[int(q[o.tolist().index(j)]) for j in range(len(t["labels"]))] for (q, o), t in zip(pairs, targets)]


def share(a, b):
    flat = [(x, y) for i, j in zip(a, b, strict=True) for x, y in zip(i, j, strict=True)]
    return sum(x != y for x, y in flat) / len(flat)


def test_nothing_moves_in_a_model_that_stays():
    watch, m = LayerWatch(small()), model()
    first, second = watch(0, m), watch(0, m)
    assert all(math.isnan(first[f"moved{i}"]) and second[f"moved{i}"] == 0 for i in range(3))
    assert first["elsewhere2"] == 0 and first["layer2_AP"] == pytest.approx(evaluate(m, small())["AP"], abs=1e-6)


def test_moves_and_differences_by_loops():
    watch, m = LayerWatch(small()), model()
    watch(0, m)
    before = [by_loops(m, i) for i in range(3)]
    torch.manual_seed(3)
    for p in m.parameters(): p.data += 0.2 * torch.randn_like(p)
    now, numbers = [by_loops(m, i) for i in range(3)], watch(0, m)
    for i in range(3):
        assert numbers[f"moved{i}"] == pytest.approx(share(before[i], now[i]))
        assert numbers[f"elsewhere{i}"] == pytest.approx(share(now[i], now[-1]))
    assert numbers["moved2"] > 0 and numbers["elsewhere0"] > 0


def test_without_auxiliary_losses_only_the_last_layer_is_judged():
    batch, recipe = collate([small()[i] for i in range(4)]), Recipe(lr=0.0, lr_backbone=0.0, weight_decay=0.0, aux_loss=False)
    m = model()
    losses, outputs, _ = Trainer(m, recipe, CPU).step(batch)
    assert not [k for k in losses if k.endswith("_0")] and outputs["aux_outputs"] == []
    last = {k: outputs[k] for k in ("pred_logits", "pred_boxes")}
    torch.testing.assert_close(losses["total"], DetrLoss(3)(last, batch[2])["total"])
    whole = Trainer(model(), replace(recipe, aux_loss=True), CPU).step(batch)[0]
    assert "loss_class_0" in whole and whole["total"] > 2 * losses["total"]


def test_old_runs_have_auxiliary_losses():
    old = dict(recipe={k: v for k, v in vars(Recipe()).items() if k != "aux_loss"})
    assert known(old)["recipe"]["aux_loss"] is True


def test_a_short_training_is_watched():
    recipe, exam = Recipe(model=TINY, lr=1e-3, aux_loss=False), small(4)
    _, history = train_detr(4, 2, recipe=recipe, data=small(), val=exam, eval_every=2, progress=False, measure=LayerWatch(exam))
    rows = [r for r in history if "AP50" in r]
    assert len(rows) == 2 and math.isnan(rows[0]["moved2"]) and 0 <= rows[1]["moved2"] <= 1
