"""A quiz that grades itself in the page, from nbs/quiz.toml: ```{quiz}```.

Each `[[question]]` has `id`, `chapter` (to read again), `ask`, perhaps `code`, `check` (Python that proves the answer;
tests/test_quiz.py runs it), and three or four `[[question.choice]]`: `say`, `why`, `see` ("page # heading"), and
`right = true` in one of them. Text is Markdown in one line. `nbs/assets/quiz.js` keeps the score; without JavaScript the
questions can be read and the answers fold out. `<!-- questions -->` in a page is their number.
"""

from __future__ import annotations

import html
from pathlib import Path

from concordance import heading_link, short_title
from docutils import nodes
from markdown_it import MarkdownIt
from nbdev_cells import assets_where, tomllib
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
QUIZ = "nbs/quiz.toml"
LETTERS = "abcd"


def load(file: Path) -> list[dict]:
    return tomllib.loads(file.read_text("utf-8"))["question"]


def faults(questions: list[dict]) -> list[str]:
    "What is wrong with the data, a sentence each; none is the aim."
    found, ids = [], [q.get("id", "?") for q in questions]
    found += [f"{i} stands twice" for i in sorted({i for i in ids if ids.count(i) > 1})]
    for q, name in zip(questions, ids):
        choices = q.get("choice", [])
        if missing := [k for k in ("id", "chapter", "ask", "check") if not q.get(k, "").strip()]:
            found.append(f"{name} has no {', '.join(missing)}")
        if not 3 <= len(choices) <= len(LETTERS):
            found.append(f"{name} has {len(choices)} choices")
        if (right := sum(c.get("right", False) for c in choices)) != 1:
            found.append(f"{name} has {right} right answers")
        for key in ("say", "why", "see"):
            texts = [c.get(key, "").strip() for c in choices]
            if not all(texts):
                found.append(f"{name}: a choice has no {key}")
            if key != "see" and len({*texts}) < len(texts):
                found.append(f"{name}: two choices have the same {key}")
    return found


# ---------------------------------------------------------------- HTML
def inline(text: str) -> str:
    return MarkdownIt("commonmark", {"html": False}).renderInline(" ".join(text.split()))


def question_html(q: dict, number: int, of: int, links: dict) -> str:
    "`links`: (address, text) of each choice's place by letter, and `chapter`: (address, short title, title)."
    key, choices = f"quiz-{number}", q["choice"]
    code = ""
    if q.get("code"):
        text = highlight(q["code"].strip("\n"), PythonLexer(), HtmlFormatter(nowrap=True))
        code = f'<pre class="quiz-code highlight" tabindex="0"><code>{text}</code></pre>'
    options, answers = [], []
    for letter, c in zip(LETTERS, choices):
        right = c.get("right", False)
        options.append(
            f'<label class="quiz-choice" data-choice="{letter}"><input type="radio" name="{key}" value="{letter}">'
            f"<span><b>{letter}</b> {inline(c['say'])}</span></label>"
        )
        to, words = links[letter]
        answers.append(
            f'<li data-choice="{letter}"{" data-right" if right else ""}><p><b>{letter}, {"right" if right else "no"}.</b> '
            f'{inline(c["why"])} <a href="{html.escape(to)}">{html.escape(words, quote=False)}</a></p></li>'
        )
    to, short, title = links["chapter"]
    return f"""
<form class="quiz-card" id="{key}" tabindex="-1" data-key="{html.escape(q["id"])}"
 data-page="{html.escape(to)}" data-chapter="{html.escape(title)}">
<p class="quiz-where"><a href="{html.escape(to)}">{html.escape(short, quote=False)}</a> <span>{number} of {of}</span></p>
<fieldset><legend><span class="quiz-sr">Question {number}.</span> {inline(q["ask"])}</legend>{code}
{"".join(options)}</fieldset>
<p class="quiz-buttons" hidden><button type="submit">Answer</button></p>
<div class="quiz-said" role="status" aria-live="polite"></div>
<details class="quiz-answer"><summary>Show the answers</summary><ul>{"".join(answers)}</ul></details>
</form>"""


PAGE = """<div class="quiz">
<div class="quiz-bar" hidden><p class="score"></p><ol class="quiz-map">{squares}</ol></div>
<div class="quiz-cards">{cards}</div>
<p class="quiz-walk" hidden><button type="button" class="back">Back</button> <button type="button" class="next">Next</button></p>
<section class="quiz-end" aria-label="Result" aria-live="polite" hidden></section>
<p class="quiz-walk" hidden><button type="button" class="reset">Forget my answers</button></p>
</div>"""


def quiz_html(app, docname: str, questions: list[dict]) -> str:
    cards, squares = [], []
    for number, q in enumerate(questions, 1):
        chapter = f"{Path(docname).parent.as_posix()}/{q['chapter']}"
        if chapter not in app.env.titles:
            raise ValueError(f"{q['id']}: there is no page {chapter}")
        links = {
            "chapter": (
                app.builder.get_relative_uri(docname, chapter),
                short_title(app, chapter),
                app.env.titles[chapter].astext(),
            )
        }
        for letter, c in zip(LETTERS, q["choice"]):
            page = f"{Path(docname).parent.as_posix()}/{c['see'].partition('#')[0].strip()}"
            to, text = heading_link(app, docname, c["see"])
            links[letter] = (to, f"{short_title(app, page)}: {text}")
        cards.append(question_html(q, number, len(questions), links))
        squares.append(f'<li><a href="#quiz-{number}">{number}</a></li>')
    return PAGE.format(squares="".join(squares), cards="".join(cards))


class Quiz(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(Path(self.env.srcdir, QUIZ)))
        return [quiz()]


class quiz(nodes.General, nodes.Element):
    "Where the questions will stand, once every page's headings are known."


def put_quiz(app, doctree, docname):
    for node in list(doctree.findall(quiz)):
        try:
            questions = load(Path(app.srcdir, QUIZ))
            if wrong := faults(questions):
                raise ValueError("; ".join(wrong))
            node.replace_self(nodes.raw("", quiz_html(app, docname, questions), format="html"))
        except ValueError as e:
            logger.warning("quiz: %s", e, location=docname, type="book", subtype="quiz")
            node.replace_self([])


def write_count(app, docname, source):
    if "<!-- questions -->" in source[0]:
        source[0] = source[0].replace("<!-- questions -->", str(len(load(Path(app.srcdir, QUIZ)))))


def setup(app):
    app.setup_extension("nbdev_cells")
    app.add_node(quiz)
    app.add_directive("quiz", Quiz)
    app.connect("source-read", write_count)
    app.connect("doctree-resolved", put_quiz)
    app.connect("html-page-context", assets_where('class="quiz"', "quiz.css", "quiz.js"))
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
