"""The whole model on one page: ```{model-map}``` draws the calls that a cell of the same page has recorded.

The cell's output holds them as JSON: `calls`, a row for each function with who called it, how often, and the shapes of
what it took and gave; `params`, the numbers in each part of the model. `TENSORS` says where in these rows the map finds
its shapes, and gives every size a symbol: a symbol that would stand for two sizes, a call that is gone, and a call that
the map knows nothing of are warnings, so errors of the build. The drawing is SVG, once for wide pages, once for phones.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import nbformat
from concordance import heading_link
from docutils import nodes
from nbdev_cells import assets_where
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

# name: (call, path in its row, symbols). The symbols are the book's; small h and w are cells of the feature map.
TENSORS = {
    "photo": ("pad_images", "takes.images.0", "3 H W"),
    "smaller": ("pad_images", "takes.images.1", "3 H′ W′"),
    "batch": ("pad_images", "gives.0", "B 3 H W"),
    "mask": ("pad_images", "gives.1", "B H W"),
    "normalised": ("Normalize.forward", "gives", "B 3 H W"),
    "features": ("Backbone.forward", "gives", "B D h w"),
    "cells": ("shrink_mask", "gives", "B h w"),
    "code": ("PositionalEncoding2D.forward", "gives", "B D h w"),
    "tokens": ("TransformerEncoder.forward", "takes.x", "B L D"),
    "pos": ("TransformerEncoder.forward", "takes.pos", "B L D"),
    "hidden": ("TransformerEncoder.forward", "takes.mask", "B L"),
    "memory": ("TransformerEncoder.forward", "gives", "B L D"),
    "read": ("TransformerDecoder.forward", "takes.memory", "B L D"),
    "queries": ("Slots.slots", "gives.1", "B N D"),
    "slots": ("TransformerDecoder.forward", "gives.0", "B N D"),
    "logits": ("DetrPredictionHeads.forward", "gives.0", "B N K+1"),
    "boxes": ("DetrPredictionHeads.forward", "gives.1", "B N 4"),
    "answers": ("ImageToSet.forward", "gives.pred_boxes", "B N 4"),
    "found": ("postprocess", "gives.0.boxes", "N 4"),
    "all logits": ("stack_layers", "gives.0", "layers B N K+1"),
    "all boxes": ("stack_layers", "gives.1", "layers B N 4"),
    "labels": ("HungarianMatcher.forward", "takes.targets.0.labels", "M"),
    "objects": ("HungarianMatcher.forward", "takes.targets.0.boxes", "M 4"),
    "cost": ("HungarianMatcher.cost", "gives", "layers N M"),
    "pair": ("HungarianMatcher.forward", "gives.0.0", "M"),
    "matched": ("box_losses", "takes.mine", "pairs 4"),
    "terms": ("layer_terms", "gives.loss_class", "layers"),
    "total": ("DetrLoss.forward", "gives.total", ""),
}
LAYERS = {"encoder": "TransformerEncoderLayer.forward", "layers": "TransformerDecoderLayer.forward"}
ALSO = {  # calls that a box stands for, or that the map leaves out on purpose
    "as_batch", "ImageToSet.features", "ImageToSet.transform", "ImageToSet.decode", "BoxedQueries.decode", "cell_centres",
    "PositionalEncoding2D.waves", "NormPlace.before", "NormPlace.after", "TransformerEncoderLayer.attend",
    "TransformerDecoderLayer.ask_each_other", "alike", "pairwise_giou", "gather_pairs", "count_objects", "processes", "shared",
    "class_part", "class_loss",
}  # fmt: skip
BOXES = {  # name: (the step's number, where the book builds it, title)
    "images": ("0", "00_data # Images of unequal size", "Images"),
    "mask": ("8", "08_detr # What may come in", "The mask"),
    "backbone": ("1", "01_backbone # The module", "Backbone"),
    "positions": ("2", "02_position # The code of one cell, by hand (section 3.2, appendix A.4)", "Positions"),
    "encoder": ("3", "03_encoder # The stack", "Encoder"),
    "queries": ("4", "04_decoder # Object queries (section 3.2)", "Queries"),
    "decoder": ("4", "04_decoder # The stack: an answer after every layer (section 3.2)", "Decoder"),
    "heads": ("5", "05_heads # The two heads", "Heads"),
    "answers": ("8", "08_detr # DETR", "A set of answers"),
    "predict": ("10", "10_inference # Predict", "Detections"),
    "truth": ("0", "00_data # One example, written by hand", "The truth"),
    "stack": ("7", '07_loss # Every decoder layer (section 3.2, "Auxiliary decoding losses")', "All layers"),
    "matcher": ("6", "06_matcher # The module", "Matcher"),
    "loss": ("7", "07_loss # The module", "Set loss"),
}


# ---------------------------------------------------------------- what was recorded
def row(calls: list[dict], name: str) -> dict:
    "The first call of a function; ValueError if it was never called."
    for c in calls:
        if c["name"] == name:
            return c
    raise ValueError(f"the map shows {name}, which no recorded call has: was it renamed?")


def shape(calls: list[dict], name: str, path: str) -> list[int]:
    "'gives.0' of a call: the shape that stands there."
    here = row(calls, name)
    for key in path.split("."):
        try:
            here = here[int(key) if key.isdigit() else key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{name} has no {path} any more: {here}") from None
    if not isinstance(here, list) or not all(isinstance(n, int) for n in here):
        raise ValueError(f"{path} of {name} is no shape: {here}")
    return here


def measure(trace: dict) -> tuple[dict[str, list[tuple[str, int]]], dict[str, int]]:
    "Every tensor of the map as (symbol, size) pairs, and all symbols' sizes. ValueError where the map and the run differ."
    calls, sizes, dims = trace["calls"], {}, {}
    known = {call for call, *_ in TENSORS.values()} | {*LAYERS.values()} | ALSO
    if new := [c["name"] for c in calls if c["name"] not in known]:
        raise ValueError(f"called, and not on the map: {', '.join(dict.fromkeys(new))}")
    for name, (call, path, symbols) in TENSORS.items():
        found, wanted = shape(calls, call, path), symbols.split()
        if len(found) != len(wanted):
            raise ValueError(f"{name} is {found}; the map expects [{symbols}]")
        for symbol, size in zip(wanted, found):
            fixed = int(symbol) if symbol.isdigit() else sizes.setdefault(symbol, size)
            if fixed != size:
                raise ValueError(f"{name} is {found}; {symbol} of [{symbols}] is {fixed} elsewhere")
        dims[name] = [*zip(wanted, found)]
    sizes |= {k: row(calls, call)["times"] for k, call in LAYERS.items() if k != "layers"}
    if sizes["L"] != sizes["h"] * sizes["w"] or sizes["layers"] != row(calls, LAYERS["layers"])["times"]:
        raise ValueError(f"L is not h times w, or a decoder layer has no answer: {sizes}")
    return dims, sizes


# ---------------------------------------------------------------- drawing
def dot(x: int, y: int, r: int = 2) -> str:
    "A circle, as a path."
    return f"M{x - r} {y}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 -{2 * r} 0"


NINE = "".join(dot(x, y) for x in (5, 18, 31) for y in (5, 18, 31))
ENDS = "".join(dot(6, y) for y in (5, 14, 23, 32)) + "".join(dot(30, y) for y in (9, 18, 27))
ICONS = {  # on 36 x 36
    "images": "M2 6h22v18H2zM12 12h22v20H12zM26 12v20M26 18l8-6M26 25l8-8M27 32l7-7",
    "mask": "M3 7h30v22H3zM22 7v22M22 14l7-7M22 21l11-11M22 29l11-11M29 29l4-4",
    "backbone": "M2 4h9v28H2zM15 9h8v18h-8zM27 14h7v8h-7zM11 4l4 5M11 32l4-5M23 9l4 5M23 27l4-5",
    "positions": "M2 12c4-12 8-12 12 0s8 12 12 0 6-10 8-6M2 28c8-10 16-10 24 0 3 3 6 3 8 0",
    "encoder": "M18 18L7 7M18 16V7M18 18L29 7M16 18H7M20 18h9M18 18L7 29M18 20v9M18 18l11 11" + NINE,
    "queries": dot(9, 18, 6) + dot(27, 10, 6) + dot(27, 27, 6),
    "decoder": "M3 5h8v6H3zM3 15h8v6H3zM3 25h8v6H3zM25 4h8v8h-8zM25 14h8v8h-8zM25 24h8v8h-8z"
    "M11 8h14M11 8l14 10M11 18l14-10M11 18l14 10M11 28h14",
    "heads": "M4 18h8M12 18l8-9M12 18l8 9M20 6h12M20 9h8M20 12h10M21 21h12v11H21z",
    "answers": "M3 4h13v11H3zM20 4h13v11H20zM3 20h13v11H3zM20 20h13v11H20z",
    "predict": "M2 4h32v28H2zM7 15h10v12H7zM21 9h9v9h-9z",
    "truth": "M2 4h32v28H2zM7 15h10v12H7zM21 9h9v9h-9z",
    "stack": "M18 4l15 7-15 7-15-7zM3 18l15 7 15-7M3 25l15 7 15-7",
    "matcher": "M8 5L28 9M8 14L28 27M8 23L28 18" + ENDS,
    "loss": "M3 5h19v17H3zM13 14h20v17H13z",
}
COLOURS = {"H′": "H", "W′": "H", "W": "H", "h": "h", "w": "h", "K+1": "K", "layers": "T", "pairs": "M"}
CHIP, GAP = 32, 3  # height of a chip, space between two


class Canvas:
    "SVG, collected: lines first, so that boxes lie on top of them."

    def __init__(self, name: str, width: int, trace: dict, links: dict[str, str]):
        self.name, self.width, self.links, self.params = name, width, links, trace["params"]
        self.dims, self.sizes = measure(trace)
        self.lines: list[str] = []
        self.shapes: list[str] = []

    def line(self, *points: tuple[float, float], kind: str = "there", arrow: bool = True) -> None:
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        end = f' marker-end="url(#{self.name}-{kind})"' if arrow else ""
        self.lines.append(f'<path class="map-line map-{kind}" d="{d}"{end}/>')

    def text(self, x: float, y: float, words: str, kind: str = "note", anchor: str = "start") -> None:
        self.shapes.append(
            f'<text class="map-{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words, quote=False)}</text>'
        )

    @staticmethod
    def chip_width(symbol: str, size: int) -> float:
        return max(22, 7.6 * len(str(size)) + 11, 5.6 * len(symbol) + 11)

    def chips(self, x: float, y: float, name: str, label: str = "") -> float:
        "A tensor as a row of its sizes, centred at x; -> half its width."
        dims = self.dims[name]
        widths = [self.chip_width(*d) for d in dims]
        total = sum(widths) + GAP * (len(widths) - 1)
        at, parts = x - total / 2, []
        for (symbol, size), w in zip(dims, widths):
            shown, colour = (
                ("" if symbol.isdigit() else symbol),
                COLOURS.get(symbol, "fixed" if symbol.isdigit() else symbol),
            )
            low = 25 if shown else 21
            parts.append(
                f'<rect class="map-dim map-dim-{colour}" x="{at:g}" y="{y:g}" width="{w:g}" height="{CHIP}" rx="4"/>'
            )
            parts.append(f'<text class="map-symbol" x="{at + w / 2:g}" y="{y + 11:g}">{shown}</text>' if shown else "")
            parts.append(f'<text class="map-size" x="{at + w / 2:g}" y="{y + low:g}">{size}</text>')
            at += w + GAP
        words = f"{label or name}: {' by '.join(str(size) for _, size in dims)}"
        self.shapes.append(f"<g><title>{html.escape(words)}</title>{''.join(parts)}</g>")
        if label:
            self.text(x + total / 2 + 7, y + 20, label)
        return total / 2

    def box(
        self, x: float, y: float, w: float, h: float, name: str, *lines: str, deep: int = 0, icon: bool = True
    ) -> None:
        "A part of the model, a link to where it is built; `deep` more sheets behind it."
        step, _, title = BOXES[name]
        parts = [
            f'<rect class="map-sheet" x="{x + 5 * i:g}" y="{y - 5 * i:g}" width="{w:g}" height="{h:g}" rx="8"/>'
            for i in range(deep, 0, -1)
        ]
        parts.append(f'<rect class="map-box" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="8"/>')
        left = x + (60 if icon else 9)
        if icon:
            parts.append(
                f'<path class="map-icon" transform="translate({x + 13:g} {y + h / 2 - 18:g})" d="{ICONS[name]}"/>'
            )
        top = y + h / 2 - 8 * len(lines) + 5
        parts.append(f'<text class="map-title" x="{left:g}" y="{top:g}">{title}</text>')
        for i, words in enumerate(lines, 1):
            parts.append(
                f'<text class="map-text" x="{left:g}" y="{top + 1 + 16.5 * i:g}">{html.escape(words, quote=False)}</text>'
            )
        parts.append(f'<text class="map-step" x="{x + w - 9:g}" y="{y + 17:g}">{step}</text>')
        inside = "\n".join(parts)  # text by text, as a screen reader says it
        self.shapes.append(f'<a href="{html.escape(self.links[name])}" data-box="{name}">{inside}</a>')

    def svg(self, height: int) -> str:
        heads = "".join(
            f'<marker id="{self.name}-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path class="map-head map-{kind}" d="M0 0L8 4L0 8z"/></marker>'
            for kind in ("there", "back")
        )
        return (
            f'<svg class="map-{self.name}" viewBox="-1 -1 {self.width + 2} {height}" role="group" aria-label="Map of the model">'
            f"<defs>{heads}</defs>{''.join(self.lines)}{''.join(self.shapes)}</svg>"
        )


def millions(n: int) -> str:
    return f"{n / 1e6:.1f} M weights" if n >= 1e5 else f"{n:,} weights"


def the_way_there(c: Canvas, left: tuple[float, float], mid: tuple[float, float]) -> None:
    "From photographs to detections, down the page. `left`, `mid`: where a lane begins, and its width."
    (lx, lw), (mx, mw), s, p = left, mid, c.sizes, c.params
    lc, mc, roomy = lx + lw / 2, mx + mw / 2, lw > 150
    wide = sum(c.chip_width(*d) for d in c.dims["photo"]) / 2 + 12
    for side, name in ((-1, "photo"), (1, "smaller")):
        c.chips(mc + side * wide, 0, name)
        c.line((mc + side * wide, CHIP), (mc + side * wide, 50))
    c.box(mx, 52, mw, 60, "images", "padded to one size")
    c.line((mc, 112), (mc, 184))
    c.chips(mc, 129, "batch")
    c.line((mx, 82), (lc, 82), (lc, 184))
    c.chips(lc, 129, "mask")
    c.box(lx, 186, lw, 60, "mask", "True on padding" if roomy else "True: padding", icon=roomy)
    c.box(mx, 186, mw, 60, "backbone", millions(p["backbone"]))
    c.line((mc, 246), (mc, 346))
    c.chips(mc, 255, "features")
    c.chips(mc, 301, "tokens")
    c.text(mc + 12, 299, "flattened")
    c.line((lc, 246), (lc, 308))
    c.chips(lc, 261, "cells")
    c.box(lx, 310, lw, 60, "positions", "sine waves", icon=roomy)
    looks = (
        f"{s['L']} tokens look at one another" if roomy else f"{s['L']} look at {s['L']}",
        f"{s['encoder']} layers, {millions(p['encoder'])}",
    )
    c.box(mx, 358, mw, 86, "encoder", *looks, deep=2)
    c.line((lc, 370), (lc, 401), (mx - 1, 401))
    c.line((lc, 401), (lc, 548), (mx - 1, 548))
    c.chips(lc, 385, "pos")
    c.line((mc, 444), (mc, 500))
    c.chips(mc, 457, "memory")
    looks = f"{s['N']} slots look at one another," if roomy else f"{s['N']} look at {s['N']},"
    c.box(
        mx,
        512,
        mw,
        104,
        "decoder",
        looks,
        f"then at {s['L']} tokens",
        f"{s['layers']} layers, {millions(p['decoder'])}",
        deep=2,
    )
    c.line((lc, 676), (lc, 588), (mx - 1, 588))
    c.chips(lc, 622, "queries")
    c.box(lx, 676, lw, 60, "queries", f"{s['N']} vectors", icon=roomy)
    c.line((mc, 616), (mc, 684))
    c.chips(mc, 631, "slots", f"× {s['layers']}")
    c.box(mx, 686, mw, 60, "heads", f"class and box, {millions(p['heads'])}" if roomy else millions(p["heads"]))
    for dx, name in ((-58, "logits"), (58, "boxes")):
        c.line((mc + dx, 746), (mc + dx, 814))
        c.chips(mc + dx, 761, name)
    c.box(
        mx,
        816,
        mw,
        60,
        "answers",
        f"and of each layer before: {s['layers'] - 1} more" if roomy else f"and {s['layers'] - 1} of earlier layers",
    )
    c.line((mc, 876), (mc, 946))
    c.chips(mc, 893, "found", "an image")
    c.box(mx, 948, mw, 60, "predict", "scores, labels, boxes in pixels" if roomy else "boxes in pixels")
    c.text(lx + lw, 983, "IN USE", "lane", "end")


def wide(trace: dict, links: dict[str, str]) -> str:
    "Training climbs on the right, back to where the gradient enters."
    c = Canvas("wide", 720, trace, links)
    the_way_there(c, (0, 168), (200, 284))
    x, w = 522, 198
    mid, bus, truth, s = x + w / 2, 503, x + w - 30, c.sizes
    c.text(x, 173, "IN TRAINING", "lane")
    c.box(x, 186, w, 60, "truth", f"{s['M']} objects in image 1")
    side, edge = x + w - 6, x + w - 17                               # the truth goes past the loss, on the right
    c.line((truth, 246), (truth, 330), (side, 330), (side, 683), (edge, 683), kind="back")
    c.line((side, 510), (edge, 510), kind="back")
    c.chips(truth - 50, 262, "labels")
    c.chips(truth, 262, "objects")
    c.line((484, 846), (x - 1, 846), kind="back")
    c.box(x, 816, w, 60, "stack", "each is judged")
    c.line((mid, 816), (mid, 730), kind="back")
    c.chips(mid, 744, "all logits")
    c.chips(mid, 780, "all boxes")
    c.box(x, 640, w - 18, 86, "matcher", "the cheapest pairs:", f"{s['M']} of {s['N']} answers")
    c.line((mid, 640), (mid, 556), kind="back")
    c.chips(mid, 585, "matched")
    c.box(x, 466, w - 18, 88, "loss", "class, L1, GIoU", f"of {s['layers']} layers")
    c.line((mid, 466), (mid, 401), (bus, 401), kind="back", arrow=False)
    c.text(mid + 8, 440, "total")
    c.text(x + 2, 392, "its gradient, to every part")
    c.line((bus, 216), (bus, 716), kind="back", arrow=False)
    for y in (216, 401, 564, 716):
        c.line((bus, y), (486 + 10 * (y in (401, 564)), y), kind="back")
    return c.svg(1012)


def narrow(trace: dict, links: dict[str, str]) -> str:
    "Training goes on below: the same calls, downwards."
    c = Canvas("narrow", 358, trace, links)
    (lx, lw), (mx, mw) = (0, 106), (124, 226)
    the_way_there(c, (lx, lw), (mx, mw))
    mc, lc, s = mx + mw / 2, lx + lw / 2, c.sizes
    c.text(lx, 1062, "IN TRAINING", "lane")
    c.line((mx, 846), (mx - 9, 846), (mx - 9, 1102), (mx - 1, 1102), kind="back")
    c.box(mx, 1072, mw, 60, "stack", "each is judged")
    c.line((mc, 1132), (mc, 1222), kind="back")
    c.chips(mc, 1140, "all logits")
    c.chips(mc, 1176, "all boxes")
    c.box(lx, 1176, lw, 60, "truth", f"{s['M']} in image 1", icon=False)
    c.line((lc, 1236), (lc, 1268), (mx - 1, 1268), kind="back")
    c.line((lc, 1268), (lc, 1402), (mx - 1, 1402), kind="back")
    c.chips(lc - 30, 1252, "labels")
    c.chips(lc + 22, 1252, "objects")
    c.box(mx, 1224, mw, 86, "matcher", "the cheapest pairs:", f"{s['M']} of {s['N']} answers")
    c.line((mc, 1310), (mc, 1358), kind="back")
    c.chips(mc, 1316, "matched")
    c.box(mx, 1360, mw, 86, "loss", "class, L1, GIoU", f"of {s['layers']} layers")
    c.line((mc, 1446), (mc, 1470), kind="back")
    c.text(mc, 1486, "total, one number; its gradient", anchor="middle")
    c.text(mc, 1502, "goes back into every part", anchor="middle")
    return c.svg(1508)


SYMBOLS = {
    "B": "images", "H": "rows of pixels", "W": "columns", "h": "rows of cells", "w": "columns", "L": "tokens, h times w",
    "D": "width", "N": "queries", "K+1": "classes and “no object”", "M": "objects in image 1", "layers": "of the decoder",
}  # fmt: skip


def map_html(trace: dict, links: dict[str, str]) -> str:
    "The map, with its symbols. ValueError if it does not show what was recorded."
    _, sizes = measure(trace)
    rows = "".join(
        f'<li><span class="map-key map-key-{COLOURS.get(k, k)}"><b>{k}</b> {sizes[k]}</span> {words}</li>'
        for k, words in SYMBOLS.items()
    )
    return f'<div class="model-map"><ul class="map-keys">{rows}</ul>{wide(trace, links)}{narrow(trace, links)}</div>'


# ---------------------------------------------------------------- Sphinx
def recorded(notebook: Path, key: str = "calls") -> dict:
    "The JSON with this key in a notebook's outputs; ValueError if there is none."
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get("application/json")
            if isinstance(data, dict) and key in data:
                return json.loads(json.dumps(data))
    raise ValueError(f"no cell of {notebook.name} has recorded {key}")


class ModelMap(SphinxDirective):
    def run(self):
        return [model_map()]


class model_map(nodes.General, nodes.Element):
    "Where the map will stand, once every page's headings are known."


def put_map(app, doctree, docname):
    for node in list(doctree.findall(model_map)):
        try:
            trace = recorded(Path(app.srcdir, f"{docname}.ipynb"))
            links = {name: heading_link(app, docname, at)[0] for name, (_, at, _) in BOXES.items()}
            node.replace_self(nodes.raw("", map_html(trace, links), format="html"))
        except ValueError as e:
            logger.warning("map of the model: %s", e, location=docname, type="book", subtype="map")
            node.replace_self([])


def setup(app):
    app.setup_extension("nbdev_cells")
    app.add_node(model_map)
    app.add_directive("model-map", ModelMap)
    app.connect("doctree-resolved", put_map)
    app.connect("html-page-context", assets_where('class="model-map"', "model_map.css"))
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
