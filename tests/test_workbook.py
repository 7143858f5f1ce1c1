"The workbook: its holes, and the checker that says what is wrong with what stands in them."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import workbook as maker
from typer.testing import CliRunner

from detr_lit.cli import app
from detr_lit.workbook import (
    QUESTIONS,
    STEPS,
    Verdict,
    book,
    check,
    check_file,
    difference,
    find_step,
    judge,
    read_parts,
    sabotages,
)

pytestmark = pytest.mark.usefixtures("one_thread")
NEWCOMER = Path(__file__).with_name("newcomer.py")
CORE = {(q.step, q.name) for q in QUESTIONS if not q.more}


def in_one_line(verdict: Verdict) -> str:
    return " ".join(repr(verdict).split())


# Sabotages of what no reader is asked to write: scenes, weights on disk, checkpoints, the card of a model, an export.
NOT_ASKED = {
    "00": {"hide whom you like"},
    "08": {"what does not fit is not loaded", "half a config", "a card without its numbers", "the batch is counted in Python"},
    "09": {
        "random state forgotten", "order starts again", "written in place", "checkpoint of anybody", "stale artefact",
        "resume forgets the average", "killed while writing", "optimisers start afresh", "another number of classes",
        "half a run", "pickles run", "classes of somebody else", "help that is not asked for", "a lock that locks nothing",
        "the last is the best", "other data, same checkpoint", "half a file is left",
    },
}  # fmt: skip


def names_of(step):
    return dict.fromkeys(q.name for q in QUESTIONS if q.step == step)


def chapter(root, step):
    return next((root / "nbs").glob(f"{step}_*.ipynb"))


# ---------------------------------------------------------------- what is right is called right
@pytest.mark.parametrize("step", STEPS)
def test_the_book_s_own_chapters_are_whole(root, step):
    verdicts = check_file(step, chapter(root, step))
    assert [v.name for v in verdicts] == [*names_of(step)]
    assert all(v.whole for v in verdicts), verdicts


@pytest.mark.parametrize("step", STEPS)
def test_a_newcomer_s_code_is_right_under_other_names_and_lacks_what_was_not_asked(step):
    verdicts = {v.name: v for v in check_file(step, NEWCOMER)}
    assert {name for s, name in CORE if s == step} <= verdicts.keys()
    for name, v in verdicts.items():
        assert v and not v.wrong, v
        assert bool(v.missing) == any(q.more for q in QUESTIONS if (q.step, q.name) == (step, name)), v


# ---------------------------------------------------------------- what is wrong is called by its name
@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_each_sabotage_is_told_from_all_others(step):
    unseen, mixed = set(), {}
    for m in sabotages(STEPS[step]):
        verdicts = [judge(step, name, book(step, m["name"])) for name in names_of(step)]
        named = {s["name"] for v in verdicts for s in v.looks_like}
        if all(v.whole for v in verdicts):
            unseen.add(m["name"])
        elif named != {m["name"]}:
            mixed[m["name"]] = named
        else:
            assert any(m["hint"] in in_one_line(v) for v in verdicts)
    assert not mixed and unseen == NOT_ASKED.get(step, set())


