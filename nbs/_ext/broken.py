"""A page of puzzles, made from the mutants that test the tests: ```{broken-lines}```.

Each mutant of `detr_lit/mutants/*.toml` becomes a card: what a reader would see, the definition with the sabotage applied,
and, folded, the answer. `nbs/assets/broken.js` makes a game of it; without JavaScript the page can still be read.
`<!-- mutants -->` and `<!-- chapters -->` in a page are their numbers.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from docutils import nodes
from nbdev_cells import MARK, assets_where, chapter_of, module_files, source_page
from pygments import highlight
from pygments.filter import Filter
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, String, Text
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

logger = logging.getLogger(__name__)
MUTANTS = "detr_lit/mutants"
LONGEST = 30  # lines of a definition that is shown whole; of a longer class, the method
FEWEST = 6  # lines of code to choose from
DEFINES = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Card:
    name: str
    hint: str
    places: list[str]  # the definitions shown: ['HungarianMatcher.cost']
    code: dict[int, str]  # the lines shown, by their numbers in the sabotaged module
    silent: set[int]  # those that are no code: docstrings, blank lines
    answers: list[int]  # those that are wrong; where lines are missing, their neighbours
    before: str  # the lines as the book has them
    after: str  # as they are now; '' where lines are missing
    line: int  # the first line that differs
    cell: str  # id of the notebook's cell that defines it
    checks: list[str]


def load(folder: Path) -> dict[str, list[dict]]:
    "{'06_matcher': its mutants}, in the book's order."
    return {f.stem: tomllib.loads(f.read_text("utf-8"))["mutant"] for f in sorted(folder.glob("*.toml"))}


def span(s: ast.stmt) -> range:
    "Its lines, decorators included."
    return range(min([s.lineno, *(d.lineno for d in getattr(s, "decorator_list", []))]), (s.end_lineno or s.lineno) + 1)


def enclosing(body: list[ast.stmt], line: int) -> tuple[str, list[ast.stmt], int]:
    "The largest definition that holds a line and is not too long, else the smallest: (prefix, siblings, place in them)."
    i = next(i for i, s in enumerate(body) if line in span(s))
    here = body[i]
    if len(span(here)) > LONGEST and isinstance(here, ast.ClassDef) and any(line in span(s) for s in here.body):
        prefix, siblings, i = enclosing(here.body, line)
        return f"{here.name}.{prefix}", siblings, i
    return "", body, i


def with_neighbours(
    siblings: list[ast.stmt], i: int, source: list[str]
) -> tuple[list[ast.stmt], dict[int, str], set[int]]:
    "A line or two are no puzzle: the next or the last definition keeps them company. -> (shown, its lines, the silent)."
    pairs = [siblings[i : i + 2], siblings[max(i - 1, 0) : i + 1]]
    fitting = [p for p in pairs if span(p[-1]).stop - span(p[0]).start <= LONGEST + 5 and {*map(type, p)} <= {*DEFINES}]
    for shown in [siblings[i : i + 1], *fitting]:
        lines = range(span(shown[0]).start, span(shown[-1]).stop)
        code = {n: source[n - 1] for n in lines if not MARK.match(source[n - 1])}
        silent = {n for s in shown for n in docstring_lines(s)} | {n for n in code if not code[n].strip()}
        if len(code) - len(silent) >= FEWEST:
            break
    return shown, code, silent


def docstring_lines(node: ast.stmt) -> set[int]:
    return {
        n
        for d in ast.walk(node)
        if isinstance(d, DEFINES) and ast.get_docstring(d, clean=False) is not None
        for n in span(d.body[0])
    }


def card(mutant: dict, source: str) -> Card:
    "Apply a mutant to its module, and cut out the definition. ValueError if it does not fit there."
    if source.count(mutant["find"]) != 1 or mutant["find"] == mutant["put"]:
        raise ValueError(f"`find` occurs {source.count(mutant['find'])} times in the module, or `put` changes nothing")
    changed = source.replace(mutant["find"], mutant["put"])
    old, new = source.splitlines(), changed.splitlines()
    head = next(i for i in range(len(old) + 1) if old[i : i + 1] != new[i : i + 1])  # lines before the difference
    most = min(len(old), len(new)) - head
    tail = next(i for i in count() if i == most or old[-1 - i] != new[-1 - i])
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]

    tree, line = ast.parse(changed), head + 1
    prefix, siblings, i = enclosing(tree.body, line if after else line - 1)
    shown, code, silent = with_neighbours(siblings, i, new)
    telling = [n for n in code if n not in silent]
    answers = [n for n in telling if line <= n < line + len(after)]
    if not after:
        answers = [n for n in telling if n < line][-1:] + [n for n in telling if n >= line][:1]
    marks = [m for text in new[:line] if (m := MARK.match(text))]
    return Card(
        name=mutant["name"],
        hint=mutant["hint"],
        places=[prefix + s.name for s in shown if isinstance(s, DEFINES)],
        code=dict(zip(code, textwrap.dedent("\n".join(code.values())).split("\n"))),
        silent=silent,
        answers=answers,
        before=textwrap.dedent("\n".join(before)),
        after=textwrap.dedent("\n".join(after)),
        line=line,
        cell=marks[-1]["cell"] if marks else "",
        checks=mutant.get("tests", []),
    )


# ---------------------------------------------------------------- HTML
COLOURED = (Keyword, Comment, String, Name.Function, Name.Class)


class Sparing(Filter):
    "Colour for what stands out; a span for every name and bracket would be half of the page."

    def filter(self, lexer: Lexer, stream: Iterator) -> Iterator:
        yield from ((next((c for c in COLOURED if kind in c), Text), text) for kind, text in stream)


def code_html(c: Card) -> str:
    lexer = PythonLexer(stripnl=False)
    lexer.add_filter(Sparing())
    text = highlight("\n".join(c.code.values()), lexer, HtmlFormatter(nowrap=True))
    text = re.sub(r'<span class="(\w+)">([^<]*)</span>', r"<i class=\1>\2</i>", text)  # seven thousand of them
    text = text.replace("<i class=k>", "<i>")  # broken.css knows the colour of keywords
    rows = []
    for n, line in zip(c.code, text.split("\n")):
        rows.append(f"<span data-{'n' if n in c.silent else 'line'}={n}>{line}\n</span>")  # broken.css writes the number
    return f'<pre class="broken-code highlight"><code>{"".join(rows)}</code></pre>'


def diff_html(broken: str, right: str) -> str:
    "Both versions, with what lies between their common beginning and end marked."
    shorter = min(len(broken), len(right))
    a = next(i for i in count() if i == shorter or broken[i] != right[i])
    z = next(i for i in count() if i == shorter - a or broken[-1 - i] != right[-1 - i])

    def row(label: str, kind: str, tag: str, text: str) -> str:
        start, middle, end = (
            html.escape(t, quote=False) for t in (text[:a], text[a : len(text) - z], text[len(text) - z :])
        )
        marked = f"<{tag}>{middle}</{tag}>" if middle else ""
        return f'<dt class="{kind}">{label}</dt><dd><pre>{start}{marked}{end}</pre></dd>' if text else ""

    now = row("Broken", "is-broken", "del", broken)
    wanted = row("Right" if broken else "Missing", "is-right", "ins", right)
    return f'<dl class="broken-diff">{now}{wanted}</dl>'


def card_html(c: Card, head: dict[str, str], links: dict[str, str]) -> str:
    """`head`: id, chapter, number, of, title, module; `links`: cell, source and, where a chapter is the check, chapter."""
    gap = "" if c.after else ". <strong>A line is missing:</strong> choose one beside the gap."
    places = " and ".join(f"<code>{p}</code>" for p in c.places) or "A statement"
    checks = [f"<code>{html.escape(t)}</code>" for t in c.checks]
    if links["check"]:
        checks.append(f'the cells of <a href="{links["check"]}">{head["check"]}</a>')
    return f"""
