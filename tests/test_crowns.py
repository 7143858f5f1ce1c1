"""The detector with anchors beside DETR on the trees (chapter 16b)."""
import json
import sys
from pathlib import Path

from torch.utils.data import Subset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import crowns as script

from detr_lit.data import collate
from detr_lit.train import RECIPES, new_model


def test_the_detector_with_anchors_learns_to_fit_one_batch():
    trainer, data = script.trainer_of(0, **script.SETTINGS), script.crops(0)
    batch = collate([data[i] for i in range(4)])
    loss = [sum(v.item() for v in trainer.step(batch, .5).values()) for _ in range(20)]
    assert loss[-1] < .7 * loss[0]
    parts = [dict(m.backbone.named_parameters()) for m in (trainer.model, new_model(data, RECIPES["crowns"], 0))]
    sizes = [sorted(p.shape for n, p in part.items() if "layer" in n or "conv1" in n) for part in parts]
    assert sizes[0] == sizes[1]                                            # the same backbone


def test_a_run_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "plan", lambda seed: dict(name="retinanet", num_steps=2, seed=seed, settings=script.SETTINGS))
    tiles = script.exam()
    monkeypatch.setattr(script, "exam", lambda: Subset(tiles, range(3)))
    run = script.load_or_run("retinanet", 0, folder=tmp_path)
    end = run["history"][-1]
    assert end["step"] == 2 and end["AP50"] == max(end[f"AP50_{t}"] for t in script.THRESHOLDS)
    assert run == json.loads((tmp_path / "run.json").read_text()) == script.load_or_run("retinanet", 0, folder=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert script.load_or_run("retinanet", 0, folder=tmp_path)["files"] == run["files"]
    assert (tmp_path / "model.safetensors").read_bytes() != b"broken"
