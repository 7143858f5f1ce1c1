"""The ladder: rungs change what they say and nothing else, and its tops are the package's recipes."""

import runpy
from dataclasses import asdict

import pytest
import torch

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR
from detr_lit.ladder import LADDER, rung
from detr_lit.train import RECIPES, Recipe, Trainer

NAMES = pytest.mark.parametrize("name", [n for n in LADDER if n != "paper"])


def flat(recipe):
    return {k: v for k, v in asdict(recipe).items() if k != "model"} | recipe.model


def test_a_rung_changes_the_recipe_or_its_model_by_name():
    below = Recipe(model=dict(norm="batch", d_model=16), lr=1e-3)
    step = rung(below, muon=0.1, norm="group", stride=8)
    assert step == Recipe(model=dict(norm="group", d_model=16, stride=8), lr=1e-3, muon=0.1)
    assert below == Recipe(model=dict(norm="batch", d_model=16), lr=1e-3)
    with pytest.raises(ValueError, match="\\['learning_rate'\\], which neither"): rung(below, learning_rate=1e-3)


def test_the_tops_are_the_recipes():
    for name, recipe in [("paper", "paper"), ("four teams", "plain"), ("gaze", "laptop"), ("class counts twice", "fast")]:
        assert LADDER[name] == RECIPES[recipe]


def test_what_is_plainly_detr():
    "The plain road: dense attention, and vectors for queries."
    names = list(LADDER)
    for name in names[:names.index("four teams") + 1]:
        said = flat(LADDER[name])
        assert not said.get("query_boxes") and not said.get("gaze")


def test_rungs_differ_by_a_line_or_two():
    names = list(LADDER)
    for a, b in zip(names, names[1:]):
        below = "waves" if b == "boxes" else b.split(",")[0] if "," in b else a
        old, new = flat(LADDER[below]), flat(LADDER[b])
        changed = [k for k in new if old.get(k) != new[k]]
        assert 1 <= len(changed) <= 6 and old.keys() <= new.keys(), (b, changed)


@NAMES
def test_every_rung_takes_a_step(name):
    torch.manual_seed(0)
    recipe, data = LADDER[name], ToyDetectionDataset(2)
    trainer = Trainer(DETR(3, **recipe.model), recipe, torch.device("cpu"))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    losses, outputs, _ = trainer.step(collate([data[0], data[1]]))
    queries = recipe.model.get("num_queries", 100)
    assert losses["total"].isfinite() and outputs["pred_logits"].shape == (2, queries, 4)
    assert any(not torch.equal(p, b) for p, b in zip(trainer.model.parameters(), before))


def test_the_benchmark_of_the_pace(root):
    pace = runpy.run_path(str(root / "benchmarks/pace.py"))["pace"]
    tiny = Recipe(model=dict(d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=1, dim_ff=16, backbone_name="convnet"))
    milliseconds = pace({"a": tiny, "b": tiny}, rounds=1, batch_size=2)
    assert milliseconds.keys() == {"a", "b"} and min(milliseconds.values()) > 0
