"""Build the site from `_build/book`, which execute.py staged: a warning is an error, nothing of an older build stays.

Run as `python nbs/_ext/build_site.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache, partial
from html import unescape
from pathlib import Path

import detector
import epub
import llms
import notebooks
import slim
import workbook
import yaml
from PIL import Image
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES

ROOT = Path(__file__).resolve().parents[2]
QUIET = re.compile(
    r"^(\x1b\[\d+m)*(reading|writing|copying|loading|pickling|building|updating|checking|preparing|looking|"
    r"parsing|dumping|generating|resolving|highlighting|embedding|done|Running|Source|Destination|"
    r"Config Path|Output Path|making output|sphinx-|myst|Using|"
    r"Finished|build succeeded| +_build| +file:|Your|You can|Or paste|file:|\[etoc\]|The HTML|=+| *$)"
)

FRONT = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>A literate DETR</title>
<meta http-equiv="refresh" content="0; url={page}">
<link rel="icon" type="image/svg+xml" href="_static/favicon.svg">
<link rel="canonical" href="{page}">
<p><a href="{page}">A literate DETR</a></p>
</html>
"""


SCRIPTS = re.compile(r"<(?:script|link) [^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?\n?")
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.S)
WORD = re.compile(r'<span class="pre">([^<]*)</span>')
MARK = re.compile(r'<span class="[pw]">([^<]*)</span>')
SPOKEN = {  # what a screen reader is told: the logo's region, a button's name as it stands there, no header without words
    '<div class="sidebar-primary-items__start': '<div role="region" aria-label="The book" class="sidebar-primary-items__start',
    'title="Search" aria-label="Search"': 'title="Search"',
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<th class="head"><p></p></th>': "<td></td>",
    'role="doc-biblioentry"': 'role="listitem"',
}
LIST = {"<dl>": '<div class="sig-list">', "</dl>": "</div>", "<dd>": "<div>", "</dd>": "</div>"}
CODE = re.compile(r'(<div class="highlight-(?!none|myst-ansi)[^>]*><div class="highlight"><pre>)(.*?)(</pre>)', re.S)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")  # a browser would break it behind its hyphens
LITERAL = re.compile(r'<span class="pre">(--[a-z][\w-]*)</span>')
HEAD = re.compile(r'(<span class="c1">)(# \S+)')  # a comment's sign and its first word
STOP = re.compile(r"<math (?:(?!<math ).)*?</math>[.,;:!?)]+", re.S)  # a formula with the stop behind it
IMAGE = re.compile(r'<img (?=[^>]*src="([^"]+/_images/[^"]+\.png)")')
FIGURE = re.compile(r'<figure [^>]*id="([^"]+)".*?</figure>', re.S)
PICTURE = re.compile(r'<img [^>]*src="([^"]+)".*?caption-number">(.*?) ?<.*(?=</p>\s*</figcaption>)', re.S)
NARROW, WIDE, CAP = 34, 90, 18  # signs that a phone, and a desk, show in a line of code; a phone's largest indent


def hanging(code: str) -> str:
    """Highlighted code whose long lines are elements that know their indent: the style wraps them, and hangs what follows.

    Line ends stay outside of the elements, so that what is copied is what was written."""
    lines = code.split("\n")
    for i, line in enumerate(lines):
        text = unescape(re.sub(r"<[^>]+>", "", line))
        if len(text) > NARROW and line.count("<span") == line.count("</span>"):
            indent = len(text) - len(text.lstrip())
            if len(text) > WIDE:  # it wraps anyway, so a comment need not stand in a column
                line = re.sub(r' {3,}(?=<span class="c1">)', "  ", line)
            line = HEAD.sub(r'\1<span class="whole">\2</span>', line)
            line = OPTION.sub(r'<span class="whole">\g<0></span>', line)
            line = re.sub(r'^(?:<span class="w">)? +(?:</span>)?', f'<span class="in">{" " * indent}</span>', line)
            tight = " tight" if min(indent, CAP) + len(text.split()[0]) > NARROW else ""  # its first word is too long
            lines[i] = f'<span class="long{tight}" style="--in:{indent}">{line}</span>'
    return "\n".join(lines)


@cache
def plain() -> re.Pattern:
    "Words of code that a highlighter marks, and that both of the book's styles show like any text: names, brackets, blanks."
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"]["html_theme_options"]
    styles = [get_style_by_name(config[f"pygments_{shade}_style"]) for shade in ("light", "dark")]
    looks = {name: [s.style_for_token(token) for s in styles] for token, name in STANDARD_TYPES.items() if name}
    return re.compile(rf'<span class="(?:{"|".join(n for n in looks if looks[n] == looks["n"])})">([^<]*)</span>')


