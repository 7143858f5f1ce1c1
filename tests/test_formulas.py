"""Formulas as MathML, and the font that holds their signs."""

import re
from pathlib import Path

import formulas
import pytest
import slim
from docutils import nodes
from fontTools.ttLib import TTFont

FONT = Path(__file__).resolve().parents[1] / "nbs/assets/temml/STIXTwoMath.woff2"


@pytest.mark.parametrize("tex, found", [
    (r"\hat y_i", "msub mover mi mo mi"),
    (r"x \label{eq-x}", "mi"),
    (r"\begin{aligned} x &= \frac{1}{2} \\[1ex] y \end{aligned}", "mtable mtr mtd mi mtd mrow mo mfrac mn mn mtr mtd mi mtd"),
    ("a < b", "mrow mi mo mi"),
])  # fmt: skip
def test_tex_becomes_mathml(tex, found):
    made = formulas.mathml(nodes.math(tex, tex), False)
    assert re.findall(r"<(m\w+)", made.removeprefix("<math")) == found.split()
    assert made.startswith("<math xmlns=") and ("&lt;" in made) == ("<" in tex)


def test_a_formula_has_a_line_of_its_own_or_not():
    assert ['display="block"' in formulas.mathml(nodes.math("", r"\sum_i x_i"), b) for b in (True, False)] == [True, False]


def test_a_font_keeps_what_the_pages_show(tmp_path):
    "Letters that stand alone are italics; a sign has its mirror, and taller ones."
    (tmp_path / "a.html").write_text("<p>q</p><math><mi>b</mi><mo>(</mo><mi class='mathcal'>ℒ</mi><mo>&lt;</mo><mn>1</mn></math>")
    assert slim.signs(tmp_path) == {*map(ord, "b(ℒ<1𝑏√")}
    assert [slim.ITALIC[x] for x in "hzεϵ"] == [*map(ord, "ℎ𝑧𝜀𝜖")]
    (tmp_path / "font.woff2").write_bytes(FONT.read_bytes())
    slim.pick(tmp_path / "font.woff2", slim.signs(tmp_path))
    font = TTFont(tmp_path / "font.woff2")
    assert font.getBestCmap().keys() == {*map(ord, "b()ℒ<>1𝑏√")} and font.flavor == "woff2"
    taller = font["MATH"].table.MathVariants.VertGlyphConstruction[0].MathGlyphVariantRecord
    assert len(taller) > 5 and "radical" in font.getGlyphOrder() and (tmp_path / "font.woff2").stat().st_size < 30_000
    assert "ss04" in {record.FeatureTag for record in TTFont(FONT)["GSUB"].table.FeatureList.FeatureRecord}  # the prime's shape
