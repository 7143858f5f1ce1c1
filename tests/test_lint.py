"""ruff, mypy and the prose lint pass on the tree; and the prose lint sees what it is there to see."""

import subprocess
import sys

import lint
import nbformat
import pytest


def run(root, *command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_ruff(root):
    run(root, "ruff", "check", "--quiet", ".")


def test_mypy(root):
    run(root, "mypy", "--no-error-summary")


def test_prose(root):
    _, problems = lint.lint(sorted((root / "nbs").glob("*.ipynb")))
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("It reaches 0.93 after a minute.", ["0.93"]),
        ("It costs 12 % of a step, or 12% or 3.5 per cent.", ["12 %", "12%", "3.5 per cent"]),
        ("A loss of .25 is small", [".25"]),
        ("as section 3.1, Eq. 1, sections 3.1 and 3.2, Table 4.2, PyTorch 2.4 and Python 3.10 say", []),
        ("the default `0.1`, $\\lambda = 0.5$, {fact}`detr-r50-ap` and {glue:text}`x:.2f`", []),
        ("[0.5 in a link](https://example.org/1.5) and https://example.org/2.5", []),
        ("version 2.4.1, 128 x 128, in 300 epochs", []),
        ("```python\nx = 0.5\n```\n$$\n0.5\n$$ (eq-x)", []),
        ("```{admonition} Paper, code, ours\n:class: deviation\nThe paper has 0.77.\n```", ["0.77"]),
        ("```{cost}\n:downloads: 2.5 MB\n```", []),
        ("<!-- 0.5 -->", []),
    ],
)
def test_bare_numbers(text, numbers):
    assert lint.bare_numbers(lint.prose(text)) == numbers


def chapter(tmp_path, *cells, name="99_test"):
    new = {"m": nbformat.v4.new_markdown_cell, "c": nbformat.v4.new_code_cell}
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[new[k](text) for k, text in cells]), path)
    return path


def problems(path):
    return " ".join(lint.lint([path])[1])


GOOD = [("m", "# Title\n\n```{cost}\n```"), ("c", "1 + 1")]
EXERCISE = "```{exercise-start} Name\n:label: q-99-a\n```\nWhy?\n```{exercise-end}\n```"
ANSWER = "```{solution-start} q-99-a\n:class: dropdown\n```\nBecause.\n```{solution-end}\n```"


def test_a_good_chapter_has_no_problem(tmp_path):
    assert problems(chapter(tmp_path, *GOOD, ("m", EXERCISE), ("m", ANSWER))) == ""


@pytest.mark.parametrize(
    "cells, word",
    [
        ([*GOOD, ("c", "x\n" * 21)], "21 lines"),
        ([*GOOD, ("c", "class A:\n" + "    x = 1\n" * 30)], "31 lines"),
        ([*GOOD, *[("c", "1")] * 3], "fourth code cell"),
        ([*GOOD, ("m", "# Another title")], "2 titles"),
        ([*GOOD, ("m", "#### Deep")], "heading level 4"),
        ([("m", "# Title")], "no {cost}"),
        ([*GOOD, ("m", EXERCISE)], "do not pair: q-99-a"),
        ([*GOOD, ("m", "It is 0.5 big")], "bare number in prose: 0.5"),
    ],
)
def test_problems_are_seen(tmp_path, cells, word):
    assert word in problems(chapter(tmp_path, *cells))


def test_a_label_in_two_chapters_is_seen(tmp_path):
    both = [chapter(tmp_path, *GOOD, ("m", EXERCISE), ("m", ANSWER), name=n) for n in ("98_a", "99_b")]
    assert "q-99-a is in 98_a.ipynb already" in " ".join(lint.lint(both)[1])


def test_hidden_cells_and_long_classes_are_fine(tmp_path):
    assert (
        problems(
            chapter(
                tmp_path,
                *GOOD,
                ("m", "text"),
                ("c", "#| hide\n" + "x\n" * 40),
                ("c", "class A:\n" + "    x = 1\n" * 29),
            )
        )
        == ""
    )


def rhythm(path, n, lines, words):
    "A chapter of n cells of so many lines and so many words each."
    cells = [x for _ in range(n) for x in (("m", "word " * words), ("c", "x\n" * lines))]
    return chapter(path, GOOD[0], *cells)


@pytest.mark.parametrize(
    "n, lines, words, word",
    [
        (12, 6, 40, ""),
        (12, 7, 40, "more than 6 lines (median 7)"),
        (12, 6, 30, "30 words for each cell"),
        (12, 6, 130, "130 words for each cell"),
        (11, 7, 130, ""),  # an essay
    ],
)
def test_rhythm(tmp_path, n, lines, words, word):
    found = problems(rhythm(tmp_path, n, lines, words))
    assert (word in found) if word else not found


def test_folded_cells_do_not_count(tmp_path):
    long = [x for _ in range(12) for x in (("m", "word " * 50), ("c", "#| export\n#| code-fold: true\n" + "x\n" * 15))]
    good = [x for _ in range(12) for x in (("m", "word " * 50), ("c", "x"))]
    path = chapter(tmp_path, GOOD[0], *good, *long)
    assert "median" not in problems(path) and len(lint.Chapter(path).shown) == 12


def test_definitions_used_at_once():
    cells = [(True, "def f(): pass"), (False, "1"), (False, "f()"), (False, "f()")]
    cells += [(True, "def g(): f()"), (True, "def h(): g()")]
    assert lint.used_at_once(cells) == (1, 3)
    assert lint.used_at_once([*cells, (False, "h()")]) == (2, 3)
    assert lint.used_at_once([(False, "def f(): pass"), (False, "%pip x")]) == (0, 0)
