"""Parts of a chapter that answer at once: ```{live} matching``` in 06, `position` in 02, `training` in 09, `detector` in 10,
`nms` in why_detr, `trees` in 16.

The HTML stands here, its data in the output of a cell of the chapter: a JSON object `{"live": "matching", ...}`. A
picture of the same cell, with the class `live-still`, stands there for print and for browsers without scripts.
`nbs/assets/NAME.js` holds the mathematics and the state, which the address keeps; `NAME_page.js` does the rest. Two of them run
a model in the page (`detector.py`); what these share is in `detect.js`.
"""

from __future__ import annotations

import json
from pathlib import Path

import detector as model
from docutils import nodes
from model_map import recorded
from nbdev_cells import assets_where
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


def slider(name: str, label: str, low: float, high: float, step: float, kind: str = "name") -> str:
    return (
        f'<label class="live-slider"><span>{label}</span><input type="range" {kind}="{name}" min="{low}" max="{high}"'
        f' step="{step}"><output></output></label>'
    )


def number(attributes: str, label: str, low: float, high: float, step: float) -> str:
    return (
        f'<label class="live-number"><span>{label}</span><input type="number" {attributes} min="{low}" max="{high}"'
        f' step="{step}" inputmode="decimal" required></label>'
    )


def choice(name: str, legend: str, options: dict[str, str]) -> str:
    radios = "".join(f'<label><input type="radio" name="{name}" value="{k}">{v}</label>' for k, v in options.items())
    return f'<fieldset class="live-choice"><legend>{legend}</legend>{radios}</fieldset>'


def presets(buttons: dict[str, str]) -> str:
    row = "".join(f'<button type="button" data-preset="{k}">{v}</button>' for k, v in buttons.items())
    return f'<div class="live-presets" role="group" aria-label="Examples">{row}</div>'


SCENE = """<div class="live-scene"><p class="live-rule">{title}<span class="live-total">total <b class="live-sum"></b></span></p>
<svg viewBox="0 0 1000 850" role="{role}" aria-label="{label}"></svg><p class="live-rest"></p></div>"""
RULES = """<span class="live-mark live-greedy" aria-hidden="true"></span>
<label><span class="live-sr">Matched by </span><select name="rule">
<option value="pairs">cheapest pair first</option><option value="favourites">each object’s favourite</option></select></label>"""
BEST = '<span class="live-mark live-best" aria-hidden="true"></span><span>best total, one to one</span>'


def matching(data: dict) -> str:
    buttons = presets({p["key"]: p["name"] for p in data["presets"]})
    classes = "".join(f'<option value="{i}">{c}</option>' for i, c in enumerate(data["classes"]))
    left = SCENE.format(title=RULES, role="group", label="The picture: predictions and objects")
    right = SCENE.format(title=BEST, role="img", label="Best total")
    sides = ("centre x", "centre y", "width", "height")
    numbers = "".join(number(f'data-side="{i}"', side, 0, 1, 0.01) for i, side in enumerate(sides))
    labels = ("class, −p", "L1", "1 − GIoU")
    weights = "".join(slider(str(i), label, 0, 10, 0.5, "data-weight") for i, label in enumerate(labels))
    return f"""{buttons}<p class="live-hint"></p>
<div class="live-scenes">{left}{right}</div>
<p class="live-said" role="status"></p>
<div class="live-thing-bar" role="group" aria-label="The chosen box"><b class="live-who"></b>
<label class="live-number"><span>class</span><select name="class">{classes}</select></label>
{slider("prob", "probability", 0, 1, 0.01)}{numbers}</div>
<p class="live-help" id="live-keys">Drag a box, or the corner of the chosen one. Arrow keys move it, with Shift they resize it.
A dashed frame is left over: it will be taught “no object”.</p>
<div class="live-weights" role="group" aria-label="Weights of the three terms">{weights}</div>
<table class="live-table"><caption>Cost of each pair, and its three terms: class + L1 + GIoU</caption>
<thead><tr></tr></thead><tbody></tbody></table>"""


MAP = """<div class="live-map"{focus}><p class="live-title"><b>{name}</b> <span class="live-width"></span></p>
<div class="live-square"><div class="live-cells"><canvas width="1" height="1"></canvas>{known}
<i class="live-best"></i><i class="live-here"></i></div></div>
<p class="live-scale" aria-hidden="true"><span>0</span><i></i><span class="live-top"></span></p>
<dl><dt>most alike</dt><dd class="live-most"></dd><dt class="live-near-word"></dt><dd class="live-near"></dd></dl></div>"""


