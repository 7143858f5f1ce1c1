"""The recap: its summary keeps its length, and the map of the model follows the code."""

import ast
import copy
import re

import concordance
import lint
import model_map
import nbdev_cells
import nbformat
import pytest
from test_ext import book, text

from detr_lit.detr import DETR

SIZES = [(96, 140), (64, 128)]


@pytest.fixture(scope="module")
def page(root):
    return nbformat.read(root / "nbs/recap.ipynb", as_version=4)


def summary(page):
    "The words of the box, as a reader counts them."
    text = "\n\n".join(c.source for c in page.cells if c.cell_type == "markdown")
    box = re.search(r"^```\{admonition\} To a colleague[^\n]*\n:class: summary\n(.*?)^```$", text, re.S | re.M)[1]
    return re.sub(r"[*]", "", re.sub(r"\{fact\}`[^`]*`", "500", box)).split()


def test_two_hundred_words_at_most(page):
    words = summary(page)
    assert 150 < len(words) <= 200
    text = " ".join(words)
    asked = [
        "anchor",
        "set",
        "object queries",
        "Hungarian",
        "exactly one",
        "500 epochs",
        "follow up",
    ]  # its five points
    assert [a for a in asked if a not in text] == []


def test_numbers_are_facts(page):
    assert lint.bare_numbers(" ".join(summary(page))) == []


@pytest.fixture(scope="module")
def use_once(page):
    "The page's own functions, run as they stand there."
    code = [nbdev_cells.split(c.source)[1] for c in page.cells if c.cell_type == "code"]
    wanted = ("import", "def shapes", "def record", "def use_once")
    space: dict = {}
    for source in code:
        if source.startswith(wanted):
            exec(compile(ast.parse(source), "recap", "exec"), space)
    return lambda **model: space["use_once"](DETR(5, **model).eval(), SIZES, [truth(3), truth(1)])


def truth(m):
    import torch

    return dict(labels=torch.arange(1, m + 1), boxes=torch.full((m, 4), 0.4))


TINY = dict(num_queries=7, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=48)
LINKS = dict.fromkeys(model_map.BOXES, "there.html#here")


@pytest.fixture(scope="module")
def trace(use_once):
    return use_once(**TINY, stride=16)


def test_the_map_shows_what_ran(trace, use_once):
    _, sizes = model_map.measure(trace)
    assert sizes == {"H": 96, "W": 140, "H′": 64, "W′": 128, "B": 2, "h": 6, "w": 9, "D": 32, "L": 54, "N": 7, "K+1": 6,
                     "layers": 2, "M": 3, "pairs": 8, "encoder": 1}  # fmt: skip
    other = use_once(**TINY | dict(d_model=48, num_queries=11, n_dec_layers=3), stride=32)
    _, sizes = model_map.measure(other)
    assert (sizes["D"], sizes["N"], sizes["layers"], sizes["L"], sizes["pairs"]) == (48, 11, 3, 15, 12)
    drawn = [model_map.map_html(t, LINKS) for t in (trace, other)]
    assert "54 tokens look at one another" in drawn[0] and "15 tokens look at one another" in drawn[1]
    assert "features: 2 by 32 by 6 by 9" in drawn[0] and "features: 2 by 48 by 3 by 5" in drawn[1]


def test_the_map_is_drawn_twice_with_all_boxes_and_tensors(trace):
    drawn = model_map.map_html(trace, LINKS)
    for name in ("wide", "narrow"):
        svg = re.search(rf'<svg class="map-{name}".*?</svg>', drawn, re.S)[0]
        assert {*re.findall(r'data-box="(\w+)"', svg)} == {*model_map.BOXES}
        assert svg.count('href="there.html#here"') == len(model_map.BOXES)
        shown = {*re.findall(r"<title>([\w ]+):", svg)}
        assert {"features", "memory", "logits", "boxes", "all logits", "objects", "queries"} - {"queries"} <= shown | {
            "× 2"
        }
    assert len(re.findall(r' id="([\w-]+)"', drawn)) == len({*re.findall(r' id="([\w-]+)"', drawn)})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: row(t, "Backbone.forward").update(name="Eyes.forward"), "called, and not on the map: Eyes.forward"),
        (lambda t: t["calls"].remove(row(t, "Slots.slots")), "Slots.slots, which no recorded call has: was it renamed"),
        (lambda t: row(t, "TransformerEncoder.forward").update(gives=[2, 54, 31]), "D of [B L D] is 32 elsewhere"),
        (lambda t: row(t, "TransformerEncoder.forward").update(gives=[2, 54]), "expects [B L D]"),
        (lambda t: row(t, "Backbone.forward").update(gives=[[2, 32, 6, 9]]), "is no shape"),
        (lambda t: row(t, "stack_layers").update(gives=None), "stack_layers has no gives.0 any more"),
        (lambda t: row(t, "TransformerDecoderLayer.forward").update(times=5), "a decoder layer has no answer"),
        (lambda t: t["calls"].append(dict(name="nms", by=None, times=1, takes={}, gives=None)), "not on the map: nms"),
    ],
)
def test_what_the_map_does_not_know_is_refused(trace, change, said):
    t = copy.deepcopy(trace)
    change(t)
    with pytest.raises(ValueError, match=re.escape(said)):
        model_map.map_html(t, LINKS)


def row(trace, name):
    return model_map.row(trace["calls"], name)


def test_each_box_leads_to_a_heading(root):
    for name, (step, at, _) in model_map.BOXES.items():
        page, heading = concordance.place(at)
        file = concordance.page(root / "nbs", page)
        assert file and concordance.plain(heading) in map(concordance.plain, concordance.headings(file)), name
        assert int(step) == int(page[:2])


def test_without_a_record_there_is_no_map(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "bare.ipynb")
    with pytest.raises(ValueError, match="no cell of bare.ipynb has recorded calls"):
        model_map.recorded(tmp_path / "bare.ipynb")


def test_a_page_without_a_record_fails_the_build(tmp_path):
    status, warnings, _ = book(tmp_path, [text("# One\n\n```{model-map}\n```")])
    assert status and "map of the model: no cell of 01_one.ipynb has recorded calls" in warnings
