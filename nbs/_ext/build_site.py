"""Build the site from `_build/book`, which execute.py staged: a warning is an error, nothing of an older build stays.

Run as `python nbs/_ext/build_site.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import llms
import workbook

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


SCRIPTS = re.compile(r'<(?:script|link) [^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?\n?')
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.S)
WORD = re.compile(r'<span class="pre">([^<]*)</span>')
MARK = re.compile(r'<span class="[pw]">([^<]*)</span>')


def lighten(html: Path) -> None:
    """Less to load and to parse, for the same look.

    The theme's icons come as a font and once more as a script of 1.5 MB, for which every page would wait. Sphinx wraps
    each word, bracket and blank of a signature in elements that no style refers to: more than half of the API's page."""
    for page in html.rglob("*.html"):
        text = SCRIPTS.sub("", page.read_text("utf-8"))
        text = SIGNATURE.sub(lambda sig: MARK.sub(r"\1", WORD.sub(r"\1", sig[0])), text)
        page.write_text(text, "utf-8")
    for file in html.glob("_static/scripts/fontawesome.js*"):
        file.unlink()


def build(root: Path = ROOT, say=print) -> int:
    """Run jupyter-book with `-n -W`; 0 if the site is whole.

    Always from nothing: Sphinx shows a warning only while it reads a page, so a second build on the remains of a failed
    one would pass. The old site stays until the new one is whole."""
    new = root / "_build" / "site"
    shutil.rmtree(new, ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1"}
    main = "import gc; gc.disable(); from jupyter_book.cli.main import main; main()"  # nearly half of the time is gc's
    book = ["-c", main, "build", str(root / "_build" / "book")]
    command = [sys.executable, *book, "--path-output", str(new), "-n", "-W", "--keep-going"]
    run = subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert run.stdout
    for line in run.stdout:
        line = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
        if not QUIET.match(line):
            say(f"   {line}")
    if run.wait() == 0:
        front = re.search(r"^root:\s*(\S+)", (root / "_toc.yml").read_text("utf-8"), re.M)
        if front:
            (new / "_build/html/index.html").write_text(FRONT.format(page=f"{front[1]}.html"), "utf-8")
        lighten(new / "_build/html")
        html = root / "_build" / "html"
        shutil.rmtree(html, ignore_errors=True)
        (new / "_build" / "html").rename(html)
        workbook.write(root, html / "workbook")
        if front:
            (html / "llms.txt").write_text(llms.llms(root), "utf-8")
        shutil.rmtree(new)
    return run.returncode


if __name__ == "__main__":
    sys.exit(build(say=lambda s: print(s, flush=True)))
