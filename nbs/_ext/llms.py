"""llms.txt: what the site holds, for programs that read: each page of _toc.yml with its address and how it begins."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import workbook
import yaml


def beginning(path: Path) -> tuple[str, str]:
    "A page's title, and the first sentences that are prose."
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(c.source for c in nbformat.reads(text, 4).cells[:2] if c.cell_type == "markdown")
    title, _, rest = re.sub(r"\A---.*?^---\n", "", text, flags=re.S | re.M).partition("\n")
    rest = re.sub(r" ?\{cite:\w\}`[^`]*`", "", rest).replace("(, ", "(")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|\{[\w:]+\}`([^`]*)`|<!--.*?-->", lambda m: m[1] or m[2] or "some", rest)
    prose = [p for p in re.split(r"\n\s*\n", plain) if re.match(r"\s*[A-Z*]", p)]
    return title.removeprefix("# ").strip(), re.sub(r"\s+", " ", prose[0].replace("*", "") if prose else "").strip()


def page(root: Path, file: str, url: str) -> str:
    path = next(p for p in (root / f"{file}.ipynb", root / f"{file}.md") if p.exists())
    title, words = beginning(path)
    return f"- [{title}]({url}/{path.stem}.html)" + (f": {words}" if words else "")


def llms(root: Path) -> str:
    settings, toc = workbook.settings(root), yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    url = workbook.address(root)
    lines = ["# A literate DETR", "", f"> {settings['description']} Version {settings['version']}.", ""]
    lines += ["## Start", "", page(root, toc["root"], url), ""]
    for part in toc["parts"]:
        lines += [f"## {part['caption']}", "", *(page(root, c["file"], url) for c in part["chapters"]), ""]
    return "\n".join(lines)