def position(data: dict) -> str:
    size = f"{data['size']} by {data['size']}"
    buttons = presets({"paper": "The paper’s temperature", "sharp": "A temperature of 20", "larger": "A size never trained"})
    focus = ' tabindex="0" role="application" aria-roledescription="map of cells" aria-describedby="live-keys"'
    left = MAP.format(name="Sine", focus=focus, known="")
    right = MAP.format(name="Learned", focus="", known='<i class="live-known"></i>')
    sliders = "".join(
        (
            slider("T", "temperature", 0, 4, 0.05),
            slider("d", "width d", 0, 5, 1),
            slider("rows", "rows", 4, 34, 1),
            slider("cols", "columns", 4, 34, 1),
        )
    )
    place = number('name="row"', "at row", 1, 34, 1) + number('name="col"', "at column", 1, 34, 1)
    choices = (
        choice("measure", "Compare by", {"cosine": "cosine", "dot": "dot product"})
        + choice("ask", "Ask with the code of", {"cell": "the cell itself", "trained": f"the same place on {size}"})
        + choice("table", "The learned table", {"trained": f"trained on {size}", "start": "before training"})
    )
    return f"""{buttons}
<div class="live-maps">{left}{right}</div>
<p class="live-said live-sr" role="status"></p>
<div class="live-sliders">{sliders}<div class="live-place" role="group" aria-label="The cell that asks">{place}</div></div>
<div class="live-choices">{choices}</div>
<p class="live-help" id="live-keys">Point at a cell, or move over the left map with the arrow keys. Ring: the cell that asks.
Cross: the cell most like it. Dashed: the rows and columns that training reached.</p>"""


GLOW = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10],
        [249, 201, 50], [252, 255, 164]]  # matplotlib's inferno, in eighths # fmt: skip
BOX = '<svg viewBox="0 0 128 128" aria-hidden="true">{inside}</svg>'
ASKS = '<g class="live-asks"{more}><path d="M-8 0h5M3 0h5M0-8v5M0 3v5M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0"/></g>'
TILE = '<button type="button" class="live-tile" {attributes} disabled><canvas width="64" height="64"></canvas>{inside}</button>'


def wait(text: str, data: dict) -> str:
    "What stands in a model's place until it is loaded; it says how much there is to load."
    size = data["download"]
    return f"""<div class="live-wait"><p class="live-wait-text">{text}</p>
<button type="button" class="live-go">Load the model, {size:.1f} MB</button>
<progress max="{size:.3f}" value="0" aria-label="Loading the model" hidden></progress></div>"""


def detector(data: dict) -> str:
    buttons = presets({p["key"]: p["name"] for p in data["presets"]})
    kinds = "".join(f'<option value="{i}">{c}</option>' for i, c in enumerate(data["classes"]))
    colours = "".join(
        f'<label style="--c: rgb({" ".join(str(round(255 * x)) for x in rgb)})"><input type="radio" name="colour" value="{i}"'
        f' aria-label="{name}"></label>'
        for i, (name, rgb) in enumerate(data["colours"])
    )
    heads = ""
    for layer in range(data["layers"]):
        heads += f'<span class="live-row">{layer + 1}</span>'
        for head in range(data["heads"] + 1):
            name = f"Layer {layer + 1}, {f'head {head}' if head else 'mean of the heads'}"
            heads += TILE.format(attributes=f'data-layer="{layer}" data-head="{head}" aria-label="{name}"', inside="")
    plain, look = BOX.format(inside=""), BOX.format(inside="<g></g>" + ASKS.format(more=""))
    asks = ASKS.format(more=' tabindex="0" role="button" aria-describedby="live-keys"')
    columns = "".join(f"<span>{h}</span>" for h in ("", "mean", *range(1, data["heads"] + 1)))
    queries = "".join(
        TILE.format(attributes=f'data-query="{q}"', inside=f"{plain}<span><b>{q}</b> <span>–</span></span>")
        for q in range(data["queries"])
    )
    shows = choice("show", "Show", {"query": "a query’s view", "cell": "an encoder cell’s view"})
    return f"""{buttons}<p class="live-hint"></p>
<div class="live-panes"><div class="live-left">
<p class="live-title"><b>Your picture</b><span class="live-time" aria-hidden="true"></span></p>
<div class="live-picture"><canvas width="128" height="128"></canvas>
<svg viewBox="0 0 128 128" role="group" aria-label="Your picture: shapes, answers, and the cell that asks">
<g></g><g></g>{asks}</svg></div>
<p class="live-said" role="status"></p>
<div class="live-tools" role="group" aria-label="The chosen shape"><b class="live-who"></b>
<label><span class="live-sr">Kind</span><select name="kind">{kinds}</select></label>
<button type="button" class="live-add">Add</button><button type="button" class="live-remove">Delete</button>
<div class="live-colours" role="radiogroup" aria-label="Colour">{colours}</div></div>
{slider("threshold", "threshold", 0, 0.95, 0.05)}
<p class="live-help" id="live-keys">Drag on empty ground: a new shape. Drag a shape to move it, the chosen one’s corner to
resize it. Click on empty ground: a cell asks. Keys: arrows move, with Shift they resize, Delete removes.</p></div>
<div class="live-right">{shows}
<div class="live-look"><canvas width="256" height="256" role="img" aria-label="What was read, over the picture"
aria-describedby="live-read"></canvas>{look}
{wait("The model of this book runs in your browser. What you draw stays here.", data)}</div>
<p class="live-caption" id="live-read"><b class="live-asked"></b> <span class="live-most"></span></p>
<div class="live-heads" role="group" aria-label="Layers and heads">{columns}{heads}</div></div></div>
<p class="live-title live-all"><b>All {data["queries"]} queries</b> <span>last layer, mean of the heads</span></p>
<div class="live-queries" role="group" aria-label="All queries">{queries}</div>"""


