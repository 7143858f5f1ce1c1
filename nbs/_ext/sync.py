"""Chapters as text: `_text/NAME.md` (MyST markdown, not in git) <-> `nbs/NAME.ipynb`. The newer side wins.

Run as `python nbs/_ext/sync.py`. Cell ids stay.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bin(name: str) -> str:
    here = Path(sys.executable).parent / name
    return str(here) if here.exists() else name


def sync(root: Path = ROOT) -> None:
    (root / "_text").mkdir(exist_ok=True)
    text, books = (
        {p.stem: p for p in (root / "_text").glob("*.md")},
        {p.stem: p for p in (root / "nbs").glob("*.ipynb")},
    )
    for name in sorted(text.keys() | books.keys()):
        md, nb = root / "_text" / f"{name}.md", root / "nbs" / f"{name}.ipynb"
        if name not in text or (name in books and nb.stat().st_mtime > md.stat().st_mtime + 1):
            command, done = ["--to", "md:myst", str(nb), "-o", str(md)], f"{nb.name} -> _text/{md.name}"
        elif name not in books or md.stat().st_mtime > nb.stat().st_mtime + 1:
            command, done = (
                [*(["--update"] if name in books else []), "--to", "ipynb", str(md), "-o", str(nb)],
                f"_text/{md.name} -> {nb.name}",
            )
        else:
            continue
        if done.endswith(".ipynb") and not md.read_text("utf-8").strip():
            raise SystemExit(f"_text/{md.name} is empty: it would wipe {nb.name}; delete it and sync again")
        subprocess.run([bin("jupytext"), "--quiet", *command], check=True, cwd=root)
        if done.endswith(".ipynb"):
            subprocess.run([bin("nbdev_clean"), "--fname", str(nb)], check=True, cwd=root)
        now = max(md.stat().st_mtime, nb.stat().st_mtime)
        os.utime(md, (now, now))
        os.utime(nb, (now, now))
        print(f"   {done}")


if __name__ == "__main__":
    sync()
