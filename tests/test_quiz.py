"""The questions of nbs/quiz.toml: well formed, fair, their links lead somewhere, and what code can prove is proved."""

import copy
import re
from pathlib import Path

import concordance
import execute
import pytest
import quiz
import torch
from test_ext import book

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = quiz.load(ROOT / quiz.QUIZ)
SMALL = dict(
    num_queries=9, d_model=64, n_heads=4, n_enc_layers=1, n_dec_layers=3, dim_ff=96,
    backbone_name="convnet", norm="batch", stride=16,
)  # fmt: skip


@pytest.mark.parametrize("q", QUESTIONS, ids=lambda q: q["id"])
def test_the_answer_is_right(q):
    space = dict(torch=torch, tensor=torch.tensor, small=SMALL, ROOT=ROOT)
    exec(compile(q["check"], f"check of {q['id']}", "exec"), space)


def test_each_check_asserts():
    assert [q["id"] for q in QUESTIONS if "assert " not in q["check"]] == []


def test_thirty_sound_questions():
    assert len(QUESTIONS) == 30 and quiz.faults(QUESTIONS) == []


def test_every_chapter_is_asked_about():
    pages = [Path(f).name for f in execute.chapters_in_toc(ROOT)]
    chapters = {p for p in pages if p[:2].isdigit()}
    assert chapters <= {q["chapter"] for q in QUESTIONS} <= {*pages}


def test_every_place_is_there():
    known = {}
    for q in QUESTIONS:
        for c in q["choice"]:
            page, heading = concordance.place(c["see"])
            if page not in known:
                known[page] = {*map(concordance.plain, concordance.headings(concordance.page(ROOT / "nbs", page)))}
            assert concordance.plain(heading) in known[page], f"{q['id']}: {c['see']}"


def right(q):
    return next(i for i, c in enumerate(q["choice"]) if c.get("right"))


def test_no_place_and_no_length_gives_the_answer_away():
    places = [right(q) for q in QUESTIONS]
    assert all(5 <= places.count(i) <= 10 for i in range(4)), places
    assert not any(len({*places[i : i + 4]}) == 1 for i in range(len(places))[:-3]), "four alike in a row"
    ends = []
    for q in QUESTIONS:
        sizes = sorted((len(c["say"]), bool(c.get("right"))) for c in q["choice"])
        ends += ["shortest"] * (sizes[0][1] and sizes[0][0] < sizes[1][0])
        ends += ["longest"] * (sizes[-1][1] and sizes[-1][0] > sizes[-2][0])
    assert ends.count("longest") <= 10 and ends.count("shortest") <= 10, ends


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda q: q["choice"][right(q)].pop("right"), "0 right answers"),
        (lambda q: [c.update(right=True) for c in q["choice"]], "right answers"),
        (lambda q: q["choice"].pop(), "2 choices"),
        (lambda q: q["choice"][0].update(why=q["choice"][1]["why"]), "two choices have the same why"),
        (lambda q: q["choice"][0].update(see=" "), "a choice has no see"),
        (lambda q: q.pop("check"), "has no check"),
    ],
)
def test_faults_are_seen(change, said):
    q = copy.deepcopy(next(q for q in QUESTIONS if len(q["choice"]) == 3))
    change(q)
    assert said in " ".join(quiz.faults([q]))
    assert "stands twice" in " ".join(quiz.faults([q, q]))


def test_text_is_marked_up_and_escaped():
    assert quiz.inline("a < b, `x < y`\nand *c*") == "a &lt; b, <code>x &lt; y</code> and <em>c</em>"


TOML = """
[[question]]
id = "one"
chapter = "01_one"
ask = "Is 1 < 2?"
check = "assert 1 < 2"
[[question.choice]]
say = "`no`"
why = "Count."
see = "01_one # One"
[[question.choice]]
right = true
say = "Yes"
why = "Counted."
see = "01_one # One"
[[question.choice]]
say = "Sometimes"
why = "Always."
see = "01_one # One"
"""
ASKS = "# Asks\n\n<!-- questions --> question.\n\n```{quiz}\n```\n"


def asked(tmp_path, toml):
    return book(tmp_path, files={"book/nbs/quiz.toml": toml, "book/nbs/asks.md": ASKS})


def test_the_page(tmp_path):
    status, warnings, pages = asked(tmp_path, TOML)
    assert status == 0, warnings
    html = pages["nbs/asks.html"]
    assert "<p>1 question.</p>" in html and "Is 1 &lt; 2?" in html and "<code>no</code>" in html
    assert html.count('type="radio"') == 3 and html.count("data-right") == 1
    assert re.search(r'Counted\. <a href="01_one\.html#?[^"]*">One: One</a>', html)
    assert [name for name, text in pages.items() if "quiz.js" in text or "quiz.css" in text] == ["nbs/asks.html"]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('Count."\nsee = "01_one # One', 'Count."\nsee = "01_one # Two', "quiz: no heading 'Two' in nbs/01_one"),
        ('chapter = "01_one', 'chapter = "02_two', "quiz: one: there is no page nbs/02_two"),
        ("right = true", "", "quiz: one has 0 right answers"),
    ],
)
def test_a_quiz_that_does_not_fit_the_book_fails_the_build(tmp_path, old, new, said):
    assert TOML.count(old) == 1
    status, warnings, _ = asked(tmp_path, TOML.replace(old, new))
    assert status and said in warnings
