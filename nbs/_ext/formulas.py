"""Formulas become MathML while the book is built: a page needs no script for them, nor does a reading device.

Temml (vendored, nbs/_ext/temml) translates, in QuickJS (dukpy): an engine without threads, since Sphinx forks while it writes.
How formulas look is the matter of the style sheet and the font in nbs/assets/temml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from docutils import nodes
from dukpy import JSInterpreter
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
TEMML = Path(__file__).parent / "temml" / "temml.min.js"
CALL = """(function ({ tex, block }) {
  try { return [temml.renderToString(tex, { displayMode: block, throwOnError: true, xml: true }), ""]; }
  catch (error) { return ["", error.message]; }
})(dukpy)"""
REF = re.compile(r"\\(?:label|eqref)\{[^}]*\}")  # Sphinx numbers


@cache
def engine() -> JSInterpreter:
    js = JSInterpreter()
    js.evaljs(TEMML.read_text("utf-8") + ";0")  # it wants something to return
    return js


def mathml(node, block: bool) -> str:
    "A formula as MathML; what Temml can't read is a warning, so the build fails."
    tex = REF.sub("", node.astext()).strip()
    found, complaint = engine().evaljs(CALL, tex=tex, block=block)
    if complaint:
        logger.warning("no MathML for %r: %s", tex, complaint, location=node)
    return found


def inline(self, node):
    self.body.append(mathml(node, False))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(self.starttag(node, "div", "", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(mathml(node, True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
