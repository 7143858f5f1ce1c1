"""The workbook: chapters 00 to 10 with holes, made from the same notebooks.

Run as `python nbs/_ext/workbook.py [FOLDER]` (default `_build/workbook`). What is cut is said by a cell's metadata:

    todo:
      HungarianMatcher.cost:          # a function or method that the cell defines
      - what the reader has to do     # steps, one line each

Signature and docstring stay, the steps become comments. Answers are left out, MyST's roles and directives are put into
words that Jupyter shows. As a Sphinx extension it adds ```{workbook}```, the table of what there is to download; the
files themselves are put into the finished site by build_site.py.
"""

from __future__ import annotations

import ast
import configparser
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
from docutils import nodes
from nbdev_cells import fact_text, split, tomllib
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
ZIP = "detr_lit_workbook"
BESIDE = (  # what chapters read from disk, where they look for it
    "nbs/paper_facts.toml nbs/references.bib nbs/matplotlibrc nbs/runs/kill_and_resume.json "
    "nbs/runs/toy-laptop-0 nbs/runs/toy-laptop-1 nbs/runs/toy-laptop-2 nbs/runs/toy-paper-0 detr_lit/weights/toy LICENSE"
).split()
README = """# A literate DETR: the workbook

Chapters 00 to 10 of the book, with holes. Fill them in any order; the cell after each hole checks it, without a network.

    pip install detr-lit notebook        # or, from a checkout of the book: pip install .
    cd nbs && jupyter notebook 06_matcher.ipynb
    detr-lit check 06 06_matcher.ipynb   # the same check, from a terminal

The chapters with everything filled in: {site}
"""
BEGIN = """from detr_lit.workbook import check, use

use()       # what you have written in the other notebooks of this folder and is whole, in place of the book's"""
NO_GLUE = "def glue(*_, **__): pass    # hands numbers to the text of the book's page"
LEFT_OUT = {"cost", "live", "model-map", "quiz", "raw", "workbook"}


def chapters(root: Path) -> list[Path]:
    "The notebooks that have something to write."
    return [p for p in sorted((root / "nbs").glob("*.ipynb")) if '"todo"' in p.read_text("utf-8")]


# ---------------------------------------------------------------- holes
def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    "{'HungarianMatcher.cost': its node} of a cell."
    found = {s.name: s for s in tree.body if isinstance(s, ast.FunctionDef)}
    for c in tree.body:
        if isinstance(c, ast.ClassDef):
            found |= {f"{c.name}.{s.name}": s for s in c.body if isinstance(s, ast.FunctionDef)}
    return found


def hole(code: str, todo: dict[str, list[str]]) -> str:
    """A cell's code with the bodies of these functions replaced by their steps; KeyError for one that isn't there.

    The docstring stays, and a first line that calls the parent's `__init__`."""
    lines, nodes = code.splitlines(), functions(ast.parse(code))
    for name, node in sorted(((n, nodes[n]) for n in todo), key=lambda x: -x[1].lineno):
        body, indent = node.body, " " * (node.col_offset + 4)
        kept = int(ast.get_docstring(node) is not None)
        kept += len(body) > kept and ast.unparse(body[kept]) == "super().__init__()"
        first = body[0]
        same_line = bool(lines[first.lineno - 1][: first.col_offset].strip())
        head = lines[: first.lineno - 1]
        if same_line:  # def f(x): return x
            head.append(lines[first.lineno - 1][: first.col_offset].rstrip())
        shown = [
            indent + line.strip() if same_line else line
            for s in body[:kept]
            for line in ([ast.get_source_segment(code, s) or ""] if same_line else lines[s.lineno - 1 : s.end_lineno])
        ]
        steps = [f"{indent}# TODO {i}. {step}" for i, step in enumerate(todo[name], 1)]
        end = f'{indent}raise NotImplementedError("{name} is yours to write")'
        lines = [*head, *shown, *steps, end, *lines[node.end_lineno :]]
    return "\n".join(lines)


