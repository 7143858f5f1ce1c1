"""Three pages that are made of the others: the concordance with the paper, the ledger of differences, all questions.

- ```` ```{concordance} ````: paper item -> place in a chapter -> symbol of the package -> test, from nbs/concordance.toml.
  `faults` compares this file with the chapters, the modules and the tests; each fault is a warning.
- ```` ```{ledger} ````: the boxes "Paper, code, ours" of all chapters, as they stand there. A chapter of the spine without
  one is a warning, unless a line `06_matcher: why` in the directive excuses it.
- ```` ```{questions} ````: the questions of all chapters, each with the threads of readers that it or its answer names.
"""

from __future__ import annotations

import ast
import html
import re
from functools import cache
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import nbdev_cells
import nbformat
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

logger = logging.getLogger(__name__)

KINDS = {
    "Section": ("Sections", "sections"),
    "Eq.": ("Equations", "equations"),
    "Table": ("Tables", "tables"),
    "Fig.": ("Figures", "figures"),
    "Listing": ("Listings", "listings"),
    "Appendix": ("Appendix", "appendices"),
}
NUMBER = r"(?:A\.)?\d+(?:\.\d+)?"
CITED = re.compile(
    r"(?:\{cite:\w+\}`(?P<key>[^`]*)`[\s,:;(]*)?"
    r"\b(?P<kind>sections?|eqs?\.|equations?|tables?|figs?\.|figures?|appendix|appendices|listings?)\s+"
    rf"(?P<numbers>{NUMBER}(?:(?:,? and |, | to |,? or )(?:appendix )?{NUMBER})*)",
    re.I,
)
BOX = re.compile(r"^\s*[`:]{3,}\{admonition\}.*\n(?:\s*:[\w-]+:.*\n)*?\s*:class:.*\bdeviation\b", re.M)
SPINE = re.compile(r"(0\d|10)[a-z]?_")  # the chapters 00 to 10


# ---------------------------------------------------------------- what a page, a module, a test file holds
def cells(file: Path) -> list[tuple[bool, str]]:
    "(is it code?, its source) of each cell of a notebook; a page in Markdown is one cell."
    if file.suffix == ".md":
        return [(False, file.read_text("utf-8"))]
    return [(c.cell_type == "code", c.source) for c in nbformat.read(file, as_version=4).cells]


def page(nbs: Path, name: str) -> Path | None:
    return next((f for f in (nbs / f"{name}.ipynb", nbs / f"{name}.md") if f.exists()), None)


def headings(file: Path) -> list[str]:
    "The headings of a page, its title first; lines in a fence are none."
    text = "\n".join(source for code, source in cells(file) if not code)
    return re.findall(r"^#+\s+(.*?)\s*$", re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.S | re.M), re.M)


def plain(heading: str) -> str:
    "Without what mark-up and typographer change: two spellings of a heading are equal if these are."
    return " ".join(re.findall(r"\w+", heading))


def cited(file: Path) -> set[str]:
    "{'Section 3.1', 'Eq. 2', ...}: what a page says about the paper. A number behind another work's name is not the paper's."
    names = {"s": "Section", "e": "Eq.", "t": "Table", "f": "Fig.", "l": "Listing", "a": "Appendix"}
    found = set()
    for m in CITED.finditer("\n".join(source for _, source in cells(file))):
        if m["key"] and "carion2020" not in m["key"].split(","):
            continue
        for number in re.findall(NUMBER, m["numbers"]):
            kind = "Appendix" if number[0] == "A" else names[m["kind"][0].lower()]
            found |= {f"{kind} {number}", f"{kind} {number.split('.')[0]}" if kind == "Section" else f"{kind} {number}"}
    return found


def exported(file: Path) -> set[str]:
    "The names in a module's `__all__`."
    for s in ast.parse(file.read_text("utf-8")).body:
        if isinstance(s, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in s.targets):
            return set(ast.literal_eval(s.value))
    return set()


# ---------------------------------------------------------------- the concordance, checked
def numbered(paper: dict) -> list[str]:
    "The paper's own list: a kind has a count, or its numbers."
    return [
        f"{kind} {n}"
        for kind, (_, key) in KINDS.items()
        for n in (range(1, paper[key] + 1) if isinstance(paper[key], int) else paper[key])
    ]


def place(words: str) -> tuple[str, str]:
    "'06_matcher # The module' -> ('06_matcher', 'The module')."
    name, _, heading = words.partition("#")
    return name.strip(), heading.strip()


