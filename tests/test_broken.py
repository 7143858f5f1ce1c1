"""The puzzles made from the mutants: what each card shows, and that the marked lines are those that differ."""

import ast
import difflib
import re

import broken
import pytest
from test_ext import book, words

MODULE = '''\
# %% ../nbs/01_one.ipynb #aaaa1111
import math

# %% ../nbs/01_one.ipynb #bbbb2222
def area(w: float, h: float) -> float:
    "Width times height."
    return w * h

# %% ../nbs/01_one.ipynb #cccc3333
class Box:
    """A box.

    With sides.
    """
    def __init__(self, w, h):
        self.w = w
        self.h = h

    def grow(self, by):
        self.w += by
        self.h += by
        return self
'''
MUTANT = dict(name="less & less", find="w * h", put="w / h", hint="A box is < 1.", tests=["tests/test_one.py::test_a"])


def card(find, put, source=MODULE):
    return broken.card(MUTANT | dict(find=find, put=put), source)


def changed(source, sabotaged):
    "Numbers of the new or altered lines by difflib, and whether lines were only taken out."
    blocks = difflib.SequenceMatcher(None, source, sabotaged, autojunk=False).get_opcodes()
    found = [(j1, j2) for tag, _, _, j1, j2 in blocks if tag != "equal"]
    return {n + 1 for j1, j2 in found for n in range(j1, j2)}, all(j1 == j2 for j1, j2 in found)


def test_every_mutant_is_a_fair_puzzle(root):
    for chapter, mutants in broken.load(root / "detr_lit/mutants").items():
        notebook = (root / f"nbs/{chapter}.ipynb").read_text("utf-8")
        for m in mutants:
            source, of = (root / f"detr_lit/{m['module']}.py").read_text("utf-8"), f"{chapter}: {m['name']}"
            sabotaged = source.replace(m["find"], m["put"])
            c, lines = broken.card(m, source), sabotaged.splitlines()
            ast.parse(sabotaged)
            assert all(text.strip() == lines[n - 1].strip() for n, text in c.code.items()), of
            wrong, missing = changed(source.splitlines(), lines)
            assert bool(c.after) != missing, of
            if missing:
                assert len(c.answers) in (1, 2) and not set(c.answers) & c.silent, of
                assert min(c.answers) <= c.line <= max(c.answers) + 1, of
            else:
                assert set(c.answers) == wrong, of
                assert all(part.strip() in "\n".join(c.code.values()) for part in m["put"].splitlines()), of
            assert len(c.code) - len(c.silent) >= 4 and len(c.code) <= 35, f"{of}: {len(c.code)} lines"
            assert f'"id": "{c.cell}"' in notebook, of


def test_a_short_class_is_shown_whole_and_its_docstring_is_no_choice():
    c = card("self.h = h", "self.h = w")
    assert c.places == ["Box"] and list(c.code) == list(range(10, 23)) and c.answers == [17] and c.cell == "cccc3333"
    assert c.silent == {11, 12, 13, 14, 18}
    assert (c.before, c.after) == ("self.h = h", "self.h = w")


def test_of_a_long_class_the_method():
    long = MODULE.replace("With sides.", "\n".join(["..."] * 30))
    c = card("self.h = h", "self.h = w", long)
    assert c.places == ["Box.__init__", "Box.grow"]
    assert c.code[c.answers[0]] == "    self.h = w"


def test_a_line_or_two_get_company():
    c = card("w * h", "w / h")
    assert c.places == ["area", "Box"] and c.answers == [7]
    assert 9 not in c.code  # nbdev's mark is no code


def test_every_changed_line_is_an_answer():
    assert card("self.w = w\n        self.h = h", "self.w = h\n        self.h = w").answers == [16, 17]
    assert card("return w * h", "h = h\n    return w").answers == [7, 8]


def test_a_missing_line_is_pointed_at_from_both_sides():
    c = card("        self.h += by\n", "")
    assert c.answers == [20, 21] and c.after == "" and c.before == "self.h += by"
    last = card("        return self\n", "")
    assert last.answers == [21] and last.places == ["Box"]


@pytest.mark.parametrize("find, put", [("w", "h"), ("gone", "h"), ("w * h", "w * h")])
def test_what_does_not_fit_is_refused(find, put):
    with pytest.raises(ValueError, match="`find` occurs"):
        card(find, put)


def test_diff_marks_what_differs():
    assert "<del>giou</del> - x" in broken.diff_html("a * giou - x", "a * (1 - giou) - x")
    assert "<ins>(1 - giou)</ins> - x" in broken.diff_html("a * giou - x", "a * (1 - giou) - x")
    assert "a &lt; b<ins>b</ins></pre>" in broken.diff_html("a < b", "a < bb")
    assert re.findall("<dt.*?>(.*?)</dt>", broken.diff_html("", "gone")) == ["Missing"]


TOML = """
[[mutant]]
name = "less & less"
module = "one"
find = "return w * h"
put = "return w / h"
tests = ["tests/test_one.py::test_area"]
hint = "A box is < 1."

[[mutant]]
name = "small side"
module = "one"
find = "SIDE = 2"
put = "SIDE = 1"
hint = "Half."
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    status, warnings, pages = book(tmp_path_factory.mktemp("broken"), mutants=TOML)
    assert status == 0, warnings
    return pages


def test_the_page(page):
    html = page["nbs/broken.html"]
    assert "<p>2 lines.</p>" in html and html.count("<article") == 2
    assert "A box is &lt; 1." in html and 'id="card-01_one-2"' in html
    assert "return w / h" in words(html) and "return w * h" in words(html)  # the card, and its folded answer
    assert re.search(r'href="01_one.html#cell-bbbb2222"', html) and 'id="cell-bbbb2222"' in page["nbs/01_one.html"]
    answer = re.search(r'data-answers="(\d+)"', html)[1]
    assert f'href="../source/one.html#L{answer}"' in html
    assert "tests/test_one.py::test_area" in html and 'the cells of <a href="01_one.html">One</a>' in html


def test_the_script_goes_to_its_page_alone(page):
    assert [name for name, html in page.items() if "broken.js" in html] == ["nbs/broken.html"]
    assert [name for name, html in page.items() if "broken.css" in html] == ["nbs/broken.html"]


def test_a_mutant_that_does_not_fit_fails_the_build(tmp_path):
    status, warnings, _ = book(tmp_path, mutants=TOML.replace("SIDE = 2", "SIDE = 3"))
    assert status and "mutant 'small side' of 01_one: `find` occurs 0 times" in warnings