def questioned(code: str) -> list[str]:
    "The names that a cell defines and the book has questions about, those beyond the course page left out."
    from detr_lit.workbook import QUESTIONS

    core = {q.name for q in QUESTIONS if not q.more}
    defined = [s.name for s in ast.parse(code).body if isinstance(s, (ast.FunctionDef, ast.ClassDef))]
    return [name for name in defined if name in core]


# ---------------------------------------------------------------- words
@cache
def names(root: Path) -> dict[str, str]:
    "{'carion2020': 'Carion et al., 2020'}"
    from pybtex.database import parse_file

    def people(entry) -> str:
        last = [" ".join(p.last_names) for p in entry.persons.get("author", [])]
        return last[0] + " et al." if len(last) > 2 else " and ".join(last)

    entries = parse_file(str(root / "nbs/references.bib")).entries
    return {key: f"{people(e)}, {e.fields.get('year', 'n. d.')}" for key, e in entries.items()}


def glued(root: Path, chapter: str) -> dict[str, str]:
    "The numbers that an executed chapter handed to its text."
    file = root / "_build/executed" / f"{chapter}.ipynb"
    cells = json.loads(file.read_text("utf-8"))["cells"] if file.exists() else []
    outputs = [o for c in cells for o in c.get("outputs", []) if "scrapbook" in o.get("metadata", {})]
    return {
        o["metadata"]["scrapbook"]["name"]: "".join(o["data"].get("application/papermill.record/text/plain", ""))
        for o in outputs
    }


def translator(root: Path, chapter: str, url: str, here: set[str]) -> Callable[[str], str]:
    "A function: MyST's markdown of a chapter -> what Jupyter can show, with links to the notebooks that are `here`."
    facts = tomllib.loads((root / "nbs/paper_facts.toml").read_text("utf-8"))
    numbers = glued(root, chapter)

    def number(m: re.Match) -> str:
        name, _, form = m[1].partition(":")
        try:
            return format(ast.literal_eval(numbers[name]), form) if form else numbers[name].strip("'")
        except (KeyError, ValueError, SyntaxError):
            return "(this number is on the page)"

    def cited(m: re.Match) -> str:
        said = "; ".join(names(root)[k.strip()] for k in m[2].split(","))
        return f"({said})" if m[1] != "t" else re.sub(r", (\S+)$", r" (\1)", said)

    def link(m: re.Match) -> str:
        target, mark = m[1], m[2] or ""
        return f"]({target}.ipynb{mark})" if f"{target}.ipynb" in here else f"]({url}/{target}.html{mark})"

    def included(m: re.Match) -> str:
        return f"```{m[2]}\n{(root / 'nbs' / m[1]).read_text('utf-8').rstrip()}\n```"

    def in_words(text: str) -> str:
        text = re.sub(r"(?m)^```\{literalinclude\} (\S+)\n:language: (\w+)\n```$", included, text)
        text = re.sub(r"(?m)^\([\w-]+\)=\n", "", text)
        text = re.sub(r"(?m)^\$\$ \([\w-]+\)$", "$$", text)
        text = re.sub(r"\{fact\}`([^`]+)`", lambda m: fact_text(facts[m[1]]), text)
        text = re.sub(r"\{glue:text\}`([^`]+)`", number, text)
        text = re.sub(r"\{cite:?([pt]?)\}`([^`]+)`", cited, text)
        text = re.sub(r"(^|[.:!?]\s+)\{numref\}`[^`]+`", r"\1The figure", text, flags=re.M)
        text = re.sub(r"\{numref\}`[^`]+`", "the figure", text)
        text = re.sub(r"\{(?:ref|term|eq|doc)\}`([^`<]+?)\s*(?:<[^`>]+>)?`", r"\1", text)
        text = re.sub(r"\]\(([\w-]+)\.(?:ipynb|md)(#[\w-]+)?\)", link, text)
        return without_directives(text)

    return in_words


