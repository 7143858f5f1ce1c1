"""What a reader sees first: boxes that move as chapter 09 recorded them."""

import re
from xml.etree import ElementTree

import landing

DATA = dict(
    steps=[0, 1000],
    pictures=[dict(png="iVBO", objects=[[1, 200, 200, 100, 100], [2, 700, 700, 200, 100]])],
    tracks=[
        dict(
            name="all",
            frames=[[[100, 100, 100, 100, 90, 500, 500, 100, 100, 80, 700, 600, 100, 100, 70]],
                    [[205, 200, 110, 100, 990, 520, 500, 100, 100, 10, 700, 700, 200, 100, 980]]],
            who=[[[0, 2]], [[0, 2]]],
        )
    ],
)  # fmt: skip


def test_the_boxes_go_where_they_went():
    page = ElementTree.fromstring(landing.landing_html(DATA))
    moving, still = page.findall(".//svg")
    assert moving.get("class") == "landing-moving" and still.get("class") == "landing-still"
    assert not still.findall(".//animate") and "once more" not in "".join(still.itertext())
    rects = moving.findall("rect")
    assert [r.get("stroke") for r in rects] == ["#9a9a9a", landing.COLOURS[0], landing.COLOURS[2]]  # found ones on top
    first = {a.get("attributeName"): a.get("values") for a in rects[1].findall("animate")}
    assert first == {"x": "50;150", "y": "50;150", "width": "100;110", "stroke-opacity": "0.32;0.99"}  # the height stays
    assert [rects[1].get(k) for k in ("x", "y", "width", "height")] == ["150", "150", "110", "100"]
    assert [r.attrib for r in still.findall("rect")] == [r.attrib for r in rects]
    assert "Three queries learn to answer for two shapes: 1000 steps" in "".join(page.itertext())
    assert all("2" not in s.get("aria-label") and "two" in s.get("aria-label") for s in (moving, still))


def test_nothing_moves_for_long():
    "What moves by itself for more than five seconds needs a button to stop it (WCAG 2.2.2)."
    page = landing.landing_html(DATA)
    assert {*re.findall(r'dur="(\d+)s"', page)} == {"5"} and not re.search("indefinite|repeat", page)