def faults(data: dict, nbs: Path, package: Path, tests: Path) -> list[str]:
    "Everything in which a concordance and the book disagree, a sentence each; none is the aim."
    found: list[str] = []
    holds = {
        "headings": cache(lambda f: {plain(h) for h in headings(f)}),
        "cited": cache(cited),
        "exported": cache(exported),
        "defined": cache(lambda f: set(nbdev_cells.definition_lines(f.read_text("utf-8")))),
    }

    def check_place(item: str, words: str) -> Path | None:
        name, heading = place(words)
        if not (file := page(nbs, name)):
            found.append(f"{item}: there is no chapter {name}")
        elif plain(heading) not in holds["headings"](file):
            found.append(f"{item}: {name} has no heading {heading!r}")
        return file

    items, wanted = data.get("item", {}), numbered(data["paper"])
    found += [f"{item} is neither built nor excused" for item in wanted if item not in items]
    found += [f"{item} is not in the paper's list" for item in items if item not in wanted]
    for item, about in items.items():
        built, reason = about.get("built", []), about.get("not_built")
        if not about.get("what", "").strip():
            found.append(f"{item} has no description")
        if not built and reason is None:
            found.append(f"{item} is neither built nor excused")
        if reason is not None and not reason.strip():
            found.append(f"{item} is excused without a reason")
        for words in about.get("see", []):
            check_place(item, words)
        for row in built:
            file = check_place(item, row["at"])
            if file and item not in holds["cited"](file):
                found.append(f"{item}: {file.stem} never mentions it")
            for key in ("symbols", "tests"):
                if not row.get(key):
                    found.append(f"{item}: {row['at']} names no {key}")
            for symbol in row.get("symbols", []):
                module, _, name = symbol.partition(".")
                source = package / f"{module}.py"
                if not source.exists() or name not in holds["defined"](source):
                    found.append(f"{item}: {package.name}.{symbol} does not exist")
                elif name.split(".")[0] not in holds["exported"](source):
                    found.append(f"{item}: {package.name}.{symbol} is not exported")
            for test in row.get("tests", []):
                name, _, function = test.partition("::")
                source = tests / name
                if not source.exists() or function.replace("::", ".") not in holds["defined"](source):
                    found.append(f"{item}: there is no test {test}")
    return found


def state(about: dict) -> str:
    return ("in part" if "not_built" in about else "built") if about.get("built") else "excused"


# ---------------------------------------------------------------- the concordance, shown
class Place(nodes.Inline, nodes.TextElement):
    "A link to a heading of another page; its anchor is known when every page has been read."


def link_place(env, words: str) -> nodes.Node:
    name, heading = place(words)
    return Place("", "", doc=f"{Path(env.docname).parent.as_posix()}/{name}", heading=heading)


def heading_link(app, docname: str, words: str) -> tuple[str, str]:
    "'06_matcher # The module' -> (its address seen from a page, the heading's text); ValueError if there is none."
    name, heading = place(words)
    doc, anchors = f"{Path(docname).parent.as_posix()}/{name}", {}
    for ref in app.env.tocs[doc].findall(nodes.reference) if doc in app.env.tocs else ():
        anchors.setdefault(plain(ref.astext()), (ref["anchorname"], ref.astext()))
    if plain(heading) not in anchors:
        raise ValueError(f"no heading {heading!r} in {doc}")
    anchor, text = anchors[plain(heading)]
    return app.builder.get_relative_uri(docname, doc) + anchor, text


def short_title(app, doc: str) -> str:
    "'Step 6', of 'Step 6: Which prediction answers for which object?'."
    return app.env.titles[doc].astext().split(":")[0]


def resolve_places(app, doctree, docname):
    for node in list(doctree.findall(Place)):
        doc, heading = node["doc"], node["heading"]
        try:
            uri, text = heading_link(app, docname, f"{Path(doc).name} # {heading}")
        except ValueError as e:
            logger.warning("%s", e, location=docname, type="book", subtype="concordance")
            node.replace_self(nodes.inline("", heading))
            continue
        title, short = app.env.titles[doc].astext(), short_title(app, doc)
        words = short if plain(text) == plain(title) else f"{short}: {text}"
        node.replace_self(nodes.reference("", words, internal=True, refuri=uri, reftitle=title))


