"""The command line."""
import json
import re
import shutil

import pytest
import torch
import torchvision
from typer.testing import CliRunner

import detr_lit
from detr_lit.cli import app, changed, find_in_files, find_pictures, in_batches
from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR, bundled
from detr_lit.folders import Sides, write_coco
from detr_lit.inference import predict
from detr_lit.train import RECIPES
from detr_lit.voc import write_voc


def run(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    return result.exit_code, result.output


@pytest.fixture
def picture(tmp_path):
    torchvision.utils.save_image(ToyDetectionDataset(10, split="test")[4][0], tmp_path / "shapes.png")
    return tmp_path / "shapes.png"


def test_version_and_help():
    assert run("version") == (0, f"detr_lit {detr_lit.__version__}, torch {__import__('torch').__version__}\n")
    code, said = run("--help")
    assert code == 0 and all(c in said for c in ("train", "eval", "detect", "export", "data", "plot", "repro", "version"))
    for command in ("train", "eval", "detect", "export", "data check", "plot", "repro"):
        assert "Example: detr-lit " + command in " ".join(run(*command.split(), "--help")[1].split())


def test_eval_of_a_coco_folder(coco):
    code, said = run("eval", "--weights", "toy", "--coco", coco, "--short", 128, "--json")
    assert code == 0 and json.loads(said[said.index("{"):])["AP50"] > 0.7
    code, said = run("eval", "--weights", "toy", "--coco", coco / "val2017")
    assert code == 1 and "instances_val2017.json is not there" in said


@pytest.mark.slow
def test_export(tmp_path):
    code, said = run("export", "--weights", "toy", tmp_path / "toy.onnx", "--attention")
    assert code == 0 and "toy.onnx" in said and (tmp_path / "toy.onnx").stat().st_size > 100_000
    code, said = run("export", "--weights", "tyo", tmp_path / "x.onnx")
    assert code == 1 and said.startswith("error: there are no weights 'tyo'") and not (tmp_path / "x.onnx").exists()


def test_unknown_words_are_refused():
    assert run("fly")[0] == run("train", "--steps", 0, "--out", "x")[0] == 2
    code, said = run("train", "--data", "cats", "--out", "x")
    assert code == 1 and said.startswith("error: ") and "cats" in said and "toy" in said


def test_train_then_refuse_then_resume_then_detect(tmp_path, picture):
    out = tmp_path / "mine"
    steps = ("--out", out, "--steps", 2, "--batch-size", 2)
    with pytest.MonkeyPatch.context() as patch:
        sides = Sides(ToyDetectionDataset(64), ToyDetectionDataset(2, split="val"))
        patch.setattr("detr_lit.cli.open_dataset", lambda *_, **__: sides)
        code, said = run("train", *steps)
        assert code == 0 and "AP50" in said, said
        assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
        assert run("plot", out) == (0, f"{out / 'plot.png'}\n") and (out / "plot.png").stat().st_size > 5000
        code, said = run("train", *steps)
        assert code == 1 and "--resume" in said
        assert run("train", *steps, "--resume")[0] == 0
        code, said = run("train", *steps, "--resume", "--seed", 1)
        assert code == 1 and "seed is 0, wanted 1" in said
        code, said = run("eval", "--weights", out / "weights", "--json")
        assert code == 0 and "AP50" in json.loads(said)
    code, said = run("detect", picture, "--weights", out / "weights", "--threshold", 0, "--json")
    assert code == 0 and len(json.loads(said)["detections"]) <= 16


def test_voc_from_a_trained_start(tmp_path):
    boxes = dict(boxes=torch.tensor([[10., 10, 40, 30]]), labels=torch.tensor([2]), difficult=torch.tensor([False]))
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    for name in ("trainval", "test"): write_voc(tmp_path, [(image, boxes)] * 3, ("cat", "dog"), name=name)
    out = tmp_path.parent / "mine"
    code, said = run("train", "--data", tmp_path, "--start", "toy", "--short", 48, "--steps", 2, "--batch-size", 2,
                     "--out", out, "--device", "cpu")
    assert code == 0 and "AP50" in said, said
    assert json.loads((out / "weights" / "config.json").read_text())["class_names"] == ["cat", "dog"]
    code, said = run("eval", "--weights", out / "weights", "--data", tmp_path, "--short", 48, "--json")
    numbers = json.loads(said)
    assert code == 0 and 0 <= numbers["mAP"] <= 1 and numbers["AP cat"] is None and "AP50" in numbers and "AP dog" in numbers
    code, said = run("eval", "--weights", "toy", "--data", tmp_path)
    assert code == 1 and "the model knows" in said and "refit" in said


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    class Interrupted(ToyDetectionDataset):
        def __getitem__(self, i): raise KeyboardInterrupt

    monkeypatch.setattr("detr_lit.cli.open_dataset", lambda *_, **__: Sides(Interrupted(64), ToyDetectionDataset(2, split="val")))
    code, said = run("train", "--out", tmp_path / "mine", "--steps", 2)
    assert code == 130 and f"--resume goes on from {tmp_path / 'mine' / 'checkpoint.pt'}" in said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A training of two steps from the command line, and what it said."
    out = tmp_path_factory.mktemp("finished") / "mine"
    code, said = run("train", "--out", out, "--steps", 2, "--batch-size", 2, "--json",
                     "--set", "model.num_queries=6", "--set", "lr=2e-3")
    assert code == 0, said
    return out, json.loads(said[said.rindex('{"step"'):])


def test_a_training_ends_in_json_and_remembers_its_options(finished, monkeypatch):
    out, last = finished
    assert last["step"] == 2 and 0 <= last["AP"] <= 1 and last["weights"] == str(out / "weights")
    seen = {}
    def train_detr(steps, batch, **more): return seen.update(more, steps=steps, batch=batch), [dict(AP=0, AP50=0)]
    monkeypatch.setattr("detr_lit.cli.train_detr", train_detr)
    (out.parent / "other").mkdir(exist_ok=True)
    assert run("train", "--config", out / "options.yaml", "--out", out.parent / "other")[0] == 0
    assert (seen["steps"], seen["batch"], seen["recipe"].lr, seen["recipe"].model["num_queries"]) == (2, 2, 2e-3, 6)


def test_a_training_is_reproduced_to_the_bit(finished):
    code, said = run("repro", finished[0], "--out", finished[0].parent / "again")
    assert code == 0 and said.strip().endswith("the weights are equal")
    assert (finished[0].parent / "again" / "weights" / "model.safetensors").exists()


def test_another_end_is_not_called_reproduced(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    *before, last = log.read_text().splitlines()
    log.write_text("\n".join([*before, json.dumps(json.loads(last) | {"AP50": .9})]))
    options = tmp_path / "run" / "options.yaml"
    options.write_text(options.read_text().replace("seed: 0", "seed: 1"))
    code, said = run("repro", tmp_path / "run")
    assert code == 1 and "the weights are others" in said and "not reproduced" in said
    assert run("repro", tmp_path / "run", "--tolerance", 1)[0] == 0


@pytest.mark.parametrize("file, text, complaint", [
    ("log.jsonl", "", "is empty or damaged"), ("log.jsonl", "{\n", "is empty or damaged"), ("log.jsonl", "3\n", "without AP50"),
    ("log.jsonl", '{"AP": null, "AP50": 0.1}\n', "without AP50"), ("log.jsonl", None, "No such file"),
    ("options.yaml", "a: [", "options.yaml"), ("options.yaml", "- 1", "a training's options"),
    ("options.yaml", "lr: 3", "a training's options"), ("options.yaml", None, "No such file"),
    ("weights/model.safetensors", None, "No such file")])
def test_a_damaged_run_is_not_repeated(finished, tmp_path, file, text, complaint):
    shutil.copytree(finished[0], tmp_path / "run")
    if text is None: (tmp_path / "run" / file).unlink()
    else: (tmp_path / "run" / file).write_text(text)
    code, said = run("repro", tmp_path / "run")
    assert code == 1 and said.startswith("error: ") and complaint in said and len(said.splitlines()) == 1


def test_settings_change_a_recipe():
    plain = RECIPES["plain"]
    new = changed(plain, ["lr=1e-3", "model.dropout=0.5", "bf16=true", "schedule=constant", "helper={}"])
    assert (new.lr, new.model["dropout"], new.bf16, new.schedule, new.helper) == (1e-3, 0.5, True, "constant", {})
    assert plain.model["dropout"] == 0.0 and changed(plain, []) == plain
    for wrong in ("lr", "rate=1", "lr.deep=1", "=1"):
        with pytest.raises(ValueError, match="FIELD=VALUE"): changed(plain, [wrong])
    with pytest.raises(ValueError, match="schedule"): changed(plain, ["schedule=linear"])
    code, said = run("train", "--out", "unused", "--set", "model.num_querys=5")
    assert code == 1 and "num_querys" in said and said.count("\n") == 1


def test_options_from_a_file_and_the_command_line_wins(tmp_path, monkeypatch):
    asked = {}
    def train_detr(steps, batch, **more): return asked.update(more, steps=steps, batch=batch), [dict(AP=0, AP50=0)]
    monkeypatch.setattr("detr_lit.cli.train_detr", train_detr)
    file = tmp_path / "plan.yaml"
    file.write_text(f"steps: 7\nbatch_size: 3\nrecipe: plain\nset: [lr=0.5]\nout: {tmp_path / 'out'}\n")
    (tmp_path / "out").mkdir()
    code, said = run("train", "--config", file, "--steps", 9)
    assert code == 0 and (asked["steps"], asked["batch"], asked["recipe"].lr, asked["out"]) == (9, 3, 0.5, tmp_path / "out"), said
    for bad, word in (("steps: [", "plan.yaml"), ("just words", "no options"), ("stepz: 3", "unknown stepz")):
        file.write_text(bad)
        code, said = run("train", "--config", file)
        assert code == 2 and word.replace(" ", "") in re.sub(r"[\s│]", "", said)  # a long path breaks anywhere


def test_a_data_set_is_checked(tmp_path):
    shapes = [((image * 255).to(torch.uint8), target) for image, target in ToyDetectionDataset(6, split="val")]
    file = write_coco(tmp_path / "shapes", shapes, {3: "rectangle", 5: "ellipse", 9: "triangle"})
    code, said = run("data", "check", tmp_path / "shapes", "--sheet", tmp_path / "sheet.png")
    assert code == 0 and "category 9" in said and "0 errors" in said and (tmp_path / "sheet.png").stat().st_size > 5000
    code, said = run("data", "check", tmp_path / "shapes", "--json")
    assert code == 0 and json.loads(said)["class_names"] == ["rectangle", "ellipse", "triangle"]
    file.write_text("{")
    code, said = run("data", "check", tmp_path / "shapes")
    assert code == 1 and "error: " in said and file.name in said
    assert run("plot", tmp_path / "shapes")[0] == 1


def test_bad_recipe_is_one_line():
    code, said = run("train", "--recipe", "desktop", "--out", "unused")
    assert code == 1 and said.startswith("error: recipe is 'desktop'") and said.count("\n") == 1


def test_detect_draws_and_tells(tmp_path, picture):
    found = tmp_path / "found.png"
    code, said = run("detect", picture, "--weights", "toy", "--out", found, "--json")
    row = json.loads(said)
    assert code == 0 and row["file"] == str(picture)
    assert torchvision.io.read_image(str(found)).shape[-2:] == torchvision.io.read_image(str(picture)).shape[-2:]
    for d in row["detections"]:
        x0, y0, x1, y1 = d["box"]
        assert x0 < x1 and y0 < y1 and d["name"] in ("rectangle", "ellipse", "triangle") and 0.5 <= d["score"] <= 1


def test_detect_names_a_bad_file_and_goes_on(tmp_path, picture):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, said = run("detect", tmp_path / "bad.png", picture, tmp_path / "missing.png", "--out", tmp_path / "found")
    assert code == 1 and "shapes.png: " in said and "missing.png" in said
    assert said.count("bad.png") == 1 + said.count("image file '")                     # Pillow names it, too
    assert (tmp_path / "found" / "shapes.png").exists()


def test_unknown_weights(picture, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, said = run("detect", picture, "--weights", "nobody/nothing")
    assert code == 1 and said.startswith("error: ")


def test_shipped_weights_are_there():
    assert bundled("toy") is not None


def test_pictures_by_file_folder_pattern_and_list(tmp_path):
    for name in ("b.png", "a.JPG", "x/c.webp", "x/readme.txt", "[odd].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    def names(*words, lines=()): return [p.name for p in find_pictures(map(str, words), lines)]
    assert names(tmp_path) == ["[odd].png", "a.JPG", "b.png", "c.webp"]
    assert names(tmp_path / "**/*.webp", tmp_path / "b.png") == ["c.webp", "b.png"]
    assert names(tmp_path / "[odd].png") == ["[odd].png"]               # a file whose name looks like a pattern
    assert names("-", "last.png", lines=["one.png\n", "\n", " two.png \n"]) == ["one.png", "two.png", "last.png"]
    for empty in (tmp_path / "*.gif", tmp_path / "y"):
        if empty.name == "y": empty.mkdir()
        with pytest.raises(ValueError, match="no picture there"): names(empty)


def test_detections_do_not_depend_on_the_company(tmp_path):
    data, sizes = ToyDetectionDataset(10, split="test"), [(128, 128), (128, 128), (96, 128), (128, 128), (200, 150)]
    files = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for i, (file, size) in enumerate(zip(files, sizes)):
        torchvision.utils.save_image(torch.nn.functional.interpolate(data[i][0][None], size), file)
    model, failed = DETR.from_pretrained("toy"), []
    alone = [list(find_in_files(model, [f], short=128, failed=failed))[0] for f in files]
    together = list(find_in_files(model, [files[0], tmp_path / "none.png", *files[1:]], short=128, batch_size=2, failed=failed))
    assert [f for f, _, _ in together] == files and len(failed) == 1 and "none.png" in failed[0]
    for (_, photo, a), (_, _, b), size in zip(alone, together, sizes):
        assert photo.shape[1:] == size and len(a["boxes"]) > 0
        assert torch.allclose(a["boxes"], b["boxes"], atol=1e-2) and torch.equal(a["labels"], b["labels"])
    large, small = alone[4], list(find_in_files(model, [files[4]], failed=failed))[0]
    assert large[2]["boxes"].max() > 128 and small[1].shape == (3, 200, 150)


def test_a_picture_that_the_model_refuses_stops_nobody_else(tmp_path, picture, monkeypatch):
    torchvision.utils.save_image(torch.zeros(3, 40, 30), tmp_path / "odd.png")
    whole = predict
    def picky(model, images, *more):
        if images[0].shape[1] == 40: raise ValueError("too odd")
        return whole(model, images, *more)
    monkeypatch.setattr("detr_lit.cli.predict", picky)
    code, said = run("detect", tmp_path / "odd.png", picture)
    assert code == 1 and "odd.png: too odd" in said and "shapes.png: " in said


def test_batches_hold_one_size_and_no_more_than_asked(tmp_path):
    sizes = [(20, 30)] * 3 + [(30, 20)] + [(20, 30)]
    for i, size in enumerate(sizes): torchvision.utils.save_image(torch.rand(3, *size), tmp_path / f"{i}.png")
    files = sorted(tmp_path.glob("*.png"))
    assert [[p.name[0] for p, _, _ in b] for b in in_batches(files, 2, None, [])] == [["0", "1"], ["2"], ["3"], ["4"]]
    seen = next(in_batches(files[3:], 2, 40, []))[0][2]
    assert seen.shape == (3, 60, 40)


def test_detect_in_half_precision_from_a_list(tmp_path, picture):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / picture.name).write_bytes(picture.read_bytes())
    names = f"{picture}\n{tmp_path / 'b' / picture.name}\n"
    words = ["detect", "-", "--half", "--json", "--device", "cpu", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words, input=names)
    rows = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
    assert result.exit_code == 0 and len(rows) == 2 and rows[0]["detections"] == rows[1]["detections"] != [], result.output
    assert len(list((tmp_path / "out").iterdir())) == 2                  # the same name twice: none is written over
    code, said = run("detect", picture, "--device", "abacus")
    assert code == 1 and said == "error: device is 'abacus'; it must be auto, cpu, cuda, or another name of torch's\n"