<article class="broken-card" id="{head["id"]}" aria-labelledby="{head["chapter"]}-{head["number"]}" tabindex="-1"
 data-chapter="{head["chapter"]}" data-key="{head["chapter"]}: {html.escape(c.name)}"
 data-answers="{" ".join(map(str, c.answers))}">
<p class="broken-where"><span>{head["title"]}</span> <span>{head["number"]} of {head["of"]}</span></p>
<h2 id="{head["chapter"]}-{head["number"]}">{html.escape(c.hint, quote=False)}</h2>
<p class="broken-place">{places} in <code>{head["module"]}</code>{gap}</p>
{code_html(c)}
<p class="broken-said" role="status"></p>
<details class="broken-answer"><summary>Show the answer</summary>
<h3>{html.escape(c.name[0].upper() + c.name[1:], quote=False)}</h3>
{diff_html(c.after, c.before)}
<p>Caught by {" or ".join(checks)}. Built in <a href="{links["cell"]}">this cell</a>;
<a href="{links["source"]}">line {c.line} of the module</a>.</p>
</details>
</article>"""


PAGE = """<div class="broken">
<div class="broken-tools" hidden><label>Chapter <select><option value="">all of them</option>{options}</select></label>
<p class="score"></p></div>
<div class="broken-cards">{cards}</div>
<p class="broken-buttons" hidden><button type="button" class="next">Next one</button></p>
<table class="broken-map"><caption>All of them</caption>
<thead><tr><th scope="col">chapter</th><th scope="col">lines</th><th scope="col">found</th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="broken-buttons" hidden><button type="button" class="reset">Forget my answers</button></p>
</div>"""


class BrokenLines(SphinxDirective):
    def run(self):
        return [broken_lines()]


class broken_lines(nodes.General, nodes.Element):
    "Where the cards will stand, once every chapter's title is known."


def put_cards(app, doctree, docname):
    for node in list(doctree.findall(broken_lines)):
        node.replace_self(nodes.raw("", page_html(app, docname), format="html"))


def page_html(app, docname: str) -> str:
    def link(to: str) -> str:
        return app.builder.get_relative_uri(docname, to)

    def title(page: str) -> str:
        return html.escape(app.env.titles[page].astext(), quote=False) if page in app.env.titles else page

    files, cards, rows, options = module_files(app.config.book_package), [], [], []
    for chapter, mutants in load(Path(app.srcdir, MUTANTS)).items():
        page, squares = f"nbs/{chapter}", []
        for i, m in enumerate(mutants, 1):
            module = f"{app.config.book_package}.{m['module']}"
            try:
                source = files[module].read_text("utf-8")
                c = card(m, source)
            except (KeyError, ValueError, SyntaxError) as e:
                said = f"mutant {m['name']!r} of {chapter}: {e}"
                logger.warning(said, location=docname, type="book", subtype="mutant")
                continue
            home = chapter_of(source) or page
            check = f"nbs/{m['chapter']}" if m.get("chapter") else "" if c.checks else home
            head = {"id": f"card-{chapter}-{i}", "chapter": chapter, "number": i, "of": len(mutants)}
            head |= {"title": title(page), "check": title(check), "module": f"{module.replace('.', '/')}.py"}
            links = {"check": check and link(check), "source": f"{link(source_page(module))}#L{c.line}"}
            cards.append(card_html(c, head, links | {"cell": f"{link(home)}#cell-{c.cell}"}))
            squares.append(f'<li><a href="#{head["id"]}">{i}</a></li>')
        rows.append(
            f'<tr data-chapter="{chapter}"><th scope="row"><a href="{link(page)}">{title(page)}</a></th>'
            f'<td><ol>{"".join(squares)}</ol></td><td class="count">{len(squares)}</td></tr>'
        )
        options.append(f'<option value="{chapter}">{title(page)}</option>')
    return PAGE.format(options="".join(options), cards="".join(cards), rows="".join(rows))


def write_counts(app, docname, source):
    if "<!-- mutants -->" in source[0]:
        found = load(Path(app.srcdir, MUTANTS))
        source[0] = source[0].replace("<!-- mutants -->", str(sum(map(len, found.values()))))
        source[0] = source[0].replace("<!-- chapters -->", str(len(found)))


def setup(app):
    app.setup_extension("nbdev_cells")
    app.add_node(broken_lines)
    app.add_directive("broken-lines", BrokenLines)
    app.connect("source-read", write_counts)
    app.connect("doctree-resolved", put_cards)
    app.connect("html-page-context", assets_where('class="broken"', "broken.css", "broken.js"))
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
