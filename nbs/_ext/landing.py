"""```{landing}```: what a reader sees first. A training of chapter 09 in five seconds, one sentence, and three ways on.

The picture is an SVG whose boxes move by themselves, without a script: their places are those that chapter 09 recorded. Who
asked the system for less motion, and paper, get its last frame.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from model_map import recorded
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
COLOURS = "#2f93d1", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"  # as in live.css, on black
SECONDS = 5
WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 16: "sixteen"}
ALT = "{Queries} boxes over a black picture with {n} shapes: {n} of them move until each frames a shape, the others fade."
SCENE = """<svg class="{kind}" viewBox="0 0 1000 1000" role="{role}" aria-label="{alt}"><image width="1000" height="1000"
href="data:image/png;base64,{png}"/>{boxes}{again}</svg>"""
AGAIN = """<a id="again" href="#again" aria-label="Once more"><rect x="690" y="915" width="300" height="75" rx="37"/>
<text x="840" y="966">once more</text></a>"""
PAGE = """<div class="landing"><div class="landing-picture">{moving}{still}</div><div class="landing-words">
<p class="landing-say">{Queries} queries learn to answer for {n} shapes: {steps} steps of training, in five seconds.</p>
<p class="landing-more">You build this detector, line by line, and every line is explained, run and tested on the page.</p>
<p class="landing-ways"><a class="landing-first" href="why_detr.html">Start reading</a> <a href="#try-it">Draw, and it answers</a>
<a href="#install-it-run-it-change-it">Run it yourself</a></p></div></div>"""


def moves(attribute: str, values: list) -> str:
    "An attribute that goes through these values once, and once more when asked."
    if len(set(values)) == 1:
        return ""
    return (
        f'<animate attributeName="{attribute}" values="{";".join(map(str, values))}" dur="{SECONDS}s" begin="0s;again.click"'
        ' fill="freeze"/>'
    )


def boxes(frames: list[list[int]], found: list[int], moving: bool) -> str:
    "Frames of five numbers a query (cx, cy, w, h, how sure it is of an object; in thousandths) -> rectangles, the found on top."
    out = []
    for q in sorted(range(len(frames[0]) // 5), key=lambda q: q in found):
        rows = [f[5 * q : 5 * q + 5] for f in frames]
        tracks = {
            "x": [round(cx - w / 2) for cx, _, w, _, _ in rows],
            "y": [round(cy - h / 2) for _, cy, _, h, _ in rows],
            "width": [r[2] for r in rows],
            "height": [r[3] for r in rows],
            "stroke-opacity": [round(0.25 + 0.75 * r[4] / 1000, 2) for r in rows],
        }
        last = " ".join(f'{k}="{v[-1]}"' for k, v in tracks.items())
        colour, thick = (COLOURS[q % 6], 9) if q in found else ("#9a9a9a", 4)
        inside = "".join(moves(k, v) for k, v in tracks.items()) if moving else ""
        out.append(f'<rect {last} fill="none" stroke="{colour}" stroke-width="{thick}">{inside}</rect>')
    return "".join(out)


def landing_html(data: dict) -> str:
    "The first picture and the first track of what chapter 09 recorded for its live part."
    track, picture = data["tracks"][0], data["pictures"][0]
    frames, found = [f[0] for f in track["frames"]], track["who"][-1][0]
    n, queries = (WORDS.get(k, str(k)) for k in (len(picture["objects"]), len(frames[0]) // 5))
    said = {"n": n, "Queries": queries.capitalize()}
    scene = {"alt": ALT.format(**said), "png": picture["png"]}
    return PAGE.format(
        **said,
        steps=data["steps"][-1],
        moving=SCENE.format(kind="landing-moving", role="group", boxes=boxes(frames, found, True), again=AGAIN, **scene),
        still=SCENE.format(kind="landing-still", role="img", boxes=boxes(frames, found, False), again="", **scene),
    )


class Landing(SphinxDirective):
    def run(self):
        notebook = Path(self.env.srcdir, "nbs", "09_train.ipynb")
        self.env.note_dependency(str(notebook))
        try:
            return [nodes.raw("", landing_html(recorded(notebook, "live")), format="html")]
        except (ValueError, FileNotFoundError) as e:
            logger.warning("landing: %s", e, location=self.get_location(), type="book", subtype="landing")
            return []


def setup(app):
    app.add_directive("landing", Landing)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
