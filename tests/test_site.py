"""The built site: whole, offline, readable on a phone, by a screen reader, in the dark. In headless Chromium."""

import contextlib
import functools
import html
import http.server
import json
import re
import shutil
import threading
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import execute
import pytest
from playwright import sync_api

pytestmark = pytest.mark.site
ROOT = Path(__file__).resolve().parents[1]
PAGES = [f"{f}.html" for f in execute.chapters_in_toc(ROOT)]
MODULES = sorted(f.stem for f in (ROOT / "detr_lit").glob("*.py") if f.name[0] != "_")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def copyfile(self, *args):
        with contextlib.suppress(ConnectionError):  # a page that was closed wants its pictures no more
            super().copyfile(*args)


@pytest.fixture(scope="module")
def base(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    with sync_playwright() as p:
        try:
            b = p.chromium.launch(executable_path=path, args=FLAGS)
        except Error as e:
            pytest.fail(f"no Chromium: apt-get install chromium, or playwright install chromium\n{e}", pytrace=False)
        yield b
        b.close()


def listening(page):
    "A page that keeps in `complaints` what it says on the console."
    page.complaints = said = []
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(f"pageerror: {e}"))
    return page


@pytest.fixture
def open_page(browser, base):
    "Open a page; what it says on the console and asks from other hosts is collected in `page.complaints`."
    contexts = []

    def go(path, width=1280, height=900, scheme="light", **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **settings)
        contexts.append(context)
        page = listening(context.new_page())
        page.on(  # a request is aborted when the page is left, as the front page is at once: that is no fault
            "requestfailed",
            lambda r: page.complaints.append(f"{r.failure}: {r.url}") if r.failure != "net::ERR_ABORTED" else None,
        )
        page.on(
            "request",
            lambda r: (
                page.complaints.append(f"other host: {r.url}")
                if not r.url.startswith((base, "data:", "blob:"))
                else None
            ),
        )
        page.on("response", lambda r: page.complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        try:
            page.goto(base + path, wait_until="load")
        except sync_api.TimeoutError:  # a busy machine: once more, and then it counts
            page.complaints.clear()
            page.goto(base + path, wait_until="load", timeout=120_000)
        return page

    yield go
    for c in contexts:
        c.close()


def test_as_many_pages_as_the_toc_says(site):
    assert sorted(p.relative_to(site).as_posix() for p in (site / "nbs").rglob("*.html")) == sorted(PAGES)
    assert (site / "index.html").exists()


@pytest.mark.parametrize("path", [*PAGES, "search.html", "genindex.html", *(f"source/{m}.html" for m in MODULES)])
def test_page(open_page, path):
    page = open_page(path)
    page.evaluate("""() => Promise.allSettled([...document.images].map(i => { i.loading = "eager"; return i.decode(); }))""")
    assert page.complaints == []
    assert page.locator("h1").count() >= 1 and page.title()
    assert "#|" not in page.locator("article, main").first.inner_text() or path.startswith("source/")
    images = page.evaluate(
        "[...document.querySelectorAll('article img')].map(i => [i.getAttribute('src'), i.alt.trim(), i.naturalWidth])"
    )
    assert all(alt and (width or src.endswith(".svg")) for src, alt, width in images), images
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(50)
    wide = page.evaluate("""() => document.documentElement.scrollWidth <= innerWidth ? [] :
        [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
            if (p.tagName != 'BODY' && getComputedStyle(p).overflowX != 'visible') return false; return true; })
        .slice(0, 5).map(e => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`)""")
    assert wide == [], f"wider than a phone: {wide}"


AXE = (ROOT / "tests/vendor/axe/axe.min.js").read_text("utf-8")
JUDGE = """([whole, rules]) => {
    const where = whole ? document : { exclude: [[".highlight pre"], [".output"], ["math"]] };
    window.found = axe.run(where, { resultTypes: ["violations"], ...rules }).then(r => r.violations.map(
        v => `${v.id} (${v.impact}): ${v.nodes.slice(0, 3).map(n => `${n.target} ${n.any[0]?.message ?? ""}`).join("; ")}`)); }"""
WHOLE = {"nbs/06_matcher.html", "nbs/10_inference.html", "nbs/broken.html"}  # code, output and formulas are alike on all pages


@pytest.mark.xdist_group("test_site-axe")
@pytest.mark.parametrize("path", [*PAGES, "search.html", "genindex.html"])
def test_axe_finds_nothing(open_page, path):
    "axe-core's rules, in light; the one that colours can break once more in the dark. Both at the same time."
    pages = [open_page(path, scheme=scheme) for scheme in ("light", "dark")]
    for page, rules in zip(pages, ({}, {"runOnly": ["color-contrast"]})):
        page.evaluate(AXE)
        page.evaluate(JUDGE, [path in WHOLE, rules])
    assert [page.evaluate("() => window.found") for page in pages] == [[], []]


@pytest.mark.parametrize("path", [*PAGES, "search.html", "genindex.html"])
def test_a_thumb_meets_what_it_means(open_page, path):
    "axe-core's rule on the size of targets and the room between them (WCAG 2.5.8), which it leaves out unless asked."
    page = open_page(path, width=390, height=844, has_touch=True, is_mobile=True)
    page.evaluate(AXE)
    found = page.evaluate("""() => axe.run({ runOnly: ["target-size"] }).then(r => [r.passes.length,
        ...r.violations.flatMap(v => v.nodes.map(n => n.html))])""")
    assert found == [1]


def test_front_page_is_reached(open_page):
    page = open_page("")
    page.wait_for_url(re.compile(r"/nbs/intro\.html$"))
    assert page.complaints == []


def test_search_finds_hungarian(open_page):
    page = open_page("search.html?q=Hungarian")
    page.wait_for_selector("#search-results li a", timeout=15000)
    found = page.eval_on_selector_all("#search-results li a", "x => x.map(a => a.getAttribute('href'))")
    assert any("06_matcher" in f for f in found), found
    assert page.complaints == []


def test_dark_mode_switches_and_stays(open_page):
    page = open_page(PAGES[1])

    def look():
        return page.evaluate(
            "[document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
        )

    seen = {tuple(look())}
    for _ in range(3):  # auto, light, dark
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(tuple(look()))
    assert {t for t, _ in seen} == {"light", "dark"} and len({c for _, c in seen}) == 2
    while look()[0] != "dark":
        page.locator("button.theme-switch-button:visible").first.click()
    page.reload()
    assert look()[0] == "dark"


def test_dark_by_the_systems_wish(open_page):
    page = open_page(PAGES[1], scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_an_answer_folds(open_page):
    page = open_page("nbs/06_matcher.html")
    answer = page.locator("div.solution.dropdown").first
    assert not answer.locator("div.cell").first.is_visible() if answer.locator("div.cell").count() else answer.count()
    answer.locator("button").first.click()
    assert "toggle-hidden" not in (answer.get_attribute("class") or "")


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag in ("a", "link") and a.get("href"):
            self.links.append(a["href"])
        if tag in ("img", "script") and a.get("src"):
            self.links.append(a["src"])


def test_every_link_leads_somewhere(site):
    pages = {
        p.relative_to(site).as_posix(): Links(p.read_text("utf-8"))
        for p in site.rglob("*.html")
        if "_static" not in p.parts
    }
    bad = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in ("#", "javascript:void(0)"):
                continue
            path, anchor = urldefrag(link)
            target = (Path(name).parent / unquote(path.split("?")[0])).as_posix() if path else name
            target = re.sub(r"[^/]+/\.\./", "", target)
            target = re.sub(r"^(\./)+", "", target)
            if not (site / target).exists():
                bad.append(f"{name} -> {link}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
                bad.append(f"{name} -> {link} (no such place on the page)")
    assert not bad, "\n".join(bad[:20])


def test_no_page_is_heavy(site):
    "A phone on a slow line gets the text at once; figures are files of their own."
    heavy = {p.name: p.stat().st_size for p in (site / "nbs").glob("*.html") if p.stat().st_size > 1_000_000}
    assert not heavy, heavy


def test_our_scripts_arrive_without_their_comments(site, root):
    ours = [site / "_static" / file.name for file in (root / "nbs/assets").glob("*.js")]
    assert len(ours) > 8 and not [file.name for file in ours if "@param" in file.read_text("utf-8")]


def test_no_markup_is_left_on_a_page(site):
    "A table or a directive that was not understood stands on the page as text."
    left = {}
    for page in (site / "nbs").glob("*.html"):
        bare = re.sub(r"<(pre|script|code)\b.*?</\1>", "", page.read_text("utf-8"), flags=re.S)
        text = html.unescape(re.sub(r"<[^>]+>", " ", bare))
        if found := re.findall(r"\|[-–—:]+\||```|\{[a-z]+-[a-z]+\}|\{[a-z]+\}`", text): left[page.name] = found
    assert not left, left


def test_badges_lead_to_the_line(site):
    "An exported cell's badge opens the source at the first line that the cell defines."
    badge = re.compile(r'class="nbdev-badge".*?href="\.\./source/(\w+)\.html#L(\d+)"', re.S)
    found = 0
    for page in (site / "nbs").glob("*.html"):
        for module, line in badge.findall(page.read_text("utf-8")):
            text = (ROOT / "detr_lit" / f"{module}.py").read_text("utf-8").splitlines()[int(line) - 1]
            assert text.strip() and not text.startswith("#"), f"{page.name}: {module}.py line {line} is {text!r}"
            found += 1
    assert found >= len(MODULES)


def test_source_pages_lead_back(site):
    for m in MODULES:
        assert re.search(
            r'class="source-chapter".*?href="\.\./nbs/\w+\.html"', (site / "source" / f"{m}.html").read_text("utf-8")
        ), m


def test_all_questions_are_listed_with_their_places(site):
    asked = set()
    for file in (ROOT / f"{f}.ipynb" for f in execute.chapters_in_toc(ROOT)):
        if file.exists(): asked |= set(re.findall(r'exercise-start\}.*\n\s*":label: ([\w-]+)', file.read_text("utf-8")))
    page = (site / "nbs/questions.html").read_text("utf-8")
    linked = set(re.findall(r'href="\w+\.html#(q-[\w-]+)"', page))
    assert len(asked) > 100 and linked == asked
    texts = {p.name: re.sub(r"<[^>]+>", "", p.read_text("utf-8")) for p in (site / "nbs").glob("*.html")}
    assert not [name for name, text in texts.items() if "Solution to Exercise" in text]
    assert re.search(r"Question \d+</span></a>: Is it enough\?(?:(?!<li>).)*issues/9\">detr#9<", page, re.S)
    assert "Predict</strong>" in page and "{glue" not in page  # each with its words


def test_a_mistake_can_be_reported_with_page_and_version(site):
    version = re.search(r"^version = (\S+)", (ROOT / "settings.ini").read_text("utf-8"), re.M)[1]
    for page in PAGES:
        link = re.search(r'class="mistake"><a href="([^"]+)"', (site / page).read_text("utf-8"))[1]
        asked = unquote(html.unescape(link))
        assert asked.startswith("https://github.com/detr-lit/detr-lit/issues/new?title=Mistake on " + page.removesuffix(".html"))
        assert f"Version: {version}\n" in asked, page


def test_programs_find_every_page(site):
    lines = (site / "llms.txt").read_text("utf-8").splitlines()
    listed = [re.fullmatch(r"- \[(.+?)\]\(https://[^)]+/(nbs/\w+\.html)\)(: .{20,})?", x) for x in lines if x.startswith("- ")]
    assert lines[0] == "# A literate DETR" and all(listed) and [m[2] for m in listed] == PAGES
    names = re.findall(r"^\[(\w+-[\w-]+)\]", (ROOT / "nbs/paper_facts.toml").read_text("utf-8"), re.M)
    assert len(names) > 50 and not [name for name in names if f" {name} " in "".join(lines)]  # its number stands there
    for m in listed: assert html.escape(m[1].replace("`", ""), quote=False)[:20] in (site / m[2]).read_text("utf-8"), m[1]


def test_a_link_says_where_it_leads(site):
    "What search engines and chats show of a page that is sent to them."
    said = set()
    for page in PAGES:
        head = (site / page).read_text("utf-8").partition("</head>")[0]
        tags = dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="(.*?)" />', head))
        assert 20 < len(tags["description"]) < 600 and tags["og:description"] == tags["description"] and tags["og:title"], page
        if "og:image" in tags:
            assert (site / "_images" / re.fullmatch(r"https://\S+/_images/(\w+\.png)", tags["og:image"])[1]).exists()
        said.add(tags["description"])
    assert len(said) == len(PAGES)


def test_the_workbook_can_be_taken(site):
    "Each chapter with holes leads to the workbook's page, and that to the notebook; the zip file holds them all."
    page = (site / "nbs/workbook.html").read_text("utf-8")
    files = re.findall(r'href="\.\./(workbook/[\w/]+\.ipynb)"', page)
    assert len(files) == 11
    with zipfile.ZipFile(site / "workbook/detr_lit_workbook.zip") as z:
        assert {f.removeprefix("workbook/") for f in files} < set(z.namelist()) and z.testzip() is None
    for file in files:
        cells = json.loads((site / file).read_text("utf-8"))["cells"]
        assert any("is yours to write" in "".join(c["source"]) for c in cells), file
        assert "(this number is on the page)" not in json.dumps(cells), file                # numbers of the executed chapter
        chapter = (site / "nbs" / f"{Path(file).stem}.html").read_text("utf-8")
        assert re.search(r'class="cost">.*?<a href="workbook\.html">', chapter, re.S), file
    assert 'href="workbook.html">write' not in (site / "nbs/04b_gaze.html").read_text("utf-8")


@pytest.mark.parametrize("width", [1280, 360])
def test_no_code_runs_over_the_edge(open_page, width):
    "Long lines wrap, behind their own indent; what is copied has the line ends of the source, and no others."
    page = open_page("nbs/06_matcher.html", width=width)
    over = page.evaluate("""() => [...document.querySelectorAll('.cell_input pre')].filter(p => p.scrollWidth > p.clientWidth + 1)
        .map(p => p.textContent.slice(0, 60))""")
    assert over == []
    wrapped = page.evaluate("""() => [...document.querySelectorAll('.cell_input .long')]
        .filter(l => l.getBoundingClientRect().height > 30).map(l => {
            const r = document.createRange(), left = l.getBoundingClientRect().left;
            r.selectNodeContents(l);
            return [...r.getClientRects()].map(q => q.left - left); })""")
    assert len(wrapped) > 10 and all(min(lefts) >= -1 for lefts in wrapped)
    copied = page.evaluate("""() => {
        const p = [...document.querySelectorAll('.cell_input pre')].find(p => p.querySelector('.long'));
        getSelection().selectAllChildren(p); return [getSelection().toString(), p.textContent]; }""")
    assert copied[0].strip("\n") == copied[1].strip("\n")


def test_a_page_can_be_run_and_taken(site, open_page):
    "The menus of a chapter: Colab and Binder open the notebook that the site offers; other pages print."
    for file in execute.chapters_in_toc(ROOT):
        text, name = (site / f"{file}.html").read_text("utf-8"), Path(file).name
        links = set(re.findall(r'href="([^"]+)"[^>]*class="[^"]*dropdown-item', text)) | set(
            re.findall(r'class="[^"]*dropdown-item[^"]*"[^>]*href="([^"]+)"', text)
        )
        runs = (ROOT / f"{file}.ipynb").exists()
        expected = {
            f"https://colab.research.google.com/github/detr-lit/detr-lit/blob/notebooks/{name}.ipynb",
            f"https://mybinder.org/v2/gh/detr-lit/detr-lit/notebooks?labpath={name}.ipynb",
            f"../notebooks/{name}.ipynb",
        }
        assert {x for x in links if "ipynb" in x and "workbook/" not in x} == (expected if runs else set()), name
        assert runs == (site / "notebooks" / f"{name}.ipynb").exists()
        assert "window.print()" in text
    page = open_page("nbs/06_matcher.html")
    page.get_by_label("Run this chapter").click()
    assert page.get_by_text("Colab", exact=True).is_visible()


def test_the_status_is_that_of_the_last_run(site):
    page = (site / "nbs/about.html").read_text("utf-8")
    rows = re.findall(r'<tr class="row-\w+"><td>.*?href="(\w+)\.html".*?</td>\s*<td><p>(.*?)</p></td>', page, re.S)
    assert [stem for stem, _ in rows] == [p.stem for p in execute.notebooks(ROOT)]
    for stem, time in rows:
        seconds = json.loads((ROOT / "_build/executed" / f"{stem}.json").read_text("utf-8"))["seconds"]
        said = sum(int(n) * {"min": 60, "s": 1}[u] for n, u in re.findall(r"(\d+) (min|s)", time))
        assert abs(said - seconds) <= 1, (stem, time, seconds)
    assert "@software" in page and "End-to-End Object Detection with Transformers" in page


def test_the_epub_is_xml_and_whole(site):
    "Each page parses, each link inside leads somewhere, the contents name all pages, and nothing wants a script."
    from xml.etree import ElementTree

    with zipfile.ZipFile(site / "a_literate_detr.epub") as z:
        names = set(z.namelist())
        pages = {n: z.read(n).decode() for n in names if n.endswith(".xhtml")}
        contents, nav = z.read("content.opf").decode(), z.read("nav.xhtml").decode()
    assert {f"{p.removesuffix('.html')}.xhtml" for p in PAGES} <= pages.keys()
    ids = {}
    trees = {n: ElementTree.fromstring(text) for n, text in pages.items()}
    for n, tree in trees.items():
        ids[n] = {x.get("id") for x in tree.iter()} - {None}
    for n, tree in trees.items():
        for x in tree.iter():
            assert not x.tag.endswith(("}script", "}button", "}input")), n
            goal = x.get("href") or x.get("src") or ""
            if goal and "//" not in goal and not goal.startswith(("data:", "mailto:")):
                path, mark = urldefrag(goal)
                path = (Path("/", n).parent / unquote(path)).resolve().relative_to("/").as_posix() if path else n
                assert path in names, (n, goal)
                assert not mark or path not in ids or unquote(mark) in ids[path], (n, goal)
    for p in PAGES:
        assert f'href="{p.removesuffix(".html")}.xhtml' in nav and f'href="{p.removesuffix(".html")}.xhtml"' in contents, p
    math = [n for n, text in pages.items() if "<math" in text]
    assert len(math) > 10 and all(re.search(rf'href="{re.escape(n)}"[^>]*properties="[^"]*mathml', contents) for n in math)
    assert "A literate DETR" in contents and names == {"mimetype", "META-INF/container.xml", "content.opf"} | set(
        unquote(x) for x in re.findall(r'<item [^>]*href="([^"]+)"', contents)
    )