def as_table(title: str, lines: list[str]) -> list[str]:
    "The lines of a list-table as a table of Markdown."
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("* - "):
            rows.append([line[4:]])
        elif line.startswith("  - "):
            rows[-1].append(line[4:])
        elif rows:
            rows[-1][-1] += " " + line.strip()
    table = [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows]
    return [f"**{title}**", "", table[0], "|---" * len(rows[0]) + "|", *table[1:], ""]


FENCE = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\}\s*(.*)$")


def without_directives(text: str) -> str:
    "Admonitions become quotations, questions headings; what needs the page (live parts, cost labels) is left out."
    out, stack, listed = [], [], []
    for line in text.splitlines():
        if stack and stack[-1][1] == "list-table":
            if line.strip() == stack[-1][0]:
                out += as_table(stack.pop()[2], listed)
                listed = []
            elif not re.match(r":[\w-]+:", line):
                listed.append(line)
        elif m := FENCE.match(line):
            mark, name, title = m.groups()
            stack.append((mark, name, title))
            if name == "exercise-start":
                out.append(f"### Question: {title}")
            elif name == "solution-start":
                out.append("**Answer**")
            elif name not in LEFT_OUT | {"exercise-end", "solution-end", "list-table"}:
                out += [f"> **{title or name.capitalize()}**", ">"]
        elif stack and line.strip() == stack[-1][0]:
            stack.pop()
        elif stack and (re.match(r":[\w-]+:", line) or {n for _, n, _ in stack} & LEFT_OUT):
            continue
        else:
            inside = stack and not stack[-1][1].startswith(("exercise", "solution"))
            out.append(f"> {line}".rstrip() if inside else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


# ---------------------------------------------------------------- the edition
def behind(source: str) -> str:
    "What follows an answer's end, which is a directive of two lines."
    return re.sub(r"^[^\n]*\n`{3,}[ \t]*\n?", "", source.partition("{solution-end}")[2])


def without_live_sections(cells: list) -> list:
    "What needs the page goes, from its heading to the next one of the same level."
    kept, section, live = [], [], False
    for cell in [*cells, None]:
        new = cell is None or cell.cell_type != "code" and re.search(r"^## ", cell.source, re.M)
        if new:
            kept += [c for c in section if not live or "#| export" in c.source]
            section, live = [], False
        if cell is not None:
            section.append(cell)
            live |= cell.cell_type != "code" and "```{live}" in cell.source
    return kept


def last_needed(cells: list, i: int) -> int:
    "The number of the last exported cell that defines something that cell i names: before it nothing can be checked."
    words = set(re.findall(r"\w+", cells[i].source))
    found = [i]
    for k, cell in enumerate(cells[i + 1 :], i + 1):
        if cell.cell_type == "code" and re.match(r"#\s*\|\s*export", cell.source):
            defined = {s.name for s in ast.parse(cell.source).body if isinstance(s, (ast.FunctionDef, ast.ClassDef))}
            found += [k] * bool(defined & words)
    return found[-1]


def edition(path: Path, root: Path, url: str) -> nbformat.NotebookNode:
    "A chapter with holes."
    page, new = f"{url}/{path.stem}.html", nbformat.v4
    in_words = translator(root, path.stem, url, {p.name for p in chapters(root)})
    cells, answering, checks = [], False, {}
    source_cells = without_live_sections(nbformat.read(path, 4).cells)
    for i, cell in enumerate(source_cells):
        source = cell.source
        if cell.cell_type != "code":
            if answering and "{solution-end}" in source:
                answering, source = False, behind(source)
            elif answering:
                continue
            before, start, _ = source.partition("```{solution-start}")
            if start:
                answering = "{solution-end}" not in source.partition("{solution-start}")[2]
                rest = "" if answering else behind(source)
                source = f"{before}\n\nThe answer is on [the page]({page}).\n\n{rest}"
            if text := in_words(source):
                cells.append(new.new_markdown_cell(text))
            continue
        found, code = split(source)
        exported = "export" in found or "exporti" in found
        if not code or "default_exp" in found or found.get("eval") == "false" or (answering and not exported):
            continue
        code = without_glue(code)
        todo = cell.metadata.get("todo", {})
        cells.append(new.new_code_cell(("#| export\n" if exported else "") + hole(code, todo)))
        for name in questioned(code) if exported else []:
            checks.setdefault(last_needed(source_cells, i), []).append(name)
        cells += [new.new_code_cell(f"check({name})") for name in checks.get(i, [])]
        if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
            cells.append(new.new_markdown_cell(f"*{in_words(caption)}*"))
    about = f"*This is the workbook's edition of [the page]({page}): what it builds is yours to write.*"
    cells[1:1] = [new.new_markdown_cell(about), new.new_code_cell(BEGIN)]
    return numbered(cells)


def numbered(cells: list) -> nbformat.NotebookNode:
    "A notebook of these cells, whose ids are their numbers."
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def without_glue(code: str) -> str:
    return re.sub(r"^from myst_nb import glue$", NO_GLUE, code, flags=re.M)


def settings(root: Path) -> configparser.SectionProxy:
    "The book's settings.ini: version, repository, address."
    parser = configparser.ConfigParser()
    parser.read(root / "settings.ini")
    return parser["DEFAULT"]


def commit(root: Path) -> str:
    "The commit that the book is made from; '' outside of a git repository."
    run = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else ""


def address(root: Path) -> str:
    "Where the book's pages are on the web."
    d = settings(root)
    return d["doc_host"].rstrip("/") + d["doc_baseurl"].rstrip("/") + "/nbs"


def write(root: Path, folder: Path) -> list[str]:
    "The workbook's notebooks, what they read, and all of it in one zip file -> the names of the notebooks."
    shutil.rmtree(folder, ignore_errors=True)
    if not chapters(root):
        return []
    whole, url = folder / ZIP, address(root)
    (whole / "nbs").mkdir(parents=True)
    for path in chapters(root):
        nbformat.write(edition(path, root, url), whole / "nbs" / path.name)
    for name in BESIDE:
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, whole / name)
    (whole / "README.md").write_text(README.format(site=url))
    shutil.make_archive(str(folder / ZIP), "zip", folder, ZIP)
    return [p.name for p in chapters(root)]


