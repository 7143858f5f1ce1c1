"""What our book adds to Jupyter Book, in one Sphinx extension.

- `read`: a notebook reader that knows nbdev's `#|` directives. They become MyST-NB's own cell tags before anything is
  rendered, so that no page ever shows one.
- badges: an exported cell says "in `detr_lit.matcher`" and links to the first line that it defines, on a source page of
  this site; each mark in a source page links back to its cell.
- `{cost}`: measured time and memory of the run that made the page.  `{fact}`: a number of the paper, with its source.
- `<!-- api -->` in a page: the API of every module, each with a link to the chapter that builds it.
- `{concordance}`, `{ledger}` and `{questions}`, pages made of all others: see concordance.py.
- A figure without alternative text is a warning, and the build takes warnings for errors.
"""

from __future__ import annotations

import ast
import html
import importlib.util
import inspect
import json
import re
import struct
from base64 import b64decode
from functools import cache
from pathlib import Path

import nbformat
import pybtex.plugin
import sphinx_exercise
from docutils import nodes
from docutils.parsers.rst import directives
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.inspect import stringify_signature
from sphinx.util.osutil import relative_uri

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

logger = logging.getLogger(__name__)

DIRECTIVE = re.compile(r"^#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<args>.*?)\s*$")
EXPORT = {"export", "exporti", "exports"}
TAGS = {
    "default_exp": "remove-cell",
    "hide": "remove-cell",
    "hide_input": "remove-input",
    "hide_output": "remove-output",
    "code-fold": "hide-input",
}
MARK = re.compile(
    r"^# %% (?P<file>\S+\.ipynb) #(?P<cell>[0-9a-zA-Z_-]+)\s*$"
)  # what nbdev writes above each exported cell
ANNOTATED = re.compile(r"(?:~?[\w.]+\.)?Annotated\[((?:[^\[\]]|\[[^\[\]]*\])*), <[^<>]* object at 0x[0-9a-f]+>\]")
DOTS_PER_CSS_PIXEL = 1.5  # nbs/matplotlibrc draws 144 dots to the inch, a browser 96


# ---------------------------------------------------------------- notebooks
def split(source: str) -> tuple[dict[str, str], str]:
    "A cell's source -> ({directive: arguments}, the code below the directives)."
    lines = source.splitlines()
    found: dict[str, str] = {}
    while lines and (m := DIRECTIVE.match(lines[0])):
        found[m["name"]] = m["args"]
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def png_width(data: str) -> int:
    "The width in pixels that a base64 PNG's header states."
    return struct.unpack(">I", b64decode(data[:64])[16:20])[0]


def read(text: str, package: str = "") -> nbformat.NotebookNode:
    "Read an nbdev notebook as MyST-NB should see it."
    nb = nbformat.reads(text, as_version=4)
    nb.metadata.setdefault(
        "language_info", {"name": "python", "pygments_lexer": "ipython3"}
    )  # nbdev_clean takes it out
    module = None
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        found, cell.source = split(cell.source)
        tags = cell.metadata.setdefault("tags", [])
        tags += [TAGS[name] for name in found if name in TAGS and found[name] != "false"]
        if not cell.source:
            tags.append("remove-cell")
        if found.get("eval") == "false":
            tags.append("skip-execution")
        module = found.get("default_exp", module)
        if EXPORT & found.keys():
            target = next(args for name, args in found.items() if name in EXPORT) or module
            cell.metadata["nbdev"] = {"module": f"{package}.{target}", "cell": cell.get("id", "")}
            tags.append("nbdev-export")
        for output in cell.outputs:
            output.get("data", {}).pop("application/json", None)  # no page shows it: model_map.py reads it from the file
        for output in cell.outputs:  # a figure of 7 inches is as wide as the text, whatever its dots
            if "image/png" in output.get("data", {}):
                size = output.setdefault("metadata", {}).setdefault("image/png", {})
                size.clear()
                size["width"] = f"{round(png_width(output['data']['image/png']) / DOTS_PER_CSS_PIXEL)}px"
    return nb


# ---------------------------------------------------------------- modules
def package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent if spec and spec.origin else None


