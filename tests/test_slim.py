"""What is left out of the theme's style sheets and fonts, and what must stay."""

import slim
import tinycss2

CSS = """/* a theme */
.used, .gone:hover { color: red }
.gone > .used { color: blue }
a:not(.gone) .used::after, :is(.gone, .more) p { content: "\\f00c" }
@media (min-width: 30em) { .gone { margin: 0 } .used { margin: 1em } }
@media print { .gone { margin: 0 } }
@font-face { font-family: Icons; src: url(../fonts/a.woff2) format("woff2"), url(../fonts/a.ttf) }
@keyframes turn { to { rotate: 1turn } }
:root { --space: 1rem }"""


def pruned(css, *names):
    return slim.pruned(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), {*names})


def test_a_rule_stays_if_a_page_may_need_it():
    kept = pruned(CSS, "used")
    assert kept.splitlines()[0] == ".used{color: red}" and "blue" not in kept and "a theme" not in kept
    assert "a:not(.gone) .used::after,:is(.gone, .more) p{" in kept  # what stands in brackets is not asked
    assert "@media (min-width: 30em) {.used{margin: 1em}}" in kept and "print" not in kept
    for whole in ("Icons", "rotate", "--space"):
        assert whole in kept
    assert pruned(CSS, "used", "gone").count("gone") == CSS.count("gone")


def site(tmp_path):
    "Two pages of a site: a theme of two sheets, one that imports, and one of the book's own."
    static = tmp_path / "_static"
    for folder in ("styles", "pictures"):
        (static / folder).mkdir(parents=True)
    (static / "basic.css").write_text('.used { background: url("pictures/a.png") } .gone { color: red }')
    (static / "styles/theme.css").write_text('@import "../basic.css";\n.made { color: green }')
    (static / "more.css").write_text(".used { width: 1em }")
    (static / "book.css").write_text(".gone { color: blue }")
    (tmp_path / "assets").mkdir()
    for name in ("book.css", "live.css"):
        (tmp_path / "assets" / name).touch()
    (static / "documentation_options.js").write_text("const O = {};\n")
    (static / "doctools.js").write_text('x.classList.add("made")')
    for name, extra in (("a", '<link rel="stylesheet" href="_static/live.css" />\n'), ("b", "")):
        (tmp_path / f"{name}.html").write_text(f"""<head>
    <link href="_static/styles/theme.css?digest=1" rel="stylesheet" />
    <link rel="stylesheet" type="text/css" href="_static/more.css?v=2" />
    {extra}<link rel="stylesheet" type="text/css" href="_static/book.css?v=3" />
    <script src="_static/documentation_options.js?v=4"></script>
    <script>O.name = "{name}";</script>
    <script src="_static/doctools.js"></script><script defer src="_static/late.js"></script>
</head><p class="used">""")
    return tmp_path


def test_one_sheet_and_no_script_before_the_text(tmp_path):
    html = site(tmp_path)
    slim.slim(html, html / "assets")
    texts = [(html / f"{n}.html").read_text() for n in "ab"]
    one = slim.SHEET.search(texts[0])[2]
    assert [m[2] for m in slim.SHEET.finditer(texts[0])] == [one, "live.css", "book.css"]
    assert [m[2] for m in slim.SHEET.finditer(texts[1])] == [one, "book.css"]
    css = (html / "_static" / one).read_text()
    assert css == ".used{background:url(../pictures/a.png)}.made{color:green}.used{width:1em}"
    assert (html / "_static/book.css").read_text() == ".gone{color:blue}"
    assert (html / "_static/book.css").exists() and not (html / "_static/more.css").exists()
    assert '<script>const O = {};</script>\n    <script>O.name = "a";</script>' in texts[0]
    assert texts[0].count("<script defer") == 2 and texts[0].count("src=") == 2