def replaced(text: str, by: dict[str, str]) -> str:
    for old, new in by.items():
        text = text.replace(old, new)
    return text


def taken(figure: re.Match) -> str:
    "A figure whose caption ends with a link to its picture; the file that a reader gets says what it is."
    picture = PICTURE.search(figure[0])
    if not picture:
        return figure[0]
    file, number = picture.groups()
    name = f"detr_lit_{figure[1]}{Path(file).suffix}"
    link = f' <a class="take" href="{file}" download="{name}" aria-label="download {number}">download</a>'
    at = picture.end()
    return figure[0][:at] + link + figure[0][at:]


def roomy(folder: Path, image: re.Match) -> str:
    "A picture's tag with its sides: its room on the page is there before it is, and it comes when a reader comes near."
    with Image.open(folder / image[1]) as picture:
        return '{}loading="lazy" width="{}" height="{}" '.format(image[0], *picture.size)


def lighten(html: Path) -> None:
    """What Sphinx' pages lack, and what they have too much of.

    - Less to load, for the same look: the theme's icons come as a font and once more as a script of 1.5 MB, for which every
      page would wait; each word, bracket and blank of code and of signatures is an element of its own, though most look like
      the text around them (half of a page's elements).
    - No line of code runs over the edge, and what belongs together stays on a line; each figure can be taken, and has its
      room before it is loaded.
    - A screen reader is told what it is: regions, names, lists (Sphinx' long signatures are lists without terms)."""
    for page in html.rglob("*.html"):
        text = SCRIPTS.sub("", page.read_text("utf-8"))
        text = SIGNATURE.sub(lambda sig: replaced(MARK.sub(r"\1", WORD.sub(r"\1", sig[0])), LIST), text)
        text = CODE.sub(lambda m: m[1] + plain().sub(r"\1", hanging(m[2])) + m[3], text)
        text = LITERAL.sub(r'<span class="pre whole">\1</span>', text)
        text = STOP.sub(r'<span class="whole">\g<0></span>', text)
        text = FIGURE.sub(taken, text)
        text = IMAGE.sub(partial(roomy, page.parent), text)
        page.write_text(replaced(text, SPOKEN), "utf-8")
    for file in html.glob("_static/scripts/fontawesome.js*"):
        file.unlink()


def build(root: Path = ROOT, say=print) -> int:
    """Run jupyter-book with `-n -W`; 0 if the site is whole.

    Always from nothing: Sphinx shows a warning only while it reads a page, so a second build on the remains of a failed
    one would pass. The old site stays until the new one is whole."""
    new = root / "_build" / "site"
    html = new / "_build" / "html"
    shutil.rmtree(new, ignore_errors=True)
    # before the pages, which say how much there is to load
    models = {name: file for name in detector.WEIGHTS if (file := detector.model_file(root, name))}
    front = re.search(r"^root:\s*(\S+)", (root / "_toc.yml").read_text("utf-8"), re.M)
    status = jupyter_book(root, new, [], say)
    if front and not status:
        status = jupyter_book(root, new, ["--builder", "custom", "--custom-builder", "epub"], say)
    if not status:
        lighten(html)
        workbook.write(root, html / "workbook")
        for name, file in models.items():
            (html / "_static" / "ort").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, html / "_static" / "ort" / f"{name}.onnx")
        slim.slim(html, root / "nbs" / "assets")
        if front:
            (html / "index.html").write_text(FRONT.format(page=f"{front[1]}.html"), "utf-8")
            (html / "llms.txt").write_text(llms.llms(root), "utf-8")
            llms.describe(root, html)
            notebooks.write(root, html / notebooks.FOLDER)
            epub.finish(new / "_build" / "epub", root, html / epub.NAME)
        shutil.rmtree(root / "_build" / "html", ignore_errors=True)
        html.rename(root / "_build" / "html")
        shutil.rmtree(new)
    return status


def jupyter_book(root: Path, new: Path, builder: list[str], say) -> int:
    "One builder; a second one takes what the first has read."
    env = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1"}
    main = "import gc; gc.disable(); from jupyter_book.cli.main import main; main()"  # nearly half of the time is gc's
    book = ["-c", main, "build", str(root / "_build" / "book")]
    command = [sys.executable, *book, "--path-output", str(new), "-n", "-W", "--keep-going", *builder]
    run = subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert run.stdout
    for line in run.stdout:
        line = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
        if not QUIET.match(line):
            say(f"   {line}")
    return run.wait()


if __name__ == "__main__":
    sys.exit(build(say=lambda s: print(s, flush=True)))
