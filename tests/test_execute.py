"""The staging step: what a chapter rests on, what runs again when that changes, and what an error says."""

import json
import sys
from pathlib import Path

import execute
import nbformat
import pytest

A = "def base(): return 1\n"
B = "from detr_lit.a import base\ndef twice(): return 2 * base()\n"
C = "import json\ndef other(): return json.dumps({})\n"
INIT = '__version__ = "0.1"\nfrom .a import base\nfrom .b import twice\n'


@pytest.fixture
def tree(tmp_path):
    "A repository with three modules and two chapters: one rests on b (and so on a), one on c."
    (tmp_path / "detr_lit").mkdir()
    for name, text in dict(__init__=INIT, a=A, b=B, c=C).items():
        (tmp_path / "detr_lit" / f"{name}.py").write_text(text)
    (tmp_path / "nbs/_ext").mkdir(parents=True)
    (tmp_path / "nbs/assets").mkdir()
    chapter(tmp_path, "01_b", "from detr_lit import twice", "twice()")
    chapter(tmp_path, "02_c", "from detr_lit.c import other", "other()")
    (tmp_path / "_config.yml").write_text("title: x\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: nbs/01_b\nchapters:\n- file: nbs/02_c\n")
    return tmp_path


def chapter(tree, name, *cells, prose="# Title"):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), *map(nbformat.v4.new_code_cell, cells)])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, tree / f"nbs/{name}.ipynb")


def rests(tree, *cells):
    nb = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    return execute.rests_on(nb, execute.Package(tree))


def modules(tree, *cells):
    return set(rests(tree, *cells)["modules"])


@pytest.mark.parametrize(
    "code, found",
    [
        ("from detr_lit.b import twice", {"a", "b"}),
        ("from detr_lit import base", {"a"}),
        ("from detr_lit import b", {"a", "b"}),
        ("import detr_lit.c", {"c"}),
        ("def f():\n    from detr_lit.c import other", {"c"}),
        ("import detr_lit", {"a", "b", "c"}),
        ("from detr_lit import *", {"a", "b", "c"}),
        ("from detr_lit import unheard_of", {"a", "b", "c"}),
        ("from detr_lit import __version__", set()),
        ("!detr-lit version", {"a", "b", "c"}),
        ("%%bash\ndetr-lit version", {"a", "b", "c"}),
        ("run(['detr-lit', 'train'])", {"a", "b", "c"}),
        ("%matplotlib inline\nfrom detr_lit.a import base", {"a"}),
        ("#| eval: false\nimport detr_lit", set()),
        ("import torch", set()),
        ("subprocess.run(['python', '-c', 'import detr_lit.a'])", {"a", "b", "c"}),
        ("print('made by detr_lit', '../detr_lit/weights/toy')", set()),
    ],
)
def test_modules_that_a_chapter_rests_on(tree, code, found):
    assert modules(tree, code) == found


def test_what_setuptools_carries_is_not_installed(tree, monkeypatch):
    "Importing setuptools lengthens sys.path; that must not make every chapter run again."
    import setuptools

    vendor, plain = str(Path(setuptools.__file__).parent / "_vendor"), [p for p in sys.path if "_vendor" not in p]
    monkeypatch.setattr(sys, "path", plain)
    before = rests(tree, "import pytest")["versions"]
    monkeypatch.setattr(sys, "path", [*plain, vendor])
    assert rests(tree, "import pytest")["versions"] == before


def test_versions_hold_the_imported_packages_and_their_requirements(tree):
    found = rests(tree, "import scipy.optimize")["versions"]
    assert {"scipy", "numpy", "jaxtyping", "beartype", "matplotlib"} <= set(found)
    assert "torch" not in found and "detr-lit" not in found
    assert "torch" in rests(tree, "import torch")["versions"]


def test_data_that_the_code_names(tree):
    run = tree / "nbs/runs/toy"
    run.mkdir(parents=True)
    (run / "history.json").write_text("[1]")
    (tree / "nbs/facts.toml").write_text("x = 1")
    assert set(rests(tree, "load('toy')")["data"]) == {"nbs/runs/toy"}
    assert set(rests(tree, "load('runs/toy')")["data"]) == {"nbs/runs/toy"}
    assert set(rests(tree, "open('facts.toml')")["data"]) == {"nbs/facts.toml"}
    assert rests(tree, "x = 'toys', '.', '..', 'nbs', 'nbs/runs', 'weights', '/', ''")["data"] == {}
    assert rests(tree, "#| rests_on: data/a.bin nbs/facts.toml\n1")["data"]["data/a.bin"] == "missing"
    (tree / "detr_lit/c.py").write_text(C + "WHERE = 'toy'\n")
    before = rests(tree, "import detr_lit.c")["data"]
    assert set(before) == {"nbs/runs/toy"}
    (run / "history.json").write_text("[2]")
    assert rests(tree, "import detr_lit.c")["data"] != before


