"""Each chapter as a notebook that runs anywhere, and the page's menu that leads to it.

Jupyter does not show MyST, and a chapter reads files that lie beside it. So the site offers each chapter with its answers,
with MyST in words (workbook.py's translator), and with a first cell that fetches the book as it was when the page was made.
build_site.py puts them into `notebooks/`; the workflow `pages` pushes that folder to a branch of the same name, from
which Colab and Binder open it.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import workbook
from nbdev_cells import split

FOLDER = BRANCH = "notebooks"
EXTRAS = {  # what the package does not need by itself, by what a chapter imports or calls
    "parity": r"\b(?:transformers|timm)\b",
    "export": r"\b(?:onnx|export_onnx)\b",
    "launch": r"\baccelerate\b",
    "test": r"\b(?:beartype|onnxruntime|pycocotools)\b",
}
FETCH = """# Colab, Binder, or an empty folder: fetch the book as it was when this page was made ({said}), and install it.
# In a checkout of the book this cell does nothing.
import sys
from pathlib import Path

if not Path("paper_facts.toml").exists():
    !git clone -q {repository} detr_lit_book
    !git -C detr_lit_book checkout -q {ref}
    %cd detr_lit_book/nbs
    %pip install -q -e "..{extras}"
    sys.path.insert(0, str(Path("..").resolve()))"""


def fetch(root: Path, code: str) -> str:
    "The first cell of a chapter with this code."
    settings, now = workbook.settings(root), workbook.commit(root)
    extras = [name for name, used in EXTRAS.items() if re.search(used, code)]
    said = f"version {settings['version']}" + (f", commit {now[:7]}" if now else "")
    return FETCH.format(
        said=said,
        repository=settings["git_url"],
        ref=now or f"v{settings['version']}",
        extras=f"[{','.join(extras)}]" if extras else "",
    )


def edition(path: Path, root: Path) -> nbformat.NotebookNode:
    "A chapter as it can be run: its code as it is, its text in words that Jupyter shows."
    url, new = workbook.address(root), nbformat.v4
    in_words = workbook.translator(root, path.stem, url, {p.name for p in (root / "nbs").glob("*.ipynb")})
    cells, everything = [], ""
    for cell in nbformat.read(path, 4).cells:
        found, code = split(cell.source)
        if cell.cell_type != "code":
            if text := in_words(cell.source):
                cells.append(new.new_markdown_cell(text))
        elif found.get("eval") == "false":
            cells.append(new.new_markdown_cell(f"```python\n{code}\n```"))
        elif code and "default_exp" not in found:
            code = workbook.without_glue(code)
            everything += code
            cells.append(new.new_code_cell("#| export\n" * ("export" in found) + code))
            if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
                cells.append(new.new_markdown_cell(f"*{in_words(caption)}*"))
    about = f"*The notebook of [this page]({url}/{path.stem}.html), which shows what its cells show, without running them.*"
    cells[1:1] = [new.new_markdown_cell(about), new.new_code_cell(fetch(root, everything))]
    return workbook.numbered(cells)


SCRIPT = """# A literate DETR, version {version}: all code of the page "{title}"
# {url}/{name}.html
# It looks for its files where the book keeps them: run it in the folder nbs of {repository}"""
FENCED = re.compile(r"^```(?!\{).*?^```", re.S | re.M)
SAID = re.compile(r"^##+ (.+)$|\{exercise-start\} (.+)$", re.M)


def script(path: Path, root: Path) -> str:
    "A chapter's code as one script: its cells in order under their headings, those of an answer under their question."
    cells, parts, said = nbformat.read(path, 4).cells, [], ""
    for cell in cells:
        found, code = split(cell.source)
        if cell.cell_type != "code":
            for heading, question in SAID.findall(FENCED.sub("", cell.source)):
                said = f"# Question: {question}\n" if question else f"# ---- {heading}\n"
        elif code and "default_exp" not in found:
            if found.get("eval") == "false":  # nor does it run on the page
                code = "\n".join(f"# {line}" for line in code.splitlines())
            parts.append(said + workbook.without_glue(code))
            said = ""
    about = workbook.settings(root)
    head = SCRIPT.format(
        version=about["version"],
        title=cells[0].source.partition("\n")[0].lstrip("# "),
        url=workbook.address(root),
        name=path.stem,
        repository=about["git_url"],
    )
    return "\n\n".join([head, *parts]) + "\n"


def write(root: Path, folder: Path) -> None:
    "The editions of all notebooks that the book's contents name, and their code as scripts."
    import execute

    folder.mkdir(parents=True, exist_ok=True)
    for path in execute.notebooks(root):
        nbformat.write(edition(path, root), folder / path.name)
        (folder / f"{path.stem}.py").write_text(script(path, root), "utf-8")


# ---------------------------------------------------------------- the page's menu
def entry(text: str, icon: str, tooltip: str, **leads: str) -> dict:
    "An entry of a menu, as the theme's template wants it."
    label = f"take-{text.lower().replace(' ', '-')}"
    return {"type": "link", "text": text, "icon": f"fas fa-{icon}", "tooltip": tooltip, "label": label, **leads}


COPY = (  # a browser that refuses opens the file
    "fetch('{file}').then(r => r.text()).then(t => navigator.clipboard.writeText(t))"
    ".then(() => this.lastElementChild.textContent = 'Copied', () => window.open('{file}'))"
)


def group(label: str, icon: str, tooltip: str, buttons: list[dict]) -> dict:
    return {"type": "group", "label": label, "icon": f"fas fa-{icon}", "tooltip": tooltip, "buttons": buttons}


def menus(app, pagename, templatename, context, doctree):
    "Two buttons in the head of a page: where its notebook can be run, and what can be taken."
    if doctree is None or app.builder.name != "html":
        return
    source, name, to = Path(app.srcdir, f"{pagename}.ipynb"), Path(pagename).name, context["pathto"]
    taken = [entry("Print", "print", "Print, or save as PDF", type="javascript", javascript="window.print()")]
    groups = []
    if source.exists():
        repository = context["theme_repository_url"].removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/{name}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?labpath={name}.ipynb"
        run = [
            entry("Colab", "rocket", "Run it on Colab: the first cell installs this version", url=colab),
            entry("Binder", "flask", "Run it on Binder: the first cell installs this version", url=binder),
        ]
        groups.append(group("run-buttons", "rocket", "Run this chapter", run))
        whole = to(f"{FOLDER}/{name}.ipynb", 1)
        taken.insert(0, entry("Notebook", "file-code", "The chapter to run, with its answers", url=whole))
        code = to(f"{FOLDER}/{name}.py", 1)
        taken[1:1] = [
            entry("Python", "file-lines", "The chapter's code as one script", url=code),
            entry("Copy as Python", "copy", "The same, to paste", type="javascript", javascript=COPY.format(file=code)),
        ]
        if '"todo"' in source.read_text("utf-8"):
            holes = to(f"workbook/{workbook.ZIP}/nbs/{name}.ipynb", 1)
            taken.insert(1, entry("With holes", "pen", "The chapter in which you write the code", url=holes))
    groups.append(group("take-buttons", "download", "Take this page with you", taken))
    context["header_buttons"] = [*groups, *context.get("header_buttons", [])]


def setup(app):
    app.connect("html-page-context", menus, priority=900)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