# ---------------------------------------------------------------- the page
class Workbook(SphinxDirective):
    "```{workbook}``` lists the notebooks with holes: what is to be written, how many questions there are, and the files."

    def run(self):
        from detr_lit.workbook import QUESTIONS

        def row(tag, *cells):
            return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells) + "</tr>"

        rows = []
        for path in chapters(Path(self.env.srcdir)):
            self.env.note_dependency(str(path))
            nb = nbformat.read(path, 4)
            title = re.search(r"^# (.*)$", nb.cells[0].source, re.M)[1]
            holes = dict.fromkeys(n.partition(".")[0] for c in nb.cells for n in c.metadata.get("todo", {}))
            asked = sum(q.step == path.stem.partition("_")[0] for q in QUESTIONS)
            page = f'<a href="{path.stem}.html">{html.escape(title)}</a>'
            file = f'<a href="../workbook/{ZIP}/nbs/{path.name}" download>notebook with holes</a>'
            rows.append(row("td", f"{page}<br>{file}", ", ".join(f"<code>{h}</code>" for h in holes), asked))
        head = row("th", "chapter", "you write", "questions")
        table = f'<table class="table workbook"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
        link = f'<a class="workbook-zip" href="../workbook/{ZIP}.zip" download>All of them in one file</a>'
        whole = f"<p>{link}, with what they read.</p>"
        scroll = f'<div class="pst-scrollable-table-container">{table}</div>'
        return [nodes.raw("", whole + scroll, format="html")]


def setup(app):
    app.add_directive("workbook", Workbook)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    to = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "_build/workbook"
    for name in write(ROOT, to):
        print(f"   {name}")
