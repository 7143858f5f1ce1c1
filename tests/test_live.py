"""The live parts: their data come from a cell of the page, their scripts are small, a picture stands in for them."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import detector
import live
import nbformat
import pytest
import slim
from nbdev_cells import tomllib
from node import NODE
from test_ext import book, code, picture, text

NAMES = ("matching", "position", "training", "detector", "nms", "trees")
ASSETS = ["live.js", "detect.js", *(f"{name}{part}.js" for name in NAMES for part in ("", "_page"))]
DATA = dict(live="matching", presets=[dict(key="one", name="One </script>")], classes=["nothing", "ellipse"])


def page(tmp_path, directive="{live} matching", data=DATA):
    output = {"output_type": "display_data", "metadata": {}, "data": {"application/json": data, "text/plain": "x"}}
    cells = [
        text("# One"),
        code("plot()", "aaaa0001", [picture(), output], mystnb={"image": {"alt": "dots", "classes": "live-still"}}),
        text(f"Predict.\n\n```{directive}\n```"),
    ]
    return book(tmp_path, cells, module="")


def test_the_page_holds_its_data_and_its_scripts(tmp_path):
    status, warnings, pages = page(tmp_path)
    assert status == 0, warnings
    html = pages["nbs/01_one.html"]
    inside = re.search(r'<script type="application/json" class="live-data">(.*?)</script>', html, re.S)[1]
    assert json.loads(inside) == DATA
    assert 'data-preset="one"' in html and '<option value="1">ellipse</option>' in html
    order = re.findall(r'<script [^>]*src="[^"]*?([\w.]+\.js)\b', html)
    assert [s for s in order if s in ASSETS] == ["live.js", "matching.js", "matching_page.js"]
    assert [n for n, t in pages.items() if "live.js" in t or "live.css" in t] == ["nbs/01_one.html"]
    assert "live-still" in html


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(directive="{live} matchmaking"), "'matchmaking' is none of matching, position, training, detector, nms, trees"),
        (dict(data=dict(calls=[])), "no cell of 01_one.ipynb has recorded live"),
        (dict(directive="{live} position"), "01_one.ipynb has recorded the data of matching"),
    ],
)
def test_what_does_not_fit_fails_the_build(tmp_path, change, said):
    status, warnings, _ = page(tmp_path, **change)
    assert status and said in warnings


def test_scripts_are_small_and_typed(root):
    for name in ASSETS:
        source = (root / "nbs/assets" / name).read_text("utf-8")
        assert len(source.encode()) < 15_000, name
        assert "@param" in source, name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source), f"{name} speaks of another host"
    served = sum(len(slim.small((root / "nbs/assets" / name).read_text("utf-8"), "js").encode()) for name in ASSETS)
    assert 30_000 < served < 60_000, f"{served} bytes reach a reader who opens every live part"


def types(root, folder):
    "What the compiler says of nbs/assets/*.js, as nbs/jsconfig.json asks. (Its Node.js is the one that Playwright brings.)"
    with tarfile.open(next((root / "tests/vendor/typescript").glob("*.tar.xz"))) as archive:
        archive.extractall(folder, filter="data")
    command = [NODE, folder / "typescript/lib/tsc.js", "-p", folder / "jsconfig.json"]
    (folder / "assets").mkdir()
    shutil.copy(root / "nbs/jsconfig.json", folder)
    for file in (root / "nbs/assets").glob("*.js"):
        shutil.copy(file, folder / "assets")
    return lambda: subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def test_the_types_of_the_scripts_fit(root, tmp_path):
    check = types(root, tmp_path)
    assert check() == []
    page = tmp_path / "assets/nms_page.js"
    page.write_text(page.read_text("utf-8").replace("clamp(Math.round(", "clamp(fixed("), "utf-8")
    (said,) = check()
    assert "assets/nms_page.js" in said and "'string' is not assignable to parameter of type 'number'" in said


CHAPTERS = {
    "06_matcher": "matching",
    "02_position": "position",
    "09_train": "training",
    "10_inference": "detector",
    "why_detr": "nms",
    "16_real_images": "trees",
}


@pytest.mark.parametrize("chapter, name", CHAPTERS.items())
def test_a_chapter_asks_draws_and_then_answers(root, chapter, name):
    cells = nbformat.read(root / f"nbs/{chapter}.ipynb", as_version=4).cells
    at = next(i for i, c in enumerate(cells) if f"```{{live}} {name}\n" in c.source)
    still = cells[at - 1]
    assert still.metadata.mystnb.image.classes == "live-still" and len(still.metadata.mystnb.image.alt) > 100
    before, after = cells[at].source.split(f"```{{live}} {name}\n```")
    assert "**Predict**" in before and after.strip()
    assert live.PARTS.keys() == {*CHAPTERS.values()}


# ---------------------------------------------------------------- what the live detectors load
def vendored(folder):
    "A folder with files of others: what its VERSION.toml says, and the names of the files, whose sums it must say."
    about = tomllib.loads((folder / "VERSION.toml").read_text("utf-8"))
    sums = {n: s for n, s in about["sha256"].items() if not n.endswith((".tgz", ".whl"))}
    assert sums == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir() if f.name != "VERSION.toml"}
    return about, sums.keys()


def test_the_judge_of_the_pages_is_what_npm_holds(root):
    about, files = vendored(root / "tests/vendor/axe")
    assert files == {"axe.min.js", "LICENSE", "LICENSE-3RD-PARTY.txt"}
    assert f"axe v{about['version']}" in (root / "tests/vendor/axe/axe.min.js").read_text("utf-8")[:50]


def test_the_compiler_is_what_npm_holds(root):
    about, files = vendored(root / "tests/vendor/typescript")
    assert files == {f"typescript-{about['version']}.tar.xz", "LICENSE", "LICENSE-3RD-PARTY.txt"}


def test_what_sets_formulas_is_what_was_taken(root):
    about, files = vendored(root / "nbs/_ext/temml")
    assert about["package"] == "temml" and files == {"temml.min.js", "LICENSE"}
    _, files = vendored(root / "nbs/assets/temml")
    assert files == {"Temml-STIX2.css", "STIXTwoMath.woff2", "LICENSE", "OFL.txt"}


def test_the_runtime_is_what_npm_holds(root):
    folder = root / "nbs/assets/ort"
    about, files = vendored(folder)
    assert files == {*detector.RUNTIME, "LICENSE", "ThirdPartyNotices.txt"}
    head = (folder / detector.RUNTIME[0]).read_text("utf-8")[:200]
    assert f"ONNX Runtime Web v{about['version']}" in head and "MIT" in (folder / "LICENSE").read_text("utf-8")[:20]


def test_a_model_is_made_once_and_again_when_what_it_is_made_of_changes(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(detector.subprocess, "run", lambda c, **_: made.append(c) or Path(c[-1]).write_bytes(b"x" * 3_000_000))
    assert detector.model_file(tmp_path, "toy") is None and detector.download(tmp_path, "toy") == 0  # a tree without weights
    for folder in detector.WEIGHTS.values():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").write_bytes(b"1")
        (tmp_path / folder / "config.json").write_text("{}")
    first, other = (detector.model_file(tmp_path, name) for name in ("toy", "trees"))
    assert detector.model_file(tmp_path, "toy") == first and [c[0] for c in made] == [sys.executable] * 2
    assert [c[2] for c in made] == ["toy", "trees"] and first != other
    assert detector.download(tmp_path, "toy") == 3  # one model, not both
    (tmp_path / detector.WEIGHTS["toy"] / "README.md").write_text("a card changes nothing")
    assert detector.model_file(tmp_path, "toy") == first
    (tmp_path / "detr_lit").mkdir(exist_ok=True)
    for name in ("detr_lit/weights/toy/model.safetensors", "detr_lit/detr.py"):
        (tmp_path / name).write_text("x = 2")
        second = detector.model_file(tmp_path, "toy")
        assert second != first and not first.exists() and second.exists() and other.exists()
        first = second
    assert len(made) == 4 and detector.model_file(tmp_path, "trees") != other and not other.exists()  # the code is both's


def test_a_bare_file_says_the_same_and_keeps_no_notes(tmp_path):
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    numbers = [h.make_tensor_value_info(n, 1, [2]) for n in "xy"]
    node = h.make_node("Neg", ["x"], ["y"], name="a node")
    model = h.make_model(h.make_graph([node], "g", numbers[:1], numbers[1:], doc_string="a note"))
    h.set_model_props(model, {"class_names": "[]"})
    model.graph.node[0].metadata_props.add(key="stack_trace", value="somebody's file")
    onnx.save(model, tmp_path / "m.onnx")
    bare = detector.bare(tmp_path / "m.onnx")
    assert b"somebody" not in bare and b"a note" not in bare and b"class_names" in bare
    found = onnx.load_from_string(bare)
    onnx.checker.check_model(found)
    assert found.graph.node[0].op_type == "Neg" and [i.name for i in found.graph.input] == ["x"]