MISTAKES = [  # in a newcomer's words, and what the book calls them
    ("00", "xs.min(), xs.max() + 1, ys.min(), ys.max() + 1", "xs.min(), xs.max(), ys.min(), ys.max()", "far edge forgotten"),
    ("00", "rng.integers(1, self.classes + 1)", "rng.integers(0, self.classes)", "labels from zero"),
    ("00", "np.random.default_rng(idx)", "np.random.default_rng()", "global chance"),
    ("00", "return batch, mask.bool()", "return batch, ~mask.bool()", ""),
    ("01", "F.relu(x + self.norm2", "F.relu(self.norm2", "residual dropped"),
    ("01", "[:-2]", "[:-3]", ""),
    ("02", "torch.cat([rows, columns], -1)", "torch.cat([columns, rows], -1)", "halves swapped"),
    ("02", "torch.arange(1, n + 1) / n", "torch.arange(0, n) / (n - 1)", "counting from zero"),
    ("02", "torch.arange(1, n + 1) / n * 2 * torch.pi", "torch.arange(1, n + 1).float()", "normalisation dropped"),
    ("03", "self.att(x + pos, x + pos, x)", "self.att(x + pos, x + pos, x + pos)", "positions in the values"),
    ("03", "self.ln1(x + self.drop(self.att", "self.ln1(self.drop(self.att", "residual forgotten"),
    ("03", "self.att(x + pos, x + pos, x)", "self.att(x + pos, x, x)", "positions missing from the keys"),
    ("04", "self.look(tgt + query_pos, ", "self.look(tgt, ", "queries forgotten in cross-attention"),
    ("04", "query_pos, memory + pos, memory)", "query_pos, memory, memory)", "no places in the memory"),
    ("04", "outs.append(self.last(tgt))", "tgt = self.last(tgt); outs.append(tgt)", "norm fed back"),
    ("05", "nn.Linear(d_model, num_classes + 1)", "nn.Linear(d_model, num_classes)", "no output for nothing"),
    ("05", "torch.sigmoid(self.c", "(self.c", "sigmoid forgotten"),
    ("06", "(box_convert(boxes, \"cxcywh\", \"xyxy\"), box_convert(t[\"boxes\"], \"cxcywh\", \"xyxy\"))", "(boxes, t[\"boxes\"])",
     "corners forgotten"),
    ("06", "self.w[2] * (1 - giou)", "self.w[2] * giou", "sign of GIoU"),
    ("06", "i, j = linear_sum_assignment(cost.numpy())", "j = np.arange(cost.shape[1]); i = cost.argmin(0).numpy()",
     "each object takes its favourite"),
    ("06", "softmax(-1)[:, t[\"labels\"]]", "softmax(-1)[:, (t[\"labels\"] - 1).clamp(min=0)]", "the neighbouring label"),
    ("07", "self.weight[0] = noobj_weight", "pass", "no object weighs as much as an object"),
    ("07", "self.weight[0] = noobj_weight", "self.weight[-1] = noobj_weight", "no object's weight on the last class"),
    ("07", "(mine - theirs).abs().sum() / n", "(mine - theirs).abs().mean(-1).sum() / n", "mean over coordinates"),
    ("07", "outputs.get(\"aux_outputs\", [])", "[]", "auxiliary losses left out of the total"),
    ("08", "labels=labels + 1", "labels=labels", "labels one too low"),
    ("08", "(torch.zeros_like(queries), memory, pos, queries)", "(queries, memory, pos, torch.zeros_like(queries))",
     "queries as input instead of position"),
    ("09", "self.optimizer.zero_grad()", "pass", "no zero_grad"),
    ("09", "dict(params=slow, lr=recipe.lr_backbone)", "dict(params=slow, lr=recipe.lr)", "backbone too fast"),
    ("10", "(t != 0) & (d[\"scores\"] >= score_threshold)", "d[\"scores\"] >= score_threshold", "no argmax"),
    ("10", "maps[-1, :, found", "maps[0, :, found", "first layer"),
    ("10", " / np.log(shares.shape[-1])", "", "entropy unscaled"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "find", "put", "name"), MISTAKES)
def test_a_newcomer_s_mistake_is_named(tmp_path, step, find, put, name):
    text = NEWCOMER.read_text()
    assert text.count(find) == 1
    (tmp_path / "mine.py").write_text(text.replace(find, put))
    verdicts = [v for v in check_file(step, tmp_path / "mine.py") if not v]
    assert verdicts and all(v.state == "wrong" and v.wrong for v in verdicts)
    if name:
        named = {m["name"] for v in verdicts for m in v.looks_like}
        assert name in named and named <= {name, *TWINS.get(name, ())}, verdicts
        assert name in in_one_line(verdicts[0]) + in_one_line(verdicts[-1])


# A weighted mean does not notice a weight that all share, so in one process these two are one.
TWINS = {"no object weighs as much as an object": ["no object's weight on every class"]}


def test_what_is_not_written_and_what_is_not_asked_for_are_said():
    class DetrPredictionHeads:
        def __init__(self, d_model=256, num_classes=3):
            raise NotImplementedError("DetrPredictionHeads.__init__ is yours to write")

    verdict = check(DetrPredictionHeads)
    assert not verdict and repr(verdict) == "DetrPredictionHeads: not written yet"
    with pytest.raises(ValueError, match="no questions about 'dict'; there are about .*HungarianMatcher"):
        check(dict)
    assert repr(Verdict("x", "wrong", 9, [f"w{i}" for i in range(6)])).endswith("- w3\n  - and 2 more")
    long = repr(Verdict("x", "wrong", 1, ["word " * 40 + "end"], looks_like=[dict(name="n", hint="hint " * 40 + "end")]))
    assert max(map(len, long.splitlines())) <= 88 and long.count("word") == 40 and long.count("end") == 2


