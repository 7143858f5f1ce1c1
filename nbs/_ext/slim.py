"""What a page loads, and no more: the theme's style sheets as one, with the rules that some page uses; the icons and the signs of
formulas that some page shows; our own scripts and style sheets as small as a minifier makes them; no script before the text.

The theme brings 550 kB of style sheets in eleven files, which a browser must have before it shows a word, most of it for what
this book has not (carousels, two thousand icons), and fonts of 300 kB for two dozen icons; a font for formulas has 5000 signs.
"""

from __future__ import annotations

import hashlib
import logging
import re
from html import unescape
from os.path import relpath
from pathlib import Path
from unicodedata import decomposition

import minify
import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont

logging.getLogger("fontTools").setLevel(logging.WARNING)  # a style of Pygments makes every logger talk
SHEET = re.compile(r'[ \t]*<link (?=[^>]*rel="stylesheet")[^>]*href="([^"?]*_static/([^"?]+))[^"]*"[^>]*>\n?')
SCRIPT = re.compile(r"<script(?![^>]*(?:defer|async|module))(?=[^>]* src=)")
OPTIONS = re.compile(r'<script src="[^"]*_static/documentation_options\.js[^>]*></script>')
IMPORT = re.compile(r'@import "([^"]+)";')
LINK = re.compile(r"url\((?!data:|#)[\"']?([^)\"'?#]+)([^)\"']*)[\"']?\)")
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
BRACKETS = re.compile(r"\([^()]*\)")
ICON = re.compile(r"[\ue000-\uf8ff]|\\(f[0-9a-f]{3})\b")
MADE = {"bs-tooltip-auto"}  # names that scripts put together
TTF = re.compile(r',\s*url\([^)]*\.ttf\) format\("truetype"\)')
FORMULA, TAG = re.compile(r"<math\b.*?</math>", re.S), re.compile(r"<[^>]*>")
LEANING = (c for c in (*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x210E) if decomposition(chr(c)))
ITALIC = {chr(int(decomposition(chr(c)).removeprefix("<font> "), 16)): c for c in LEANING}


def pages(html: Path) -> list[Path]:
    return [page for page in html.rglob("*.html") if "_static" not in page.parts]


def used_names(html: Path) -> set[str]:
    "The classes of all pages, and every word of a script that may become one."
    names = set(MADE)
    for page in pages(html):
        names.update(*(value.split() for value in re.findall(r'class="([^"]+)"', page.read_text("utf-8"))))
    for script in (html / "_static").rglob("*.js"):
        if "ort" not in script.parts:
            names |= {*re.findall(r"[A-Za-z_][\w-]*", script.read_text("utf-8"))}
    return names


def needed(selector: str, names: set[str]) -> bool:
    "Can it meet anything? What stands in brackets (:not, :is) is not asked."
    while (bare := BRACKETS.sub("", selector)) != selector:
        selector = bare
    return all(name in names for name in CLASS.findall(selector))


def selectors(prelude: list) -> list[str]:
    "A rule's selectors, parted at the commas that stand in no brackets."
    parts: list[list] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return [tinycss2.serialize(part).strip() for part in parts]


def pruned(rules: list, names: set[str]) -> str:
    "Rules as text, without those and those parts that no page needs."
    out = []
    for rule in rules:
        if rule.type == "qualified-rule":
            if kept := [s for s in selectors(rule.prelude) if needed(s, names)]:
                out.append(f"{','.join(kept)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            if kept := pruned(tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True), names):
                out.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{kept}}}")
        else:
            out.append(rule.serialize())
    return "\n".join(out)


def whole(file: Path, at: Path) -> str:
    "A style sheet with what it imports, its links as they are from the folder `at`."
    text = LINK.sub(lambda m: f"url({relpath(file.parent / m[1], at)}{m[2]})", file.read_text("utf-8"))
    return IMPORT.sub(lambda m: whole(file.parent / m[1], at), text)


def join(html: Path, ours: set[str]) -> Path:
    "The style sheets that all pages have become one, pruned, whose place is returned; `ours` stay as they are, behind it."
    static, texts = html / "_static", {page: page.read_text("utf-8") for page in pages(html)}
    sheets = {page: found for page, text in texts.items() if (found := [*SHEET.finditer(text)])}
    common = set.intersection(*({m[2] for m in found} for found in sheets.values())) - ours
    files = [m[2] for m in max(sheets.values(), key=len) if m[2] in common]
    css = "\n".join(whole(static / file, static / "styles") for file in files)
    css = pruned(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), used_names(html))
    one = f"styles/{hashlib.sha256(css.encode()).hexdigest()[:12]}.css"
    for page, found in sheets.items():
        for m in found:
            if m[2] in common:
                link = f'    <link rel="stylesheet" href="{m[1].replace(m[2], one)}" />\n' if m[2] == files[0] else ""
                texts[page] = texts[page].replace(m[0], link, 1)
        page.write_text(texts[page], "utf-8")
    for file in files:
        (static / file).unlink()
    (static / one).write_text(css, "utf-8")
    return static / one


def icons(static: Path) -> set[int]:
    "Those that a style sheet names."
    texts = (file.read_text("utf-8") for file in static.rglob("*.css"))
    return {int(m[1], 16) if m[1] else ord(m[0]) for text in texts for m in ICON.finditer(text)}


def signs(html: Path) -> set[int]:
    "Those of all formulas, and the root's, which no text holds; a lone letter is shown in italics, which are signs of their own."
    formulas = (m[0] for page in pages(html) for m in FORMULA.finditer(page.read_text("utf-8")))
    found = {"√", *unescape("".join(TAG.sub("", formula) for formula in formulas))}
    return {ord(sign) for sign in found} | {ITALIC[sign] for sign in found & ITALIC.keys()}


def pick(font: Path, shown: set[int]) -> None:
    "A font with these signs alone, and with what they can turn into (taller brackets, smaller indices)."
    whole, cut = TTFont(font), subset.Subsetter(subset.Options(hinting=False, layout_features=["*"]))
    cut.populate(unicodes=shown)
    cut.subset(whole)
    whole.save(font)


def pick_fonts(html: Path) -> None:
    "WOFF2 alone: every browser that sets formulas reads it."
    static = html / "_static"
    for file in static.rglob("*.css"):
        if TTF.search(text := file.read_text("utf-8")):
            file.write_text(TTF.sub("", text), "utf-8")
    for file in static.rglob("*.ttf"):
        file.unlink()
    for file in static.rglob("webfonts/*.woff2"):
        pick(file, icons(static))
    for file in static.rglob("temml/*.woff2"):
        pick(file, signs(html))


def small(source: str, kind: str) -> str:
    "A script (js) or a style sheet (css) that does the same in fewer bytes."
    return minify.string({"js": "application/javascript", "css": "text/css"}[kind], source)


def slim(html: Path, assets: Path) -> None:
    "All of the above, for a built site; `assets` holds what the book itself brings."
    options = (html / "_static" / "documentation_options.js").read_text("utf-8").strip()  # a script without a file wants it
    for page in pages(html):
        text = OPTIONS.sub(lambda m: f"<script>{options}</script>", page.read_text("utf-8"))
        page.write_text(SCRIPT.sub('<script defer="defer"', text), "utf-8")
    sheet = join(html, {file.name for file in assets.glob("*.css")})
    pick_fonts(html)
    for file in (sheet, *(html / "_static" / file.name for kind in ("js", "css") for file in assets.glob(f"*.{kind}"))):
        if file.exists():  # a small book loads few of them
            file.write_text(small(file.read_text("utf-8"), file.suffix[1:]), "utf-8")