def module_files(package: str) -> dict[str, Path]:
    "{'detr_lit.matcher': its file} for every module that a chapter builds."
    folder = package_folder(package)
    return {f"{package}.{f.stem}": f for f in sorted(folder.glob("*.py")) if f.stem[0] != "_"} if folder else {}


@cache
def cell_lines(source: str) -> dict[str, int]:
    "{cell id: number of the first line that the cell defines} in a module that nbdev wrote."
    marks = [(n, m["cell"]) for n, line in enumerate(source.splitlines(), 1) if (m := MARK.match(line))]
    body = ast.parse(source).body
    first = {}
    for (start, cell), (end, _) in zip(marks, marks[1:] + [(len(source) + 1, "")]):
        inside = [s for s in body if start < s.lineno < end]
        define = [
            s
            for s in inside
            if isinstance(s, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign, ast.AnnAssign))
        ]
        here = (define or inside)[:1]
        first[cell] = (
            min([here[0].lineno, *(d.lineno for d in getattr(here[0], "decorator_list", []))]) if here else start + 1
        )
    return first


@cache
def definition_lines(source: str) -> dict[str, int]:
    "{'HungarianMatcher.forward': its line} for every class, function and method."
    found: dict[str, int] = {}

    def walk(body, prefix=""):
        for s in body:
            if isinstance(s, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found[prefix + s.name] = s.lineno
                if isinstance(s, ast.ClassDef):
                    walk(s.body, f"{prefix}{s.name}.")
            elif isinstance(s, (ast.Assign, ast.AnnAssign)):
                for t in getattr(s, "targets", None) or [s.target]:
                    if isinstance(t, ast.Name):
                        found.setdefault(prefix + t.id, s.lineno)

    walk(ast.parse(source).body)
    return found


@cache
def chapter_of(source: str) -> str | None:
    "The page that builds a module: '../nbs/06_matcher.ipynb' in nbdev's mark -> 'nbs/06_matcher'."
    m = next((m for line in source.splitlines() if (m := MARK.match(line))), None)
    return re.sub(r"^(\.\./)+|\.ipynb$", "", m["file"]) if m else None


def source_page(module: str) -> str:
    return "source/" + module.split(".", 1)[-1].replace(".", "/")


class ExportBadge(SphinxTransform):
    "Put 'in `package.module`' on top of each exported cell, and a link to the line."

    default_priority = 400

    def apply(self, **kwargs):
        files = module_files(self.config.book_package)
        for cell in self.document.findall(nodes.container):
            info = cell.get("cell_metadata", {}).get("nbdev")
            if not info or cell.get("nb_element") != "cell_code" or not cell.children:
                continue
            module, label = info["module"], nodes.literal(info["module"], info["module"])
            cell["ids"].append(f"cell-{info['cell']}")
            line = cell_lines(files[module].read_text("utf-8")).get(info["cell"]) if module in files else None
            if line is None:
                logger.warning(
                    "cell %s is exported to %s, which does not hold it: run nbdev_export",
                    info["cell"],
                    module,
                    location=cell,
                    type="book",
                    subtype="export",
                )
            elif self.app.builder.format == "html":
                uri = self.app.builder.get_relative_uri(self.env.docname, source_page(module))
                label = nodes.reference(
                    "",
                    "",
                    label,
                    internal=True,
                    refuri=f"{uri}#L{line}",
                    reftitle=f"line {line} of {files[module].name}",
                )
            top = cell[0] if cell.get("hide_mode") else cell  # what is folded folds by its first child
            top.insert(0, nodes.paragraph("", "", nodes.Text("in "), label, classes=["nbdev-badge"]))


class AltText(SphinxTransform):
    "A picture that cannot be seen must at least be told: warn for each one without alternative text."

    default_priority = 401

    def apply(self, **kwargs):
        for image in self.document.findall(nodes.image):
            if not image.get("alt", "").strip():
                logger.warning(
                    "image without alternative text (cell metadata mystnb.image.alt)",
                    location=image.parent,
                    type="book",
                    subtype="alt",
                )


REPOSITORIES = {
    "detr": "facebookresearch/detr",
    "Deformable-DETR": "fundamentalvision/Deformable-DETR",
    "DINO": "IDEA-Research/DINO",
    "RT-DETR": "lyuwenyu/RT-DETR",
    "rf-detr": "roboflow/rf-detr",
    "transformers": "huggingface/transformers",
    "mmdet": "open-mmlab/mmdetection",
    "mmdetection": "open-mmlab/mmdetection",
    "detectron2": "facebookresearch/detectron2",
    "act": "tonyzhaozh/act",
    "tonyzhaozh/act": "tonyzhaozh/act",
    "winml-cli": "microsoft/winml-cli",
}
THREAD = re.compile(rf"(?<![\w/-])(?P<name>{'|'.join(sorted(REPOSITORIES, key=len, reverse=True))})?#(?P<number>\d+)\b")


def threads_of(text: str) -> list[str]:
    "The threads that a text names, each once and by its shortest name; a number alone belongs to the name before it."
    short = {repository: name for name, repository in sorted(REPOSITORIES.items(), key=lambda x: -len(x[0]))}
    name, found = None, {}
    for m in THREAD.finditer(text):
        name = m["name"] or name
        if name: found[f"{short[REPOSITORIES[name]]}#{m['number']}"] = None
    return list(found)


def linked(text: nodes.Text, pattern: re.Pattern, link) -> None:
    "Put `link(match)`, a node or None, in the place of what a pattern finds in a text."
    parts, end = [], 0
    for m in pattern.finditer(text):
        if (node := link(m)) is None: continue
        parts += [nodes.Text(text[end:m.start()]), node]
        end = m.end()
    if parts: text.parent.replace(text, [*parts, nodes.Text(text[end:])])


class Threads(SphinxTransform):
    "detr#256 in running text, and #257 after it, lead to the thread."

    default_priority = 402

    def apply(self, **kwargs):
        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, (nodes.FixedTextElement, nodes.literal, nodes.reference, nodes.comment)): continue
            named: list[str] = []

            def link(m, named=named):
                if m["name"]: named.append(m["name"])
                if not named: return None
                to = f"https://github.com/{REPOSITORIES[named[-1]]}/issues/{m['number']}"
                return nodes.reference(m[0], m[0], refuri=to, thread=f"{named[-1]}#{m['number']}")

            linked(text, THREAD, link)