def test_what_is_there_and_wrong_is_not_called_missing(tmp_path):
    "Beyond the course page nothing is asked for; but what is offered has to be right."
    text = NEWCOMER.read_text()
    find = "def forward(self, x, pos):\n        x = self.ln1(x + self.drop(self.att(x + pos, x + pos, x)[0]))"
    assert text.count(find) == 1
    put = find.replace("pos):", "pos, mask=None):").replace("x + pos, x)", "x + pos, x, None if mask is None else ~mask)")
    (tmp_path / "mine.py").write_text(text.replace(find, put))
    layer, _ = check_file("03", tmp_path / "mine.py")
    assert layer.state == "wrong" and [m["name"] for m in layer.looks_like] == ["mask inverted"]
    assert len(layer.wrong) == 1 and layer.wrong[0].startswith("padding is not read: off by up to")
    (tmp_path / "mine.py").write_text(text.replace(find, put.replace("~mask", "mask")))
    layer, _ = check_file("03", tmp_path / "mine.py")
    assert layer and not layer.whole and not any(w.startswith("padding") for w in layer.missing)


def test_a_data_set_without_an_end_is_no_trap(tmp_path):
    find = "        if idx >= self.n:\n            raise IndexError(idx)\n"
    assert NEWCOMER.read_text().count(find) == 1
    (tmp_path / "mine.py").write_text(NEWCOMER.read_text().replace(find, ""))
    verdict = next(v for v in check_file("00", tmp_path / "mine.py") if v.name == "ToyDetectionDataset")
    assert verdict.wrong == ["its length, and an IndexError behind the end: [40, 'nothing']; wanted [40, 'IndexError']"]


def test_a_part_waits_for_what_it_is_made_of(root, made):
    states = {v.name: v.state for v in check_file("03", made / "nbs/03_encoder.ipynb")}
    assert states == {"TransformerEncoderLayer": "not written yet",
                      "TransformerEncoder": "waits for TransformerEncoderLayer, which is not written yet"}  # fmt: skip


def test_differences_in_words():
    one = torch.tensor([1.0, 2.0])
    assert difference(one[:1], one) == "shape [1]; wanted [2]"
    assert difference(one.long(), one) == "numbers are torch.int64; wanted torch.float32"
    assert difference(one + 1, one) == "off by up to 1, where the right numbers reach 2"
    assert difference(one * float("nan"), one) == "NaN"
    assert difference({"a": 1}, {"b": 1}) == "keys a; wanted b"
    assert difference(ValueError("no"), one) == "raises ValueError: no"
    assert difference({"a": [one, one + 1]}, {"a": [one, one]}).startswith("at ['a'][1]: off by up to 1")
    assert difference([1, 2], [1, 3]) == "[1, 2]; wanted [1, 3]"


# ---------------------------------------------------------------- files
def notebook(*cells):
    return json.dumps(dict(cells=[dict(cell_type="code", source=[c]) for c in cells]))


