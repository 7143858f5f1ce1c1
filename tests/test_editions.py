"""What the tools make of the book: notebooks that run anywhere, an EPUB, a citation; and whether the notation is complete."""

import ast
import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import about
import epub
import execute
import nbformat
import notebooks
import pytest
import workbook
from packaging.requirements import Requirement
from pybtex.database import parse_string

ROOT = Path(__file__).resolve().parents[1]
PAGES = execute.notebooks(ROOT)
LEFT = re.compile(r"(?m)^(?:`{3,}|:{3,})\{[\w:-]+\}|\{[\w:]+\}`[^`]+`|^\([\w-]+\)=$|^:(?:label|class):")
FETCHED = 2  # the number of the cell that fetches the book


@pytest.fixture(scope="module")
def editions():
    return {p.stem: notebooks.edition(p, ROOT) for p in PAGES}


# ---------------------------------------------------------------- notebooks
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_notebook_is_whole_and_in_words(editions, path):
    cells, source = editions[path.stem].cells, path.read_text("utf-8")
    words = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert not LEFT.findall(words)
    assert all(c.source.count("```") % 2 == 0 for c in cells if c.cell_type == "markdown")
    assert words.count("**Answer**") == source.count("{solution-start}")
    assert words.count("### Question: ") == source.count("{exercise-start}")
    for file in re.findall(r"\{literalinclude\} (\S+?)\\n", source):
        assert (ROOT / "nbs" / file).read_text("utf-8").strip() in words, file
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code" and (body := workbook.without_glue(notebooks.split(cell.source)[1])):
            held = body in (words if "eval: false" in cell.source else code)
            assert held or "default_exp" in cell.source, cell.source[:80]


def needs(dist: str, extras: list[str]) -> set[str]:
    "All that an installation of a distribution with these extras brings along."
    todo, done = [(dist, e) for e in ["", *extras]], set()
    while todo:
        dist, extra = todo.pop()
        if (dist, extra) in done:
            continue
        done.add((dist, extra))
        try:
            lines = metadata.requires(dist) or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        for r in map(Requirement, lines):
            if not r.marker or r.marker.evaluate({"extra": extra}):
                todo += [(re.sub(r"[-_.]+", "-", r.name).lower(), e) for e in ["", *r.extras]]
    return {dist for dist, _ in done}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_first_cell_installs_what_the_notebook_imports(editions, path):
    cells = [c.source for c in editions[path.stem].cells if c.cell_type == "code"]
    asked = re.search(r'pip install -q -e "\.\.(?:\[(.*)\])?"', cells[0])
    there = needs("detr-lit", (asked[1] or "").split(","))
    scripts = {p.stem for folder in ("tests", "benchmarks") for p in (ROOT / folder).glob("*.py")}  # the checkout has them
    free = set(sys.stdlib_module_names) | scripts | {"IPython", "detr_lit", "tomli"}  # tomli: tomllib before Python 3.11
    for code in cells[1:]:
        tree = execute.as_python(code)
        names = {n for x in ast.walk(tree) if isinstance(x, ast.Import) for n in (a.name for a in x.names)}
        names |= {x.module for x in ast.walk(tree) if isinstance(x, ast.ImportFrom) and x.module and not x.level}
        for top in {n.split(".")[0] for n in names} - free:
            assert {d.lower().replace("_", "-") for d in execute.distributions().get(top, [top])} & there, top


