"""The live parts: their data come from a cell of the page, their scripts are small, a picture stands in for them."""

import json
import re

import live
import nbformat
import pytest
from test_ext import book, code, picture, text

ASSETS = ["live.js", "matching.js", "matching_page.js", "position.js", "position_page.js"]
DATA = dict(live="matching", presets=[dict(key="one", name="One </script>")], classes=["nothing", "ellipse"])


def page(tmp_path, directive="{live} matching", data=DATA):
    output = {"output_type": "display_data", "metadata": {}, "data": {"application/json": data, "text/plain": "x"}}
    cells = [
        text("# One"),
        code("plot()", "aaaa0001", [picture(), output], mystnb={"image": {"alt": "dots", "classes": "live-still"}}),
        text(f"Predict.\n\n```{directive}\n```"),
    ]
    return book(tmp_path, cells, module="")


def test_the_page_holds_its_data_and_its_scripts(tmp_path):
    status, warnings, pages = page(tmp_path)
    assert status == 0, warnings
    html = pages["nbs/01_one.html"]
    inside = re.search(r'<script type="application/json" class="live-data">(.*?)</script>', html, re.S)[1]
    assert json.loads(inside) == DATA
    assert 'data-preset="one"' in html and '<option value="1">ellipse</option>' in html
    order = re.findall(r'<script [^>]*src="[^"]*?([\w.]+\.js)\b', html)
    assert [s for s in order if s in ASSETS] == ["live.js", "matching.js", "matching_page.js"]
    assert [n for n, t in pages.items() if "live.js" in t or "live.css" in t] == ["nbs/01_one.html"]
    assert "live-still" in html


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(directive="{live} matchmaking"), "'matchmaking' is none of matching, position"),
        (dict(data=dict(calls=[])), "no cell of 01_one.ipynb has recorded live"),
        (dict(directive="{live} position"), "01_one.ipynb has recorded the data of matching"),
    ],
)
def test_what_does_not_fit_fails_the_build(tmp_path, change, said):
    status, warnings, _ = page(tmp_path, **change)
    assert status and said in warnings


def test_scripts_are_small_and_typed(root):
    for name in ASSETS:
        source = (root / "nbs/assets" / name).read_text("utf-8")
        assert len(source.encode()) < 15_000, name
        assert "@param" in source, name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source), f"{name} speaks of another host"


@pytest.mark.parametrize("chapter, name", [("06_matcher", "matching"), ("02_position", "position")])
def test_a_chapter_asks_draws_and_then_answers(root, chapter, name):
    cells = nbformat.read(root / f"nbs/{chapter}.ipynb", as_version=4).cells
    at = next(i for i, c in enumerate(cells) if f"```{{live}} {name}\n" in c.source)
    still = cells[at - 1]
    assert still.metadata.mystnb.image.classes == "live-still" and len(still.metadata.mystnb.image.alt) > 100
    before, after = cells[at].source.split(f"```{{live}} {name}\n```")
    assert "**Predict**" in before and after.strip()
    assert live.PARTS.keys() == {"matching", "position"}