def test_only_definitions_of_a_notebook_are_run(tmp_path):
    file = tmp_path / "06_mine.ipynb"
    file.write_text(notebook("#| export\nx = 1", "raise SystemExit", "#| export\ndef f(): return x", "x = 2"))
    space, error = read_parts(file)
    assert space["f"]() == 1 and not error
    cells = "!pip install nothing", "import math\nprint(undefined)\ndef f(): return math.pi", "class C: pass"
    file.write_text(notebook(*cells))
    space, error = read_parts(file)
    assert space["f"]() > 3 and "C" in space and not error
    file.write_text(notebook("#| export\nfrom nowhere import nothing", "#| export\nx = 3"))
    assert read_parts(file)[1].startswith("ModuleNotFoundError") and read_parts(file)[0]["x"] == 3
    (missing,) = [v for v in check_file("05", file) if v.name == "DetrPredictionHeads"]
    assert "not found in the file; a cell raises ModuleNotFoundError" in missing.state
    for text in ("{", "[]", '{"cells": 3}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="06_mine.ipynb is no notebook"):
            read_parts(file)


def test_a_step_by_any_name():
    assert {find_step(s) for s in ("06", "6", "06_matcher", "mine/06_matcher.ipynb")} == {"06"}
    for wrong in ("11", "matcher", ""):
        with pytest.raises(ValueError, match="it must be one of 00, 01"):
            find_step(wrong)


def test_the_command(tmp_path, monkeypatch):
    def run(*words):
        ran = CliRunner().invoke(app, ["check", *map(str, words)])
        return ran.exit_code, ran.output

    code, said = run("05", NEWCOMER)
    assert code == 0 and said.startswith("DetrPredictionHeads: right.")
    (tmp_path / "05_heads.ipynb").write_text(notebook(NEWCOMER.read_text().replace("torch.sigmoid(self.c", "(self.c")))
    monkeypatch.chdir(tmp_path)
    for words in (["5"], ["05_heads.ipynb"], ["05", "05_heads.ipynb"]):
        code, said = run(*words)
        assert code == 1 and "sigmoid forgotten" in said
    code, said = run("05", "--json")
    (row,) = json.loads(said)
    assert code == 1 and row["state"] == "wrong" and row["looks_like"] == ["sigmoid forgotten"] and row["wrong"]
    for words, why in ([["06"], "there is no 06_*.ipynb"], [["06", "gone.ipynb"], "gone.ipynb"], [["99"], "step is '99'"]):
        code, said = run(*words)
        assert code == 1 and said.startswith("error:") and why in said and said.count("\n") == 1


# ---------------------------------------------------------------- the edition
@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workbook")
    maker.write(root, folder)
    return folder / maker.ZIP


def holes(path):
    return {name: steps for c in nbformat.read(path, 4).cells for name, steps in c.metadata.get("todo", {}).items()}


@pytest.mark.parametrize("step", STEPS)
def test_every_hole_is_cut_and_nothing_else(root, made, step):
    path = chapter(root, step)
    solved, todo = nbformat.read(path, 4), holes(path)
    edition = nbformat.read(made / "nbs" / path.name, 4)
    nbformat.validate(edition)
    source = "\n\n".join(c.source for c in edition.cells if c.cell_type == "code" and c.source.startswith("#| export"))
    ours = "\n\n".join(maker.split(c.source)[1] for c in solved.cells if c.cell_type == "code" and "#| export" in c.source)
    cut, whole = maker.functions(ast.parse(source)), maker.functions(ast.parse(ours))
    assert todo.keys() <= cut.keys() and cut.keys() == whole.keys()
    for name, node in whole.items():
        assert ast.unparse(node.args) == ast.unparse(cut[name].args) and ast.get_docstring(node) == ast.get_docstring(cut[name])
        if name in todo:
            assert f"NotImplementedError('{name} is yours to write')" in ast.unparse(cut[name].body[-1])
            assert all(f"TODO {i}. {words}" in source for i, words in enumerate(todo[name], 1))
        else:
            assert ast.unparse(node) == ast.unparse(cut[name])
    asked = {name for s, name in CORE if s == step}
    assert {m[1] for c in edition.cells if (m := re.fullmatch(r"check\((\w+)\)", c.source))} == asked
    verdicts = check_file(step, made / "nbs" / path.name)
    written = {v.name for v in verdicts if v}
    assert not written & {name.partition(".")[0] for name in todo}


def test_holes_of_every_shape():
    top = 'class A(B):\n    "Doc."\n    def __init__(self):\n        super().__init__()\n'
    code = top + "        self.x = 1\n    def f(self): return 2\n    g = 3\n"
    cut = maker.hole(code, {"A.__init__": ["do"], "A.f": ["be", "go"]})
    assert cut == (
        f'{top}        # TODO 1. do\n        raise NotImplementedError("A.__init__ is yours to write")\n'
        "    def f(self):\n        # TODO 1. be\n        # TODO 2. go\n"
        '        raise NotImplementedError("A.f is yours to write")\n    g = 3'
    )
    with pytest.raises(KeyError):
        maker.hole(code, {"A.nobody": ["do"]})


def test_tables_are_tables_and_what_no_notebook_runs_is_left_out(made):
    said = maker.without_directives("a\n\n```{list-table} Why\n:name: t\n\n* - x\n  - y\n* - long\n    text\n  - z\n```\nb")
    assert said == "a\n\n**Why**\n\n| x | y |\n|---|---|\n| long text | z |\n\nb"
    cells = nbformat.read(made / "nbs/09_train.ipynb", 4).cells
    assert any("| paper | `laptop` | why |" in c.source for c in cells) and not any("__main__" in c.source for c in cells)


def test_no_myst_and_no_answer_is_left(root, made):
    for path in sorted((made / "nbs").glob("*.ipynb")):
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
        prose = re.sub(r"\$\$.*?\$\$|(`+).+?\1", "", text, flags=re.S)
        assert not re.findall(r"\{[a-z:]+\}`|```\{|^:\w+:|^\([\w-]+\)=|solution-|\]\([\w-]+\.md", prose, flags=re.M), path.name
        for link in re.findall(r"\]\(([\w-]+\.ipynb)", text):
            assert (made / "nbs" / link).exists(), link
        solved = nbformat.read(root / "nbs" / path.name, 4)
        told = "\n".join(c.source for c in maker.without_live_sections(solved.cells) if c.cell_type == "markdown")
        assert all(c.source.count("```") % 2 == 0 for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"), path.name
        secret = " ".join(re.findall(r"\{solution-start\}.*?\{solution-end\}", told, flags=re.S))
        lines = [x.strip() for x in secret.splitlines() if len(x) > 60 and not re.search(r"[{\[$]", x)]
        assert len(lines) > 2 and not [x for x in lines if x in text], path.name
        assert text.count("### Question:") == told.count("{exercise-start}") == text.count("The answer is on")


@pytest.mark.slow
def test_a_reader_s_part_takes_the_place_of_the_book_s(root, made, tmp_path):
    "Fill 05 and spoil 06; then 07 computes with the reader's heads in place, and with the book's matcher."
    for name in ("05_heads", "06_matcher"):
        (tmp_path / f"{name}.ipynb").write_text((root / f"nbs/{name}.ipynb").read_text())
    text = (tmp_path / "06_matcher.ipynb").read_text()
    assert text.count("self.cost_giou * (1 - giou)") == 1
    (tmp_path / "06_matcher.ipynb").write_text(text.replace("self.cost_giou * (1 - giou)", "self.cost_giou * giou"))
    (tmp_path / "07_loss.ipynb").write_text((made / "nbs/07_loss.ipynb").read_text())
    code = (
        "import detr_lit.heads, detr_lit.matcher\nold = detr_lit.heads.DetrPredictionHeads, detr_lit.matcher.HungarianMatcher\n"
        "from detr_lit.workbook import use\nuse()\nimport detr_lit, detr_lit.detr, detr_lit.loss\n"
        "assert detr_lit.detr.DetrPredictionHeads is detr_lit.heads.DetrPredictionHeads is not old[0]\n"
        "assert detr_lit.loss.HungarianMatcher is old[1]\n"
        "assert detr_lit.DETR(backbone_name='convnet').heads.__class__ is detr_lit.heads.DetrPredictionHeads\n"
    )
    env = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(maxsplit=2)[1:] for line in ran.stdout.splitlines()]
    assert ["DetrPredictionHeads", "yours"] in rows and ["pairwise_giou", "yours"] in rows
    assert ["HungarianMatcher", "the book's; yours is wrong"] in rows and not [r for r in rows if r[0] == "DetrLoss"]


@pytest.mark.slow
def test_a_filled_workbook_runs(root, made, tmp_path):
    "Chapter 05 and the holes of it filled again, cell by cell, where the zip file puts it; 09 finds the stored runs."
    new, old = nbformat.read(made / "nbs/05_heads.ipynb", 4), nbformat.read(root / "nbs/05_heads.ipynb", 4)
    filled = {c.source.split("\n")[1]: c.source for c in old.cells if "todo" in c.metadata}
    cells = [filled.get((c.source.split("\n") + [""])[1], c.source) for c in new.cells if c.cell_type == "code"]
    assert sum(c in filled.values() for c in cells) == len(filled) == 1
    head = "from IPython.display import display\nimport matplotlib\nmatplotlib.use('Agg')\n"
    (tmp_path / "run.py").write_text(head + "\n".join(cells))
    find = ("from detr_lit.train import load_or_train; run = load_or_train('runs/toy-laptop-0', 1000, recipe='laptop', seed=0, "
            "eval_every=100, weights='../detr_lit/weights/toy'); assert run['loaded']")  # fmt: skip
    for command in ([str(tmp_path / "run.py")], ["-c", find]):
        env = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        ran = subprocess.run([sys.executable, *command], cwd=made / "nbs", env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
