"""For programs that read: llms.txt, each page of _toc.yml with its address and how it begins; the same in each page's head."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path

import execute
import nbformat
import workbook
import yaml
from nbdev_cells import fact_text, tomllib


@cache
def known_facts(nbs: Path) -> dict:
    return tomllib.loads((nbs / "paper_facts.toml").read_text("utf-8"))


def beginning(path: Path) -> tuple[str, str]:
    "A page's title, and the first sentences that are prose."
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(c.source for c in nbformat.reads(text, 4).cells[:2] if c.cell_type == "markdown")
    title, _, rest = re.sub(r"\A---.*?^---\n", "", text, flags=re.S | re.M).partition("\n")
    rest = re.sub(r" ?\{cite:\w\}`[^`]*`", "", rest).replace("(, ", "(")
    rest = re.sub(r"\{fact\}`([^`]*)`", lambda m: fact_text(known_facts(path.parent)[m[1]]), rest)
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|\{[\w:]+\}`([^`]*)`|<!--.*?-->", lambda m: m[1] or m[2] or "some", rest)
    prose = [p for p in re.split(r"\n\s*\n", plain) if re.match(r"\s*[A-Z*]", p)]
    return title.removeprefix("# ").strip(), re.sub(r"\s+", " ", prose[0].replace("*", "") if prose else "").strip()


def source(root: Path, file: str) -> Path:
    return next(p for p in (root / f"{file}.ipynb", root / f"{file}.md") if p.exists())


def page(root: Path, file: str, url: str) -> str:
    path = source(root, file)
    title, words = beginning(path)
    return f"- [{title}]({url}/{path.stem}.html)" + (f": {words}" if words else "")


def describe(root: Path, html: Path) -> None:
    "What a search engine shows below a link, and a chat that a page is sent to: the page's beginning and first picture."
    settings, url = workbook.settings(root), workbook.address(root).removesuffix("/nbs")
    for file in execute.chapters_in_toc(root):
        at = html / f"{file}.html"
        text, (title, words) = at.read_text("utf-8"), beginning(source(root, file))
        said = {"name": {"description": words or settings["description"]}}
        picture = re.search(r'<img [^>]*src="\.\./(_images/[^"]+\.png)"', text)
        said["property"] = {"og:type": "article", "og:title": title, "og:description": said["name"]["description"]}
        if picture: said["property"]["og:image"] = f"{url}/{picture[1]}"
        tags = "".join(f'\n    <meta {kind}="{k}" content="{escape(v)}" />' for kind, all in said.items() for k, v in all.items())
        at.write_text(text.replace("</title>", f"</title>{tags}", 1), "utf-8")


def llms(root: Path) -> str:
    settings, toc = workbook.settings(root), yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    url = workbook.address(root)
    lines = ["# A literate DETR", "", f"> {settings['description']} Version {settings['version']}.", ""]
    lines += ["## Start", "", page(root, toc["root"], url), ""]
    for part in toc["parts"]:
        lines += [f"## {part['caption']}", "", *(page(root, c["file"], url) for c in part["chapters"]), ""]
    return "\n".join(lines)