TRACK = """<div class="live-track"><p class="live-title"><i class="live-key live-{n}"></i><b>{name}</b></p>
<svg viewBox="0 0 1000 1000" role="img" aria-label="{name}"><image width="1000" height="1000"/><g></g></svg>
<table class="live-pairs"><thead><tr><th>query</th><th>object</th><th>IoU</th><th>sure</th></tr></thead><tbody>{rows}</tbody>
<tfoot><tr><td></td><td>mean</td><td class="live-fit"></td><td></td></tr></tfoot></table></div>"""
PAIR = "<tr><td><span></span><b></b></td><td></td><td></td><td></td></tr>"
CURVE = """<div class="live-curve"><p>{name}</p>
<p><i class="live-key live-0"></i><b></b><i class="live-key live-1"></i><b></b></p>
<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><polyline class="live-0"/><polyline class="live-1"/>
<line y1="0" y2="40"/></svg></div>"""


def training(data: dict) -> str:
    buttons = presets({str(i): f"Picture {i + 1}" for i in range(len(data["pictures"]))})
    rows = PAIR * max(len(p["objects"]) for p in data["pictures"])
    tracks = "".join(TRACK.format(n=n, name=t["name"], rows=rows) for n, t in enumerate(data["tracks"]))
    curves = "".join(CURVE.format(name=name) for name in data["curves"])
    return f"""{buttons}
<div class="live-tracks">{tracks}</div>
<div class="live-player"><button type="button" class="live-play">Play</button>
{slider("step", "step", 0, len(data["steps"]) - 1, 1, 'aria-describedby="live-keys" name')}</div>
<p class="live-said live-sr" role="status"></p>
<div class="live-curves" role="group" aria-label="Means over {data["count"]} pictures">{curves}</div>
<p class="live-help" id="live-keys">Drag the slider or a curve; arrow keys go frame by frame. Coloured: the queries that are
matched at this step, each tied to its object. Grey: the others. The surer a query is that there is an object, the thicker
its frame. Curves: {data["count"]} pictures; early steps are given more room.</p>"""


SIDE = """<div class="live-map"><p class="live-title"><b>{name}</b></p>
<div class="live-look"><svg viewBox="0 0 128 128" role="img" aria-label="{name}"><image width="128" height="128"/><g></g>
</svg></div>
<dl><dt class="live-precision">precision</dt><dd><b></b> <span></span></dd>
<dt class="live-recall">recall</dt><dd><b></b> <span></span></dd></dl>
<div class="live-plot"><span aria-hidden="true">1</span><span aria-hidden="true">0</span>
<svg class="live-chart" viewBox="0 0 85 100" preserveAspectRatio="none" role="img" aria-label="{curve}">
<path class="live-grid" d="M0 0H85M0 50H85M0 100H85"/><path class="live-precision"/><path class="live-recall"/>
<line y1="-4" y2="104"/></svg></div>
<p class="live-axis" aria-hidden="true">{axis}</p></div>"""


