"""What every page gives beside its text: pictures to take, a print that reads like a book, a calm beginning."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import execute
import pytest
import slim
import test_site
import tinycss2
from fontTools.ttLib import TTFont
from PIL import Image

pytestmark = pytest.mark.site
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
TAKE = re.compile(r'<a class="take" href="(.*?)" download="(.*?)" aria-label="(.*?)">download</a></p>\s*</figcaption>')
FOLDED = "div.solution > :is(.section, section), div.solution .cell, details.hide pre"
PRESSED = (
    "button, header, .bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-footer-article, .prev-next-footer, "
    ".take, .live, .nbdev-badge"
)


def test_each_figure_can_be_taken(site):
    "A link to the very file, under a name that says what it is; the pictures behind live parts have none."
    seen = []
    for page in sorted((site / "nbs").glob("*.html")):
        for figure in re.findall(r"<figure.*?</figure>", page.read_text("utf-8"), re.S):
            name, number = re.search(r'id="([^"]+)"', figure)[1], re.search(r'caption-number">(.*?) <', figure)[1]
            (link,) = TAKE.findall(figure)
            assert link[0] == re.search(r'<img [^>]*src="([^"]+)"', figure)[1], name
            assert link[1:] == (f"detr_lit_{name}{Path(link[0]).suffix}", f"download {number}")
            seen.append(link[1])
        assert page.read_text("utf-8").count('class="take"') == page.read_text("utf-8").count("<figure")
    assert len(seen) == len({*seen}) > 100


def test_a_picture_comes_under_its_name(open_page, site, tmp_path):
    "Without scripts too."
    page = open_page("nbs/09_train.html", java_script_enabled=False)
    with page.expect_download() as got:
        page.locator("figcaption a.take").first.click()
    name, number = got.value.suggested_filename, page.locator("figcaption .caption-number").first.inner_text()
    assert name.startswith("detr_lit_fig-09-") and name.endswith(".png")
    assert page.get_by_role("link", name=f"download {number.strip()}").count() == 1
    got.value.save_as(tmp_path / name)
    assert Image.open(tmp_path / name).width > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_print_is_a_page_of_a_book(open_page, scheme):
    "Nothing to press, nothing folded or cut, figures whole; dark on white whatever the screen was."
    page = open_page("nbs/06_matcher.html", width=658, scheme=scheme)  # the width of A4 between its margins
    folded, pressed = page.locator(FOLDED), page.locator(PRESSED)
    before = sum(x.is_visible() for x in folded.all())
    page.emulate_media(media="print", color_scheme=scheme)
    assert folded.count() > 6 > before and all(x.is_visible() for x in folded.all())
    assert pressed.count() > 20 and not [x for x in pressed.all() if x.is_visible()]
    assert page.evaluate("""() => [...document.querySelectorAll('article *')].filter(e => e.checkVisibility() && e.clientWidth
        && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible')
        .map(e => e.outerHTML.slice(0, 80))""") == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colours = page.evaluate("""() => ['p', 'p a', '.cell_input pre', '.cell_input .kn', '.cell_input .c1'].map(s =>
        getComputedStyle(document.querySelector(`article ${s}`)).color.match(/[\\d.]+/g).slice(0, 3).map(Number))""")
    assert all(sum(rgb) < 400 for rgb in colours), colours
    assert page.evaluate("[...document.querySelectorAll('figure')].every(f => getComputedStyle(f).breakInside === 'avoid')")


def test_a_picture_has_its_room_before_it_is_there(site):
    seen = 0
    for page in (site / "nbs").glob("*.html"):
        for img in re.findall(r'<img [^>]*/_images/[^>]*>', page.read_text("utf-8")):
            file, sides = re.search(r'src="([^"]+)"', img)[1], re.search(r'width="(\d+)" height="(\d+)"', img)
            assert sides and (int(sides[1]), int(sides[2])) == Image.open(page.parent / file).size, img
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["intro", "06_matcher", "10_inference"])
def test_nothing_moves_while_a_page_arrives(browser, base, name, width):
    "Chromium's measure of what has shifted, from the first bytes to the last picture and formula."
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.add_init_script("""window.shifts = []; new PerformanceObserver(l => { for (const e of l.getEntries()) shifts.push(
        [e.value, ...e.sources.map(s => `${s.node?.nodeName}.${s.node?.className} ${s.node?.textContent.slice(0, 40)}`)]);
    }).observe({type: 'layout-shift', buffered: true});""")
    page.goto(f"{base}nbs/{name}.html")
    page.wait_for_timeout(400)
    shifts = page.evaluate("shifts")
    page.close()
    assert sum(s[0] for s in shifts) < 0.02, shifts


# ---------------------------------------------------------------- what a page loads
def opened_up(open_page, path):
    "A page in the dark with its menus, its search and its contents opened: what scripts make is there."
    page = open_page(path, scheme="dark", width=700)
    page.locator(".theme-switch-button:visible").first.click()
    page.keyboard.press("Control+K")
    page.keyboard.press("Escape")
    for button in page.locator("button.dropdown-toggle:visible, label.sidebar-toggle:visible, .primary-toggle:visible").all():
        button.click()
        page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(300)
    return page


@pytest.mark.parametrize("path", ["nbs/06_matcher.html", "nbs/recap.html", "nbs/api.html", "search.html?q=matcher"])
def test_no_rule_is_missed(open_page, site, path):
    "What was left out of the theme's style sheets meets nothing, not even what scripts make."
    (sheet,) = (site / "_static/styles").glob("*.css")
    kept = {s for rule in rules_of(sheet.read_text("utf-8")) for s in rule}
    theme = files("pydata_sphinx_theme") / "theme/pydata_sphinx_theme/static/styles/pydata-sphinx-theme.css"
    gone = {s for rule in rules_of(slim.small(theme.read_text("utf-8"), "css")) for s in rule} - kept
    bare = sorted({re.sub(r"::?[\w-]+(?:\((?:[^()]|\([^()]*\))*\))?", "", s) for s in gone} - {""})
    assert 200 < len(kept) and 1000 < len(bare)
    meets = """all => all.filter(s => { try { return document.querySelector(s); } catch { return false; } })"""
    assert opened_up(open_page, path).evaluate(meets, bare) == []


def rules_of(css):
    "The selectors of each rule, those within @media too."
    for rule in tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True):
        if rule.type == "qualified-rule":
            yield slim.selectors(rule.prelude)
        elif rule.lower_at_keyword in ("media", "supports"):
            yield from rules_of(tinycss2.serialize(rule.content))


@pytest.mark.parametrize("path", ["nbs/06_matcher.html", "nbs/about.html", "search.html"])
def test_each_icon_is_in_its_font(open_page, site, path):
    shown = opened_up(open_page, path).evaluate("""() => [...document.querySelectorAll("*")].flatMap(e =>
        ["::before", "::after"].map(p => { const s = getComputedStyle(e, p); return [s.fontFamily, s.fontWeight, s.content]; }))
        .filter(([family, , content]) => family.startsWith('"Font Awesome') && /[\ue000-\uf8ff]/.test(content))""")
    fonts = {f.stem: TTFont(f).getBestCmap() for f in (site / "_static").rglob("webfonts/*.woff2")}
    assert len(shown) >= 5 and len(fonts) == 3
    for family, weight, content in {tuple(x) for x in shown}:
        name = "fa-brands-400" if "Brands" in family else "fa-solid-900" if weight == "900" else "fa-regular-400"
        assert ord(content.strip('"')) in fonts[name], (name, content)


def test_little_to_load_before_the_text(site):
    for page in (site / "nbs").glob("*.html"):
        text = page.read_text("utf-8")
        sheets = [Path(page.parent, m[1]) for m in slim.SHEET.finditer(text)]
        assert len(sheets) <= 4 and sum(s.stat().st_size for s in sheets) < 200_000, page.name
        scripts = [Path(page.parent, src) for src in re.findall(r'<script [^>]*src="([^"?]+)', text)]
        assert not slim.SCRIPT.search(text) and sum(s.stat().st_size for s in scripts) < 170_000, page.name


def test_a_figure_comes_when_a_reader_comes_near(open_page):
    page, there = open_page("nbs/16_real_images.html", width=390), "i => i.complete && i.naturalWidth > 0"
    pictures = page.locator("article figure img")
    assert sum(pictures.evaluate_all(f"all => all.map({there})")) <= 2 < 6 < pictures.count()
    pictures.last.scroll_into_view_if_needed()
    page.wait_for_function(f"({there})([...document.querySelectorAll('article figure img')].at(-1))")
    assert page.complaints == []


def test_formulas_are_set_in_their_font(open_page, site):
    "Whatever opens is opened; no sign is a substitute from the reader's machine."
    pages = [f.name for f in (site / "nbs").glob("*.html") if "<math" in f.read_text("utf-8")]
    assert len(pages) > 15
    assert ord("√") in TTFont(site / "_static/temml/STIXTwoMath.woff2").getBestCmap()  # of a root, which is no text
    for name in pages:
        page = open_page(f"nbs/{name}")
        page.evaluate("""() => { document.querySelectorAll("details").forEach(d => { d.open = true; });
            document.querySelectorAll(".toggle-hidden").forEach(e => e.classList.remove("toggle-hidden")); }""")
        browser = page.context.new_cdp_session(page)
        browser.send("DOM.enable"), browser.send("CSS.enable")
        root = browser.send("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        signs = browser.send("DOM.querySelectorAll", {"nodeId": root, "selector": "math :is(mi, mo, mn, mtext)"})["nodeIds"]
        fonts = [f for x in signs for f in browser.send("CSS.getPlatformFontsForNode", {"nodeId": x})["fonts"]]
        assert {(f["familyName"], f["isCustomFont"]) for f in fonts} == {("STIX Two Math", True)}, (name, fonts)


# ---------------------------------------------------------------- what was read
def ticks(page):
    return page.locator(".bd-sidenav a:has(.read-sign)").evaluate_all("x => x.map(a => a.pathname.split('/').pop())")


def to_the_end(page):
    page.mouse.move(640, 500)
    page.mouse.wheel(0, 10)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")


def test_a_page_read_to_its_end_has_a_tick(open_page):
    "By scrolling; on all other pages and after a reload; for a screen reader too; and nothing moves."
    page = open_page("nbs/05_heads.html")
    button, link = page.locator(".read-mark button"), page.locator('.bd-sidenav a[href="#"]')
    was = link.evaluate("a => [a.offsetLeft, a.offsetTop, a.offsetWidth, a.offsetHeight]")
    assert button.inner_text() == "Mark as read" and ticks(page) == []
    to_the_end(page)
    page.wait_for_selector(".read-sign", state="attached")
    assert button.inner_text() == "Mark as unread" and ticks(page) == ["05_heads.html"]
    assert link.evaluate("a => [a.offsetLeft, a.offsetTop, a.offsetWidth, a.offsetHeight]") == was
    assert link.inner_text().endswith(", read")
    tick = link.evaluate("a => getComputedStyle(a.querySelector('.read-sign'), '::before').content")
    assert "\u2713" in tick
    page.goto(page.url.replace("05_heads", "06_matcher"))
    assert ticks(page) == ["05_heads.html"] and page.locator(".read-mark button").inner_text() == "Mark as read"
    page.goto(page.url.replace("nbs/06_matcher", "source/matcher"))
    assert ticks(page) == ["05_heads.html"] and not page.locator(".read-mark").count()
    assert page.complaints == []


def test_a_tick_is_set_and_taken_back_by_key(open_page):
    "Coming to the button by key is no reading; what was taken back stays so."
    page = open_page("nbs/05_heads.html#further-reading")
    button = page.locator(".read-mark button")
    button.focus()
    page.keyboard.press("Shift")
    page.wait_for_timeout(200)
    assert ticks(page) == []
    page.keyboard.press("Enter")
    assert ticks(page) == ["05_heads.html"] and button.inner_text() == "Mark as unread"
    page.keyboard.press("Enter")
    button.evaluate("b => b.blur()")
    page.evaluate("scrollTo(0, 0)")
    to_the_end(page)
    page.wait_for_timeout(200)
    assert ticks(page) == [] and button.inner_text() == "Mark as read"
    page.reload()
    assert ticks(page) == []


def test_a_link_to_the_last_heading_is_no_reading(open_page):
    page = open_page("nbs/05_heads.html#further-reading", height=2000)
    page.wait_for_timeout(1500)
    assert page.locator(".read-mark button").bounding_box()["y"] < 2000 and ticks(page) == []


def test_ticks_without_storage_or_scripts(open_page):
    page = open_page("nbs/05_heads.html", java_script_enabled=False)
    assert not page.locator(".read-mark button").is_visible() and not page.locator(".read-sign").count()
    page = open_page("nbs/intro.html")
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('none') }})")
    page.goto(page.url.replace("intro", "05_heads"))
    page.locator(".read-mark button").click()
    assert ticks(page) == ["05_heads.html"] and page.locator(".read-mark button").inner_text() == "Mark as unread"


# ---------------------------------------------------------------- the code of a page as a script
def test_each_notebook_is_a_script_too(site):
    "Whole, in order, without magics; each question's code under its title."
    asked = 0
    for path in execute.notebooks(test_site.ROOT):
        text = (site / "notebooks" / f"{path.stem}.py").read_text("utf-8")
        ast.parse(text)
        assert text.startswith("# A literate DETR, version ") and f"/nbs/{path.stem}.html\n" in text, path
        cells = json.loads((site / "notebooks" / path.name).read_text("utf-8"))["cells"]
        at = 0
        for cell in cells:
            code = "".join(cell["source"]).removeprefix("#| export\n")
            if cell["cell_type"] == "code" and "detr_lit_book" not in code:
                at = text.index(code, at) + len(code)
        titles = re.findall(r"^# Question: (.+)$", text, re.M)
        said = ["".join(c["source"]) for c in cells]
        assert all(any(f"### Question: {t}" in s for s in said) for t in titles)
        asked += len(titles)
    assert asked > 60
    assert "\n# if __name__" in (site / "notebooks/09_train.py").read_text("utf-8")


def test_a_script_runs(site, root, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(root), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    script = str(site / "notebooks/04b_gaze.py")
    run = subprocess.run([sys.executable, script], cwd=root / "nbs", env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-1000:]


def test_the_code_can_be_copied(open_page, site):
    "Or taken as a file, where the clipboard is refused."
    text = (site / "notebooks/06_matcher.py").read_text("utf-8")
    page = open_page("nbs/06_matcher.html", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Take this page with you").click()
    page.get_by_text("Copy as Python", exact=True).click()
    page.wait_for_function("document.querySelector('.btn-take-copy-as-python').textContent.trim() === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == text and page.complaints == []
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject('no'); }")
    page.get_by_label("Take this page with you").click()
    with page.context.expect_page() as opened:
        page.locator(".btn-take-copy-as-python").click()
    assert opened.value.url.endswith(("notebooks/06_matcher.py", "about:blank", ":"))  # the file itself, or its download


# ---------------------------------------------------------------- what a search leads to
@pytest.mark.parametrize("asked, place", [
    ("HungarianMatcher.cost", "nbs/api.html#detr_lit.matcher.HungarianMatcher.cost"),
    ("pairwise_giou", "nbs/api.html#detr_lit.matcher.pairwise_giou"),
    ("Ninety-seven to three", "nbs/07_loss.html#q-07-imbalance"),
    ("minus p, or minus log p?", "nbs/06_matcher.html#q-06-logp"),
    ("detr#72", "nbs/06_matcher.html#detr-72"),
])  # fmt: skip
def test_a_search_leads_to_the_place(open_page, base, asked, place):
    page = open_page(f"search.html?q={quote(asked)}")
    page.wait_for_function("/finished/.test(document.querySelector('#search-results').textContent)")
    found = page.locator("#search-results li > a").evaluate_all("x => x.map(a => a.href.replace(/\\?[^#]*/, ''))")
    assert base + place in found[:2], found[:4]
    page.goto(base + place)
    assert page.evaluate("document.getElementById(decodeURIComponent(location.hash.slice(1))) !== null")