class Concordance(SphinxDirective):
    "```{concordance}``` shows nbs/concordance.toml as tables, and warns of every fault in it."

    def run(self):
        file = Path(self.env.srcdir, self.config.book_concordance)
        self.env.note_dependency(str(file))
        data = nbdev_cells.tomllib.loads(file.read_text("utf-8"))
        package = nbdev_cells.package_folder(self.config.book_package)
        nbs = Path(self.env.srcdir, self.env.docname).parent
        for fault in faults(data, nbs, package, package.parent / "tests"):
            logger.warning("concordance: %s", fault, location=self.get_location(), type="book", subtype="concordance")
        wanted, items = numbered(data["paper"]), data["item"]
        states = [state(about) for about in items.values()]
        counts = {s: states.count(s) for s in ("built", "in part", "excused")}
        out = [
            nodes.paragraph(
                "",
                f"The paper numbers {len(wanted)} things. Of these {counts['built']} are built in this book, "
                f"{counts['in part']} in part, and {counts['excused']} are not built, each with its reason.",
                classes=["concordance-head"],
            )
        ]
        for kind, (caption, key) in KINDS.items():
            here = {item: items[item] for item in wanted if item in items and item.rsplit(" ", 1)[0] == kind}
            if here:
                section = nodes.section("", nodes.title("", caption), ids=[f"paper-{key}"])
                section += self.table(here)
                out.append(section)
        return out

    def inline(self, text: str) -> list[nodes.Node]:
        return self.state.inline_text(text, self.lineno)[0]

    def table(self, items: dict) -> nodes.table:
        heads = ("In the paper", "In the book", "In the package", "Guarded by")
        group = nodes.tgroup("", *(nodes.colspec(colwidth=w) for w in (25, 27, 23, 25)), cols=4)
        group += nodes.thead("", nodes.row("", *(nodes.entry("", nodes.paragraph("", h)) for h in heads)))
        body = nodes.tbody()
        for item, about in items.items():
            rows = [self.built(row) for row in about.get("built", [])]
            if "not_built" in about:
                rows.append([self.excuse(about)])
            first = nodes.entry("", morerows=len(rows) - 1, classes=["paper"])
            first += nodes.paragraph("", "", nodes.strong("", item.replace("Appendix ", "").replace("Section ", "")))
            first += nodes.paragraph("", "", *self.inline(about.get("what", "")))
            for n, entries in enumerate(rows):
                row = nodes.row("", *([first] if n == 0 else []), *entries)
                if n == 0:
                    row["classes"].append("item")
                body += row
        group += body
        return nodes.table("", group, classes=["concordance"])

    def built(self, row: dict) -> list[nodes.entry]:
        book = nodes.paragraph("", "", link_place(self.env, row["at"]))
        symbols = [nodes.paragraph("", "", *self.symbol(s)) for s in row.get("symbols", [])]
        tests = [nodes.paragraph("", "", self.test(t)) for t in row.get("tests", [])]
        cells = {"book": [book], "package": symbols, "tests": tests}
        return [nodes.entry("", *children, classes=[name]) for name, children in cells.items()]

    def excuse(self, about: dict) -> nodes.entry:
        lead = "The rest is not built: " if about.get("built") else "Not built: "
        text = nodes.paragraph("", "", nodes.emphasis("", lead), *self.inline(about["not_built"].strip()))
        for n, words in enumerate(about.get("see", [])):
            text += nodes.Text(" See " if n == 0 else ", ")
            text += link_place(self.env, words)
        return nodes.entry("", text, morecols=2, classes=["excused"])

    def symbol(self, symbol: str):
        module, _, name = symbol.partition(".")
        full = f"{self.config.book_package}.{module}"
        xref = addnodes.pending_xref(
            "", nodes.literal("", name), refdomain="py", reftype="obj", reftarget=f"{full}.{name}", refwarn=True
        )
        xref["refdoc"] = self.env.docname
        yield xref
        source = nbdev_cells.module_files(self.config.book_package).get(full)
        line = nbdev_cells.definition_lines(source.read_text("utf-8")).get(name) if source else None
        if line and self.env.app.builder.format == "html":
            uri = self.env.app.builder.get_relative_uri(self.env.docname, nbdev_cells.source_page(full))
            link = nodes.reference("", "source", internal=True, refuri=f"{uri}#L{line}", classes=["to-source"])
            link["reftitle"] = f"line {line} of {source.name}"
            yield nodes.Text(" ")
            yield link

    def test(self, test: str) -> nodes.raw:
        "The name of a test, which may break at its underscores."
        return nodes.raw("", f"<code>{html.escape(test).replace('_', '_<wbr>').replace('::', '::<wbr>')}</code>", format="html")


# ---------------------------------------------------------------- the ledger
def boxes(doctree) -> list[nodes.admonition]:
    return [box for box in doctree.findall(nodes.admonition) if "deviation" in box["classes"]]


class BoxIds(SphinxTransform):
    "An anchor for each box: #deviation, #deviation-2, ..."

    default_priority = 402

    def apply(self, **kwargs):
        for n, box in enumerate(boxes(self.document), 1):
            box["ids"].append("deviation" if n == 1 else f"deviation-{n}")


class Boxes(nodes.General, nodes.Element):
    "Stands in the ledger for the boxes of a chapter until all pages have been read."