class Findable(SphinxTransform):
    "The titles of questions and a page's first mention of a thread are entries of the index: so the search leads there."

    default_priority = 404

    def apply(self, **kwargs):
        seen: set[str] = set()
        for title in list(self.document.findall(sphinx_exercise.nodes.exercise_subtitle)):
            box = title.parent.parent
            before(box, entry(title.astext(), box["label"]))
        for link in list(self.document.findall(nodes.reference)):
            named = THREAD.fullmatch(link.astext())
            thread = link.get("thread") or (link.astext() if named and named["name"] else None)
            if thread and thread not in seen and not isinstance(link.parent, (nodes.Titular, nodes.caption)):
                seen.add(thread)
                place = nodes.target("", "", ids=[nodes.make_id(thread)])
                before(link, entry(thread, place["ids"][0]), place)


def entry(text: str, place: str) -> addnodes.index:
    return addnodes.index(entries=[("single", text, place, "main", None)])


def before(node: nodes.Node, *new: nodes.Node) -> None:
    node.parent.insert(node.parent.index(node), [*new])


@cache
def glossary_terms(glossary: Path, changed: float) -> tuple[dict[str, str], re.Pattern]:
    "The terms of a glossary by their small letters, and what finds them, plural or not; `changed` is when it was written."
    terms = {t.lower(): t for t in re.findall(r"^(?![#`])(\S.*)\n  \S", glossary.read_text("utf-8"), re.M)}
    words = "|".join(map(re.escape, sorted(terms, key=len, reverse=True)))
    return terms, re.compile(rf"(?<![\w-])({words})(?:s|es)?(?![\w-])", re.I)