PIP = "import sys; open('pip.txt', 'w').write(' '.join(sys.argv[1:]))"
RUN = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
result = shell.run_cell(open(sys.argv[1]).read())
result.raise_error()
import os; print("AT", os.getcwd(), sys.path[0])
"""


def git(*words, at=ROOT) -> str:
    return subprocess.run(["git", "-C", str(at), *words], capture_output=True, text=True).stdout.strip()


@pytest.fixture
def older(monkeypatch):
    "The book as if it were made from the commit before the last (what a clone does not show by itself), if it is here."
    commit = git("rev-parse", "--verify", "-q", "HEAD~1") or git("rev-parse", "HEAD")
    monkeypatch.setattr(workbook, "commit", lambda root: commit)
    return commit


@pytest.fixture
def first_cell(tmp_path, older):
    "Run a notebook's first cell in an empty folder: the repository is this checkout, pip only writes down what it is asked."
    def run(**files):
        home = tmp_path / "home"
        (home / "fake" / "pip").mkdir(parents=True)
        (home / "fake" / "pip" / "__main__.py").write_text(PIP)
        (home / "fake" / "pip" / "__init__.py").write_text("")
        (home / "cell.py").write_text(notebooks.edition(ROOT / "nbs/06_matcher.ipynb", ROOT).cells[FETCHED].source)
        (home / "run.py").write_text(RUN)
        for name, text in files.items():
            (home / name).write_text(text)
        url = workbook.settings(ROOT)["git_url"]
        instead = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": url}
        env = {**os.environ, **instead, "PYTHONPATH": str(home / "fake"), "IPYTHONDIR": str(home / "ipython")}
        done = subprocess.run([sys.executable, "run.py", "cell.py"], cwd=home, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return home, re.search(r"^AT (\S+) (\S*)$", done.stdout, re.M)
    return run


def test_the_first_cell_fetches_this_version(first_cell, older):
    home, at = first_cell()
    book = home / "detr_lit_book"
    assert Path(at[1]) == book / "nbs" and Path(at[2]) == book
    assert git("rev-parse", "HEAD", at=book) == older != ""
    assert (book / "nbs/pip.txt").read_text() == "install -q -e .."


def test_the_first_cell_leaves_a_checkout_alone(first_cell):
    home, at = first_cell(**{"paper_facts.toml": ""})
    assert Path(at[1]) == home and not (home / "detr_lit_book").exists() and not list(home.rglob("pip.txt"))


def test_outside_of_git_the_version_is_the_tag(monkeypatch):
    monkeypatch.setattr(workbook, "commit", lambda root: "")
    assert f"checkout -q v{workbook.settings(ROOT)['version']}\n" in notebooks.fetch(ROOT, "")


# ---------------------------------------------------------------- EPUB
BROWSERS = """<?xml version="1.0"?>
<html xmlns="http://www.w3.org/1999/xhtml"><body><p id="a">One<br>two<wbr>three</p><p id="a">again</p>
<span class="caption-text"><p>A picture</p></span><svg viewBox="0 0 1 1"><marker refX="1"></marker></svg>
<dl><dt>f(<dl><dd>x</dd></dl>)</dt><dd>It is.</dd></dl><div class="quiz"><button>Answer</button></div>
<a href="06_matcher.html#cost" download>there</a><a href="../source/heads.html#L3">code</a><a href="../workbook/a.zip">zip</a>
<a href="07_loss.xhtml">next</a></body></html>"""


def test_what_only_a_browser_forgives_is_mended():
    from xml.etree import ElementTree

    page = epub.mended(BROWSERS, "https://code", "https://site")
    tree = ElementTree.fromstring(page)
    names = [x.tag.partition("}")[2] for x in tree.iter()]
    assert names.count("dl") == 1 and names.count("p") == 2 and "button" not in names
    assert [x.get("id") for x in tree.iter() if x.get("id")] == ["a"]
    assert [x.get("href") for x in tree.iter() if x.get("href")] == [
        "06_matcher.xhtml#cost", "https://code/heads.py#L3", "https://site/workbook/a.zip", "07_loss.xhtml",
    ]  # fmt: skip
    assert 'viewBox="0 0 1 1"' in page and 'refX="1"' in page and page.startswith("<?xml")


# ---------------------------------------------------------------- about, notation
def test_the_citation_is_bibtex_that_names_version_and_commit():
    entries = parse_string(about.bibtex(ROOT), "bibtex").entries
    ours, paper = entries["detr_lit"].fields, entries["carion2020"].fields
    assert ours["version"].startswith(workbook.settings(ROOT)["version"]) and workbook.commit(ROOT)[:7] in ours["version"]
    assert "A literate DETR" in ours["title"] and ours["url"].startswith("https://") and paper["pages"] == "213--229"


def test_every_letter_of_a_shape_is_in_the_notation():
    table = (ROOT / "nbs/notation.md").read_text("utf-8").split("## Letters in shapes")[1].split("\n## ")[0]
    explained = {x.strip() for row in re.findall(r"^\| ([^|]+) \|", table.replace("\\", ""), re.M) for x in row.split(",")}
    shape = re.compile(r'\b(?:Float|Float32|Int|Int64|Bool|UInt8|Shaped|Num|Integer|Real)\[\w+, "([^"]*)"\]')
    used = {x for f in (ROOT / "detr_lit").glob("*.py") for s in shape.findall(f.read_text("utf-8")) for x in s.split()}
    letters = {m[0] for x in used if (m := re.fullmatch(r"\*?[A-Za-z](_[A-Z])?", x.replace("#", "")))}
    assert len(letters) > 15 and letters <= explained, letters - explained


def test_the_zip_names_its_kind_first(tmp_path):
    "Readers look for the type at byte 38, uncompressed."
    folder = tmp_path / "epub"
    (folder / "META-INF").mkdir(parents=True)
    (folder / "META-INF/container.xml").write_text("<container/>")
    (folder / "mimetype").write_text("application/epub+zip")
    (folder / "a.xhtml").write_text("<html><body><math></math></body></html>")
    (folder / "content.opf").write_text('<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml" /></manifest>')
    epub.finish(folder, ROOT, tmp_path / "a.epub")
    assert (tmp_path / "a.epub").read_bytes()[38:58] == b"application/epub+zip"
    with zipfile.ZipFile(tmp_path / "a.epub") as z:
        assert z.namelist() == ["mimetype", "META-INF/container.xml", "content.opf", "a.xhtml"]
        assert 'href="a.xhtml" media-type="application/xhtml+xml" properties="mathml"/>' in z.read("content.opf").decode()
