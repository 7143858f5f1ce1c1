"""The whole book as one EPUB file, for readers without a network: Sphinx' own builder, with what it lacks.

- What only a browser can do (live parts, the quiz, the game) is left out, with a pointer to the site; the pictures that
  stand for live parts in print are in.
- Nothing of the site's scripts and fonts goes into the file, nor the source pages: their links lead to the repository.
- A reading device wants XML: `finish` mends what only a browser forgives, and packs the file.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import workbook
from bs4 import BeautifulSoup
from docutils import nodes

NAME = "a_literate_detr.epub"
BROWSER = re.compile(r"<(?:script|button|input|select|canvas|form|animate)\b|<div[^>]* hidden[ >]")


def only_here(app):
    "The builder is known: none of the site's files go in."
    if app.builder.name == "epub":
        settings = workbook.settings(Path(app.srcdir))
        app.config.version = settings["version"]
        app.config.epub_title = app.config.html_title
        app.config.epub_identifier = app.config.epub_uid = settings["repo"]
        app.config.epub_tocscope = "includehidden"
        app.config.epub_author = app.config.epub_publisher = settings["author"]
        app.config.html_static_path = ["nbs/assets/epub"]
        app.config.epub_css_files = ["epub.css"]


def without_browser(app, doctree, docname):
    "What wants a browser becomes a sentence that says where it is."
    if app.builder.name != "epub":
        return
    page = f"{workbook.address(Path(app.srcdir))}/{docname.rpartition('/')[2]}.html"
    for raw in list(doctree.findall(nodes.raw)):
        if BROWSER.search(raw.astext()):
            link = nodes.reference("", page, refuri=page)
            said = nodes.paragraph("", "", nodes.Text("This part wants a browser: "), link, nodes.Text("."))
            raw.replace_self([] if isinstance(raw.parent, nodes.TextElement) else said)


def without_scripts(app, pagename, templatename, context, doctree):
    if app.builder.name == "epub":
        context["script_files"] = []
        context["css_files"] = [c for c in context["css_files"] if "epub" in str(c) or "pygments" in str(c)]


# ---------------------------------------------------------------- after Sphinx
SVG = {name.lower(): name for name in ("viewBox", "markerHeight", "markerWidth", "refX", "refY", "preserveAspectRatio")}


def mended(page: str, sources: str, site: str) -> str:
    "A page as XML: no element where it must not be, no name twice, no link to a page that is not in the file."
    head, _, rest = page.partition("<html")
    soup = BeautifulSoup("<html" + rest, "html.parser")
    for form in soup.select("div.quiz, div.broken, div.broken-lines"):
        form.decompose()
    for p in soup.select("summary p.expanded"):  # a fold's name when it is open
        p.decompose()
    for p in soup.select("span p, summary p"):
        p.name = "span"
    for tag in soup.select("dt dl, dt dd"):  # Sphinx writes long signatures as lists in a heading
        tag.name = "div"
    for svg in soup.find_all("svg"):
        svg["xmlns"], svg["role"] = "http://www.w3.org/2000/svg", "img"
        for tag in [svg, *svg.find_all(True)]:  # whose names are in mixed case, and the parser has lowered them
            tag.attrs = {SVG.get(name, name): value for name, value in tag.attrs.items()}
    named: set[str] = set()
    for tag in soup.find_all(id=True):
        if tag["id"] in named:
            del tag["id"]
        else:
            named.add(tag["id"])
    for a in soup.find_all("a", href=True):
        del a["download"]
        if m := re.fullmatch(r"(?:\.\./)?source/(\w+)\.x?html(#.*)?", a["href"]):
            a["href"] = f"{sources}/{m[1]}.py{m[2] or ''}"
        elif re.fullmatch(r"[\w-]+\.html(#.*)?", a["href"]):
            a["href"] = a["href"].replace(".html", ".xhtml", 1)
        elif re.match(r"\.\./(?!\w+\.xhtml)", a["href"]):  # what the site offers to take
            a["href"] = f"{site}/{a['href'][3:]}"
    return head + str(soup)


def finish(folder: Path, root: Path, file: Path) -> None:
    "What Sphinx' builder left in a folder -> an EPUB file in which every page is XML and says what it holds."
    about, site = workbook.settings(root), workbook.address(root).rpartition("/")[0]
    sources = f"{about['git_url']}/blob/{workbook.commit(root) or 'main'}/{about['lib_name']}"
    contents = (folder / "content.opf").read_text("utf-8")
    for path in sorted(folder.rglob("*.xhtml")):
        name = path.relative_to(folder).as_posix()
        page = mended(path.read_text("utf-8"), sources, site)
        path.write_text(page, "utf-8")
        holds = " ".join(kind for kind, mark in (("mathml", "<math"), ("svg", "<svg")) if mark in page)
        if holds:
            contents = re.sub(rf'(<item [^>]*href="{re.escape(name)}"[^>]*?)\s*/>', rf'\1 properties="{holds}"/>', contents)
    (folder / "content.opf").write_text(contents, "utf-8")
    listed = re.findall(r'<item [^>]*href="([^"]+)"', contents)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as epub:
        epub.write(folder / "mimetype", "mimetype", zipfile.ZIP_STORED)
        for name in ["META-INF/container.xml", "content.opf", *listed]:
            epub.write(folder / name, name)


def setup(app):
    app.connect("builder-inited", only_here, priority=100)
    app.connect("doctree-resolved", without_browser)
    app.connect("html-page-context", without_scripts, priority=950)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
