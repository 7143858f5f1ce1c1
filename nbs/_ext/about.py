"""Two directives: ```{status}``` says what each page cost when it was last run, and with which versions; ```{cite-this}```
shows this edition and the paper as BibTeX."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import platform
import re
from pathlib import Path

import execute
import nbformat
import workbook
import yaml
from docutils import nodes
from nbdev_cells import memory, seconds
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import set_source_info

LIBRARIES = "torch torchvision numpy scipy matplotlib faster-coco-eval transformers onnxruntime accelerate sphinx".split()


def title(path: Path) -> str:
    "What a notebook calls itself."
    return re.search(r"^# (.*)$", nbformat.read(path, 4).cells[0].source, re.M)[1]


class Status(SphinxDirective):
    "A row for each page that runs: time, peak memory, date of its last run. Before them the versions."

    def run(self):
        root = Path(self.env.srcdir)
        now, settings = workbook.commit(root), workbook.settings(root)
        versions = [f"Python {platform.python_version()}", *(f"{x} {metadata.version(x)}" for x in LIBRARIES)]
        rows, whole = [], 0.0
        for path in execute.notebooks(root):
            record = root / "executed" / f"{path.stem}.json"
            self.env.note_dependency(str(record))
            cells = [title(path), "not run for this site", "", ""]
            if record.exists():
                cost = json.loads(record.read_text("utf-8"))
                whole += cost["seconds"]
                cells[1:] = [seconds(cost["seconds"]), memory(cost["peak_mb"]), cost.get("date", "")]
            rows.append((path.stem, cells))
        at = [nodes.Text(f"This is version {settings['version']}")]
        if now:
            url = f"{settings['git_url']}/commit/{now}"
            at += [nodes.Text(", commit "), nodes.reference("", "", nodes.literal("", now[:7]), refuri=url)]
        words = f", made with {', '.join(versions)}. Running all of its pages, one after the other, takes {seconds(whole)}."
        return [nodes.paragraph("", "", *at, nodes.Text(words)), table(rows)]


def table(rows: list[tuple[str, list[str]]]) -> nodes.table:
    "Four columns; the first leads to the page."
    head = nodes.row("", *(nodes.entry("", nodes.paragraph("", x)) for x in ("page", "time", "peak memory", "last run")))
    body = nodes.tbody()
    for stem, (name, *cells) in rows:
        link = nodes.reference("", name.replace("`", ""), refuri=f"{stem}.html", internal=True)
        body += nodes.row("", *(nodes.entry("", nodes.paragraph("", "", x)) for x in (link, *map(nodes.Text, cells))))
    columns = [nodes.colspec(colwidth=w) for w in (5, 2, 2, 2)]
    return nodes.table("", nodes.tgroup("", *columns, nodes.thead("", head), body, cols=4), classes=["status"])


def bibtex(root: Path) -> str:
    "CITATION.cff, this version and its commit as an entry of BibTeX; behind it the paper's own."
    about, settings = yaml.safe_load((root / "CITATION.cff").read_text("utf-8")), workbook.settings(root)
    now = workbook.commit(root)
    fields = {
        "author": " and ".join(f"{{{a['name']}}}" for a in about["authors"]),
        "title": f"{{{about['title']}}}",
        "version": settings["version"] + (f" (commit {now[:7]})" if now else ""),
        "url": settings["doc_host"] + settings["doc_baseurl"],
        "note": f"Code: {about['repository-code']}",
    }
    lines = [f"  {k:<8}= {{{v}}}," for k, v in fields.items()]
    paper = re.search(r"^@\w+\{carion2020,.*?^\}", (root / "nbs/references.bib").read_text("utf-8"), re.S | re.M)[0]
    return "\n".join(["@software{detr_lit,", *lines, "}", "", paper])


class CiteThis(SphinxDirective):
    def run(self):
        entry = bibtex(Path(self.env.srcdir))
        block = nodes.literal_block(entry, entry, language="bibtex")
        set_source_info(self, block)
        return [block]


def setup(app):
    app.add_directive("status", Status)
    app.add_directive("cite-this", CiteThis)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