class FirstUses(SphinxTransform):
    "In each chapter, the first use of every term of nbs/glossary.md leads there; one across the end of a line is no use."

    default_priority = 403

    def apply(self, **kwargs):
        glossary = Path(self.env.srcdir, "nbs/glossary.md")
        if not glossary.exists() or Path(self.env.doc2path(self.env.docname)).suffix != ".ipynb": return
        self.env.note_dependency(str(glossary))
        terms, pattern = glossary_terms(glossary, glossary.stat().st_mtime)
        used = set()

        def link(m):
            term = terms[m[1].lower()]
            if term in used: return None
            used.add(term)
            return addnodes.pending_xref("", nodes.inline("", m[0], classes=["first-use"]), refdomain="std", reftype="term",
                                         reftarget=term, refexplicit=True, refwarn=True, refdoc=self.env.docname)

        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, nodes.paragraph) and not text.parent["classes"]: linked(text, pattern, link)


def source_pages(app):
    "One page for each module, with line anchors (#L12), and a link from every cell's mark to the cell. The site has them."
    if app.builder.name == "epub":
        return
    for module, file in module_files(app.config.book_package).items():
        text, page = file.read_text("utf-8"), source_page(module)
        code = highlight(
            text, PythonLexer(), HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, linespans="S")
        )
        code = re.sub(r'(id|name)="L-(\d+)"', r'\1="L\2"', code).replace('href="#L-', 'href="#L')
        code = re.sub(r' name="L\d+"', "", code)
        chapter, back = chapter_of(text), ""
        if chapter in app.env.all_docs:
            uri = relative_uri(app.builder.get_target_uri(page), app.builder.get_target_uri(chapter))
            title = html.escape(app.env.titles[chapter].astext())
            back = (
                f'<p class="source-chapter">Written in <a href="{uri}">{title}</a>; nbdev copies it here. '
                "Each mark below leads to its cell.</p>"
            )
            mark = rf'<a class="cell-mark" href="{uri}#cell-\2">\1</a>'
            code = re.sub(r"(# %% \S+\.ipynb #([0-9a-zA-Z_-]+))", mark, code)
        yield (
            page,
            {
                "title": f"{file.parent.name}/{file.name}",
                "parents": [],
                "body": f"<h1>Source of <code>{module}</code></h1>{back}{code}",
                "meta": {"html_theme.sidebar_secondary.remove": ""},
            },
            "page.html",
        )


def source_links(app, doctree):
    "In the API: a [source] link at each class, function and method."
    if app.builder.format != "html":
        return
    files, lines = module_files(app.config.book_package), {}
    for sig in doctree.findall(addnodes.desc_signature):
        module, name = sig.get("module"), sig.get("fullname")
        if module not in files:
            continue
        lines[module] = lines.get(module) or definition_lines(files[module].read_text("utf-8"))
        if name in lines[module]:
            uri = app.builder.get_relative_uri(app.env.docname, source_page(module))
            sig += nodes.reference(
                "",
                "",
                nodes.inline("", "source", classes=["viewcode-link"]),
                internal=True,
                refuri=f"{uri}#L{lines[module][name]}",
            )


# ---------------------------------------------------------------- the API page
def modules_in_order(app) -> list[tuple[str, str | None]]:
    "[(module, the chapter that builds it)] in the book's order."
    found = {m: chapter_of(f.read_text("utf-8")) for m, f in module_files(app.config.book_package).items()}
    return sorted(found.items(), key=lambda item: item[1] or item[0])


def write_api(app, docname, source):
    "Replace `<!-- api -->` by a section for each module."
    if "<!-- api -->" not in source[0]:
        return
    parts = []
    for module, chapter in modules_in_order(app):
        where = f"Built in [](/{chapter}.ipynb).\n\n" if chapter in app.env.found_docs else ""
        parts.append(
            f"## `{module}`\n\n{where}```{{eval-rst}}\n.. automodule:: {module}\n"
            "   :members:\n   :undoc-members:\n   :member-order: bysource\n   :show-inheritance:\n```\n"
        )
    source[0] = source[0].replace("<!-- api -->", "\n".join(parts))