def test_init_counts_only_for_what_it_does(tree):
    before = rests(tree, "import detr_lit.c")["init"]
    (tree / "detr_lit/__init__.py").write_text(INIT.replace("0.1", "0.2") + "from .c import other\n__all__ = ['a']\n")
    assert rests(tree, "import detr_lit.c")["init"] == before
    (tree / "detr_lit/__init__.py").write_text(INIT + "print('hello')\n")
    assert rests(tree, "import detr_lit.c")["init"] != before


def test_the_style_counts(tree):
    before = rests(tree, "1")["style"]
    (tree / "nbs/matplotlibrc").write_text("figure.dpi: 100\n")
    assert rests(tree, "1")["style"] != before


def run(tree, *args):
    "Execute -> (chapters that ran, errors)."
    said: list[str] = []
    failed = execute.execute(tree, *args, say=said.append, timeout=120)
    return {s.split()[0] for s in said if s.rstrip().endswith("MB")}, failed


def output(tree, name, cell=-1):
    nb = nbformat.read(tree / f"_build/executed/{name}.ipynb", 4)
    return nb.cells[cell].outputs[0]["data"]["text/plain"]


def test_only_what_changed_runs_again(tree):
    assert run(tree) == ({"01_b", "02_c"}, {})
    assert output(tree, "01_b") == "2"
    record = json.loads((tree / "_build/executed/01_b.json").read_text())
    assert record["seconds"] > 0 and record["peak_mb"] > 20
    assert run(tree) == (set(), {})

    # prose: nothing runs, the staged page has the new prose and the old outputs
    chapter(tree, "01_b", "from detr_lit import twice", "twice()", prose="# New title")
    assert run(tree) == (set(), {})
    staged = nbformat.read(execute.stage(tree, tree / "_build") / "nbs/01_b.ipynb", 4)
    assert staged.cells[0].source == "# New title" and staged.cells[-1].outputs[0]["data"]["text/plain"] == "2"
    assert (tree / "_build/book/executed/01_b.json").exists()

    # a module deep below: the chapter that rests on it runs, with the new value; the other one does not
    (tree / "detr_lit/a.py").write_text(A.replace("1", "21"))
    assert run(tree) == ({"01_b"}, {})
    assert output(tree, "01_b") == "42"


def test_errors_say_where_and_the_others_still_run(tree):
    chapter(tree, "01_b", "x = 1", "1 / 0", "'after'")
    ran, failed = run(tree)
    assert ran == {"02_c"} and set(failed) == {"01_b"}
    assert (
        "01_b.ipynb: cell 3" in failed["01_b"] and "| 1 / 0" in failed["01_b"] and "ZeroDivisionError" in failed["01_b"]
    )
    assert not (tree / "_build/executed/01_b.ipynb").exists()
    assert execute.main(["--root", str(tree)]) == 1


def test_shapes_and_types_are_checked_and_eval_false_is_honoured(tree):
    (tree / "detr_lit/c.py").write_text("def add(x: int) -> int: return x\n")
    chapter(
        tree,
        "01_b",
        "#| eval: false\n1 / 0",
        "def half(x: int) -> int: return x\ntry:\n    half('a')\n    cell = False\nexcept Exception: cell = True",
        "from detr_lit.c import add\ntry:\n    add('a')\n    package = False\nexcept Exception: package = True",
        "import os, matplotlib as mpl\ncell, package, os.path.basename(os.getcwd()), 'inline' in mpl.get_backend()",
    )
    assert run(tree, ["01_b"]) == ({"01_b"}, {})
    assert output(tree, "01_b") == "(True, True, 'nbs', True)"
    nb = nbformat.read(tree / "_build/executed/01_b.ipynb", 4)
    assert nb.cells[1].source.startswith("#| eval: false") and nb.cells[1].outputs == [] and len(nb.cells) == 5


def test_a_dead_kernel_is_an_error(tree):
    chapter(tree, "01_b", "import os; os._exit(1)")
    _, failed = run(tree, ["01_b"])
    assert "01_b.ipynb" in failed["01_b"]


def test_staging_drops_what_is_gone(tree):
    book = execute.stage(tree, tree / "_build")
    assert (book / "nbs/02_c.ipynb").exists()
    (tree / "_toc.yml").write_text("format: jb-book\nroot: nbs/01_b\n")
    execute.stage(tree, tree / "_build")
    assert not (book / "nbs/02_c.ipynb").exists() and (book / "nbs/01_b.ipynb").exists()


def test_a_kernel_takes_no_port_that_another_may_take(tree):
    chapter(tree, "01_b", "from ipykernel import get_connection_info", "get_connection_info(unpack=True)['transport']")
    text, _ = execute.run_chapter(tree / "nbs/01_b.ipynb", tree, 1, 60)
    shown = json.loads(text)["cells"][2]["outputs"][0]["data"]["text/plain"]
    assert "".join(shown) == "'ipc'"