def nms(data: dict) -> str:
    buttons = presets({p["key"]: p["name"] for p in data["pictures"]})
    left = SIDE.format(
        name="RetinaNet, with NMS",
        curve="Precision and recall of RetinaNet against the threshold of NMS",
        axis="<span>0.10</span><span>threshold</span><span>0.95</span>",
    )
    right = SIDE.format(
        name="DETR, no NMS",
        curve="Precision and recall of DETR: two level lines",
        axis="<span></span><span>no such threshold</span><span></span>",
    )
    sliders = slider("threshold", "NMS threshold", 0.1, 0.95, 0.01) + slider("score", "score, at least", 0.05, 0.95, 0.05)
    classes = "".join(f'<b class="live-chip live-class-{i}">{c}</b> ' for i, c in enumerate(data["classes"], 1))
    marks = {"hit": "hits an object", "again": "said twice, or wrong", "gone": "deleted",
             "lost": "deleted, but the best box of an object that nothing hits now"}  # fmt: skip
    key = "".join(f'<span><i data-kind="{k}"></i> {v}</span> ' for k, v in marks.items())
    return f"""{buttons}
<div class="live-sliders">{sliders}</div>
<p class="live-said" role="status"></p>
<div class="live-maps">{left}{right}</div>
<p class="live-help live-legend">{key}<span>{classes}</span></p>"""


KINDS = {"hit": "finds a tree that people drew", "again": "a second box, or no tree of theirs",
         "missed": "a tree of theirs, not found"}  # fmt: skip
STAYS = "The model of this chapter runs in your browser. Your photograph stays here."


def trees(data: dict) -> str:
    key = "".join(f'<span><i data-kind="{k}"></i> {v}</span> ' for k, v in KINDS.items())
    sliders = slider("side", "window’s side", 104, 416, 8) + slider("score", "score, at least", 0.5, 0.95, 0.05)
    return f"""<div class="live-presets">
<button type="button" data-preset="sample" aria-pressed="true">The book’s photograph</button>
<label class="live-file"><input type="file" accept="image/*">A photograph of your own</label></div><p class="live-hint"></p>
<div class="live-air"><div><p class="live-title"><b>The photograph</b></p>
<div class="live-photo"><canvas width="{data["width"]}" height="{data["height"]}"></canvas>
<svg viewBox="0 0 {data["width"]} {data["height"]}" role="group" aria-label="The photograph, its window, and the boxes">
<g></g><g tabindex="0" role="button" aria-describedby="live-keys"><rect class="live-hit"/><rect class="live-edge"/></g>
</svg></div></div>
<div><p class="live-title"><b>What the model sees</b><span class="live-time" aria-hidden="true"></span></p>
<div class="live-look"><canvas width="160" height="160" role="img" aria-label="What the model sees"></canvas>
<svg viewBox="0 0 160 160" aria-hidden="true"><g></g></svg>{wait(STAYS, data)}</div></div></div>
<p class="live-said" role="status"></p>
<div class="live-sliders">{sliders}</div>
<p class="live-help live-legend">{key}</p>
<p class="live-help" id="live-keys">Drag the window, or click where it shall be. Arrow keys move it by eight
pixels, with Shift by one. Whatever its side, the model sees 160 × 160 pixels.</p>"""


PARTS = {"matching": matching, "position": position, "training": training, "detector": detector, "nms": nms, "trees": trees}
MODELS = {"detector": "toy", "trees": "trees"}  # which model a part loads


def live_html(name: str, data: dict) -> str:
    inside = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return f"""<div class="live" data-live="{name}"><script type="application/json" class="live-data">{inside}</script>
<noscript><p>This part answers at once where scripts are on; the picture above shows what it is about.</p></noscript>
<div class="live-app">{PARTS[name](data)}</div></div>"""


class Live(SphinxDirective):
    "The part's name and, where another page's cell has recorded its data, that page's."
    required_arguments, optional_arguments = 1, 1

    def run(self):
        name, page = (*self.arguments, Path(self.env.docname).name)[:2]
        notebook = Path(self.env.srcdir, self.env.docname).with_name(f"{page}.ipynb")
        try:
            if name not in PARTS:
                raise ValueError(f"{name!r} is none of {', '.join(PARTS)}")
            self.env.note_dependency(str(notebook))
            data = recorded(notebook, "live")
            if data["live"] != name:
                raise ValueError(f"{notebook.name} has recorded the data of {data['live']}")
            if name == "detector":
                data["glow"] = GLOW
            if name in MODELS:
                data["download"] = model.download(Path(self.env.srcdir).parents[1], MODELS[name])
            return [nodes.raw("", live_html(name, data), format="html")]
        except ValueError as e:
            logger.warning("live part: %s", e, location=self.get_location(), type="book", subtype="live")
            return []


def setup(app):
    app.setup_extension("nbdev_cells")
    app.add_directive("live", Live)
    for name in PARTS:
        mark = f'data-live="{name}"'
        app.connect("html-page-context", assets_where(mark, "live.css", "live.js"))
        shared = ["detect.js"] if name in MODELS else []
        for script in (*shared, f"{name}.js", f"{name}_page.js"):
            app.connect("html-page-context", assets_where(mark, "live.css", script))
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