def plain_docstring(app, what, name, obj, options, lines):
    "Our docstrings are plain text with `code` in backticks: in reStructuredText nothing is mark-up by chance."
    out, previous = [], None
    for line in lines:
        text, indent = re.sub(r"^(Example: )(.+)", r"\1`\2`", line.strip()), len(line) - len(line.lstrip())
        text = re.sub(r"pip install '[^']+'", r"`\g<0>`", text)
        if re.match(r"[-*] ", text):
            text, bullet = text[2:], True
        else:
            bullet = indent > 0
        parts = re.split(r"(`+[^`]+`+)", text)
        text = "".join(
            f"``{p.strip('`')}``" if p.startswith("`") and len(p) > 2 else re.sub(r"([\\*_|`])", r"\\\1", p)
            for p in parts
        )
        text = re.sub(r"(``)(?=\w)", r"\1\\ ", text) if text.count("``") % 2 else text
        if not text:
            out.append("")
            previous = None
        elif bullet and (indent <= (previous if previous is not None else indent)):
            out += ["", f"- {text}"]
            previous = indent
        elif previous is not None:
            out.append(f"  {text}")
        else:
            out.append(text)
    lines[:] = out + [""]


def plain_signature(app, what, name, obj, options, args, returns):
    "`Annotated[Path, <typer.models.OptionInfo object at 0x7f...>]` is a `Path`: the help says the rest."
    if what == "class" and args == "(*args, **kwargs)":  # a class that others build on hides what it is made with
        args = stringify_signature(inspect.signature(obj), show_return_annotation=False)
    while args and args != (shorter := ANNOTATED.sub(r"\1", args)):
        args = shorter
    return args and args.replace("<factory>", "..."), returns  # a dataclass' default that is made anew; no Python as it stands


def no_entry(app, what, name, obj, skip, options):
    "A named tuple's fields have no words of their own: the class's say what they are. And a text of several lines is no value."
    field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if field or isinstance(obj, str) and "\n" in obj else None


def outside_names(app, env, node, contnode):
    "A name that is not ours (Tensor, Float...) is shown without a link; one of ours must resolve, or -n complains."
    target = node.get("reftarget", "")
    if node.get("refdomain") == "py" and not target.startswith(app.config.book_package + "."):
        return contnode
    return None


# ---------------------------------------------------------------- cost label and facts
class Cost(SphinxDirective):
    "```{cost}``` prints what the executed chapter cost when this page was made; `:downloads:` says what it fetches."

    option_spec = {"downloads": directives.unchanged}

    def run(self):
        record = Path(self.env.srcdir, "executed", Path(self.env.docname).name + ".json")
        items = []
        if record.exists():
            self.env.note_dependency(str(record))
            cost = json.loads(record.read_text("utf-8"))
            items = [("time", f"runs in {seconds(cost['seconds'])}")]
            if cost.get("peak_mb"):
                items.append(("memory", f"{memory(cost['peak_mb'])} of memory"))
            title = f"Measured when this page was made: Python {cost['python']}, {cost['threads']} thread(s)"
        else:
            items, title = [("time", "not run for this page")], "Built without executing the chapters"
        downloads = self.options.get("downloads", "none")
        items.append(("downloads", "no download" if downloads in {"none", ""} else f"downloads {downloads}"))
        label = nodes.paragraph("", "", classes=["cost"])
        for kind, text in items:
            label += nodes.abbreviation(
                text,
                text,
                explanation=title if kind != "downloads" else "On the page's default path",
                classes=[f"cost-{kind}"],
            )
            label += nodes.Text(" ")
        if '"todo"' in Path(self.env.doc2path(self.env.docname)).read_text("utf-8"):  # see workbook.py
            label += nodes.raw("", '<a href="workbook.html">write it yourself</a>', format="html")
        return [label]


def seconds(s: float) -> str:
    "3.2 -> '3 s', 0.4 -> 'under a second', 130 -> '2 min 10 s'."
    s = round(s)
    return "under a second" if s < 1 else f"{s} s" if s < 100 else f"{s // 60} min {s % 60} s"


def memory(mb: float) -> str:
    return f"{round(mb / 10) * 10} MB" if mb < 995 else f"{mb / 1000:.1f} GB"


def facts(env) -> dict:
    file = Path(env.srcdir, env.config.book_facts)
    if getattr(env, "_book_facts", None) is None:
        env._book_facts = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    return env._book_facts


def fact_text(fact: dict) -> str:
    return f"{fact['value']}{fact.get('unit', '')}"