class Ledger(SphinxDirective):
    "```{ledger}``` gathers the boxes of all chapters, in the book's order; its lines `NAME: why` excuse chapters of the spine."

    has_content = True

    def run(self):
        excused = {name.strip(): why.strip() for name, _, why in (line.partition(":") for line in self.content if line.strip())}
        order = list(getattr(self.config, "external_site_map", None) or sorted(self.env.found_docs))
        found, out = set(), []
        for doc in order:
            file = Path(self.env.doc2path(doc))
            if doc not in self.env.found_docs or doc == self.env.docname or not file.exists():
                continue
            name = Path(doc).name
            has = any(BOX.search(source) for code, source in cells(file) if not code)
            if SPINE.match(name) and not has and not excused.get(name):
                self.warn(f"{name} has no box 'Paper, code, ours'" + (", and no reason" if name in excused else ""))
            if has:
                found.add(name)
                self.env.note_dependency(str(file))
                title, _ = self.state.inline_text(headings(file)[0], self.lineno)
                section = nodes.section("", nodes.title("", "", *title), ids=[nodes.make_id(f"ledger-{name}")])
                out.append(section)
                section += Boxes(doc=doc)
        for name in excused.keys() & found:
            self.warn(f"{name} is excused and has a box")
        return out

    def warn(self, words: str) -> None:
        logger.warning("ledger: %s", words, location=self.get_location(), type="book", subtype="ledger")


def fill_ledger(app, doctree, docname):
    "Put the chapters' boxes in, resolved as they are there, every link mended to start from here."
    for stand_in in list(doctree.findall(Boxes)):
        doc, found = stand_in["doc"], []
        chapter = app.env.get_doctree(doc)
        app.env.apply_post_transforms(chapter, doc)
        home, here = (app.builder.get_target_uri(d) for d in (doc, docname))
        for box in boxes(chapter):
            anchor, copy = box["ids"][-1], box.deepcopy()
            for node in copy.findall(nodes.Element):
                node["ids"], node["names"] = [], []
            for link in copy.findall(nodes.reference):
                uri = f"#{link['refid']}" if "refid" in link else link.get("refuri", "")
                if not urlsplit(uri).scheme:
                    target, _, fragment = urljoin(home, uri).partition("#")
                    link["refuri"] = relative_uri(here, target) + (f"#{fragment}" if fragment else "")
                    link.attributes.pop("refid", None)
            back = nodes.reference("", "In its place in the chapter", internal=True)
            back["refuri"] = f"{relative_uri(here, home)}#{anchor}"
            copy.children[0].children = []
            copy.children[0] += back
            found.append(copy)
        if not found:
            logger.warning("ledger: the box of %s was not understood", doc, location=docname, type="book", subtype="ledger")
        stand_in.replace_self(found)


# ---------------------------------------------------------------- all questions
ASKED = re.compile(r"\{exercise-start\} *([^\n]*)\n:label: (\S+)\n(.*?)\{solution-end\}", re.S)


def question(text: str) -> str:
    "What an exercise asks, up to its end or its first code, in one line; numbers that only its page knows are dots."
    words = re.split(r"```\{(?:exercise-end|code-cell)\}|^```", re.sub(r"\A(?::[\w-]+:.*\n)*```\n", "", text), flags=re.M)[0]
    return re.sub(r"\s+", " ", re.sub(r"\{glue:text\}`[^`]*`", "…", words)).strip()


class Questions(SphinxDirective):
    "```{questions}``` lists the questions of all chapters, each with its words and the threads that it or its answer names."

    def run(self):
        out = []
        for doc in getattr(self.config, "external_site_map", None) or sorted(self.env.found_docs):
            file = Path(self.env.doc2path(doc))
            if doc not in self.env.found_docs or file.suffix != ".ipynb": continue
            self.env.note_dependency(str(file))
            found = ASKED.findall("\n".join(source for _, source in cells(file)))
            if not found: continue
            title, _ = self.state.inline_text(headings(file)[0], self.lineno)
            section = nodes.section("", nodes.title("", "", *title), ids=[nodes.make_id(f"questions-{Path(doc).name}")])
            items = nodes.bullet_list()
            for asked, label, text in found:
                asks = question(text)
                threads = [t for t in nbdev_cells.threads_of(text) if t not in nbdev_cells.threads_of(asks)]
                named = f" ({', '.join(threads)})" if threads else ""
                words, _ = self.state.inline_text(f"{{ref}}`{label}`: {asked}{named}", self.lineno)
                body, _ = self.state.inline_text(asks, self.lineno)
                items += nodes.list_item("", nodes.paragraph("", "", *words), nodes.paragraph("", "", *body))
            section += items
            out.append(section)
        return out


def setup(app):
    app.add_config_value("book_concordance", "nbs/concordance.toml", "env", str)
    app.add_node(Place)
    app.add_node(Boxes)
    app.add_transform(BoxIds)
    app.add_directive("concordance", Concordance)
    app.add_directive("ledger", Ledger)
    app.add_directive("questions", Questions)
    app.connect("doctree-resolved", resolve_places)
    app.connect("doctree-resolved", fill_ledger)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