class Fact(SphinxRole):
    "{fact}`detr-r50-ap` -> the number as the paper prints it, with what it is and where it stands."

    def run(self):
        self.env.note_dependency(str(Path(self.env.srcdir, self.config.book_facts)))
        fact = facts(self.env).get(self.text)
        if fact is None:
            logger.warning(
                "no fact %r in %s",
                self.text,
                self.config.book_facts,
                location=self.get_location(),
                type="book",
                subtype="fact",
            )
            return [nodes.Text(self.text)], []
        node = nodes.abbreviation(
            self.rawtext, fact_text(fact), explanation=f"{fact['what']} ({fact['source']})", classes=["fact"]
        )
        return [node], []


class Facts(SphinxDirective):
    "```{facts}``` lists all of them: number, what it is, where it stands."

    def run(self):
        def row(tag, *cells):
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        rows = "".join(row("td", fact_text(f), f["what"], f["source"]) for f in facts(self.env).values())
        head = row("th", "number", "what", "where")
        table = f'<table class="table facts"><thead>{head}</thead><tbody>{rows}</tbody></table>'
        return [nodes.raw("", f'<div class="pst-scrollable-table-container">{table}</div>', format="html")]


# ---------------------------------------------------------------- set-up
def assets_where(mark: str, style: str, script: str = ""):
    "A listener: the style and the script go to the pages that hold the mark, and to no other."

    def add(app, pagename, templatename, context, doctree):
        if doctree is not None and mark in context.get("body", ""):
            app.add_css_file(style)
            if script:
                app.add_js_file(script, loading_method="defer")

    return add


def drop_thebe(app):
    "Jupyter Book always loads Thebe, from another host, and twice: the book is complete without it."
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [
            x for x in listeners if not getattr(x.handler, "__module__", "").startswith("sphinx_thebe")
        ]


def state_version(app, pagename, templatename, context, doctree):
    "For templates/mistake.html: nbdev writes the version into the package."
    package = package_folder(app.config.book_package)
    found = re.search(r'^__version__ = "([^"]+)"', (package / "__init__.py").read_text("utf-8"), re.M) if package else None
    context["book_version"] = found[1] if found else "unknown"


def slowest_first(app, env, docnames):
    "The page that imports the package to describe it keeps one process busy while the other reads the rest."
    docnames.sort(key=lambda d: "<!-- api -->" not in Path(env.doc2path(d)).read_text("utf-8"))


def in_parallel(app):
    """Two processes read and write. Jupyter Book has no option for it, and two of its extensions don't say that they are
    safe: they number tables of contents and write LaTeX, neither of which this book does."""
    app.parallel = 2
    for name in {"sphinx_multitoc_numbering", "sphinx_jupyterbook_latex"} & app.extensions.keys():
        app.extensions[name].parallel_read_safe = app.extensions[name].parallel_write_safe = True


def call_them_questions():
    "sphinx-exercise says Exercise; here five chapters are called so, after the syllabus, and what it numbers are questions."
    for module in (sphinx_exercise, sphinx_exercise.directive, sphinx_exercise.nodes):
        module.translate = lambda text: text.replace("Exercise", "Question")


def setup(app):
    call_them_questions()
    app.add_config_value("book_package", "", "env", str)
    app.add_config_value("book_facts", "nbs/paper_facts.toml", "env", str)
    app.add_transform(ExportBadge)
    app.add_transform(AltText)
    app.add_transform(Threads)
    app.add_transform(FirstUses)
    app.add_transform(Findable)
    app.add_directive("cost", Cost)
    app.add_directive("facts", Facts)
    app.add_role("fact", Fact())
    app.connect("builder-inited", drop_thebe)
    app.connect("builder-inited", in_parallel)
    app.connect("env-before-read-docs", slowest_first)
    app.connect("source-read", write_api)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", no_entry)
    app.connect("doctree-read", source_links)
    app.connect("missing-reference", outside_names)
    app.connect("html-collect-pages", source_pages)
    app.connect("html-page-context", state_version)
    app.setup_extension("concordance")
    pybtex.plugin.entry_points = cache(pybtex.plugin.entry_points)  # else all packages are searched for each citation
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
