"""Lint the chapters' prose and rhythm, and print the rhythm.

    python nbs/_ext/lint.py [CHAPTER ...]          (06 or 06_matcher; default: every notebook)

- A decimal or percentage in prose is either a setting (then it is `code` or $math$), a number of the paper ({fact}), a
  number of this run ({glue:text}), or the number of a section, table, equation or version. Anything else was typed from
  memory, and fails.
- Cells: 20 lines at most (30 for a class or function, its docstring not counted),
  never more than three in a row without prose, no stored outputs.
- One title a chapter, no heading level skipped, a {cost} label in numbered chapters, exercise labels unique and
  answered.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

import nbformat
from nbdev_cells import split

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"(?<![\w.,])(?:\d+(?:\.\d+)?\s?(?:%|per\s?cent)|\d*\.\d+)(?!\.?\d)")
CITED = re.compile(
    r"(?:sections?|sec\.|§|appendix|appendices|tables?|figures?|figs?\.|eqs?\.|equations?|steps?|chapters?|versions?|v|python|"
    r"pytorch|torch|torchvision|numpy|scipy|nbdev|cuda|apache|cc[ -]by)"
    r"[\s~-]*\(?(?:[A-Z]?[\d.]+(?:,? and |, | or | to |-|–))*[A-Z]?\.?$",
    re.I,
)
PROSE_FENCES = {
    "admonition",
    "note",
    "tip",
    "warning",
    "important",
    "hint",
    "seealso",
    "attention",
    "caution",
    "dropdown",
    "exercise",
    "solution",
    "exercise-start",
    "solution-start",
    "margin",
    "figure",
    "epigraph",
}
FENCE = re.compile(r"^\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\})?(.*)$")


def prose(markdown: str) -> str:
    "What a reader reads as text: no code, no math, no links, no roles, no comments, no options of directives."
    out, stack = [], []
    text = re.sub(r"<!--.*?-->|\$\$.*?\$\$(\s*\([\w-]+\))?", " ", markdown, flags=re.S)
    for line in text.splitlines():
        if m := FENCE.match(line):
            mark, name, rest = m.groups()
            if (
                stack
                and not name
                and not rest.strip()
                and line.strip()[0] == stack[-1][0][0]
                and len(line.strip()) >= len(stack[-1][0])
            ):
                stack.pop()
                continue
            stack.append((mark, name))
            if name in PROSE_FENCES and name != "figure":
                out.append(rest)
            continue
        if stack and (stack[-1][1] not in PROSE_FENCES or re.match(r"\s*:[\w-]+:", line)):
            continue
        out.append(re.sub(r"^\([\w-]+\)=\s*$", "", line))
    text = "\n".join(out)
    text = re.sub(r"\{[\w:-]+\}`[^`]*`|(`+)(?:(?!\1).)+\1|(?<!\\)\$[^$]+\$", " x ", text, flags=re.S)
    return re.sub(r"!?\[[^\]]*\]\([^)]*\)|<https?:[^>]*>|https?://\S+|<[^>]+>", " x ", text)


def bare_numbers(text: str) -> list[str]:
    return [m[0] for m in NUMBER.finditer(text) if not CITED.search(text[max(0, m.start() - 60) : m.start()])]


def too_long(code: str) -> int:
    "0, or the lines of a cell that has too many of them."
    code = re.sub(r'"""(?s:.*?)"""', "", code)  # documentation is not what makes a cell long
    lines = [x for x in code.splitlines() if x.strip()]
    definition = any(x.startswith(("class ", "def ", "@")) for x in lines)
    return len(lines) if len(lines) > (30 if definition else 20) else 0


class Chapter:
    def __init__(self, path: Path):
        self.path, self.problems = path, []
        self.lines: list[int] = []
        self.words, self.exercises, self.solutions = 0, [], []
        in_a_row, levels, titles, everything = 0, 0, 0, ""
        for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                found, code = split(cell.source)
                if cell.outputs or cell.execution_count:
                    self.say(i, "has stored outputs (run nbdev_clean, or clear them)")
                if not code or "hide" in found or "default_exp" in found:
                    continue
                in_a_row += 1
                self.lines.append(len([x for x in code.splitlines() if x.strip()]))
                if n := too_long(code):
                    self.say(i, f"{n} lines of code")
                if in_a_row == 4:
                    self.say(i, "the fourth code cell without prose")
            elif cell.cell_type == "markdown":
                everything += cell.source + "\n"
                text = prose(cell.source)
                words = len(re.findall(r"\w[\w'’-]*", text))
                self.words += words
                in_a_row = 0 if words else in_a_row
                for n in bare_numbers(text):
                    self.say(i, f"bare number in prose: {n.strip()}")
                for level in map(
                    len,
                    re.findall(r"^(#+)\s", re.sub(r"^(`{3,}).*?^\1", "", cell.source, flags=re.S | re.M), flags=re.M),
                ):
                    titles += level == 1
                    if level > levels + 1:
                        self.say(i, f"heading level {level} after {levels}")
                    levels = level
                if "#|" in text:
                    self.say(i, "an nbdev directive in prose")
                self.exercises += re.findall(
                    r"\{exercise(?:-start)?\}[^\n]*\n(?::[\w-]+:[^\n]*\n)*?:label:\s*(\S+)", cell.source
                )
                self.solutions += re.findall(r"\{solution(?:-start)?\}\s*(\S+)", cell.source)
        if titles != 1:
            self.say(None, f"{titles} titles (lines that begin with one #), not 1")
        if path.stem[0].isdigit() and "{cost}" not in everything:
            self.say(None, "no {cost} label")
        for label in sorted(set(self.exercises) ^ set(self.solutions)):
            self.say(None, f"exercise and answer do not pair: {label}")

    def say(self, cell, problem: str) -> None:
        self.problems.append(f"nbs/{self.path.name}{f', cell {cell}' if cell is not None else ''}: {problem}")

    def rhythm(self) -> str:
        n = len(self.lines)
        return (
            f"{self.path.stem:<20}{n:>6}{statistics.median(self.lines or [0]):>8.0f}{max(self.lines, default=0):>9}"
            f"{self.words / n if n else 0:>12.0f}{len(self.exercises):>11}"
        )


def lint(paths) -> tuple[list[Chapter], list[str]]:
    chapters = [Chapter(p) for p in paths]
    problems, seen = [p for c in chapters for p in c.problems], {}
    for c in chapters:
        for label in c.exercises:
            if label in seen:
                problems.append(f"nbs/{c.path.name}: exercise label {label} is in {seen[label]} already")
            seen[label] = c.path.name
    return chapters, problems


def main(names) -> int:
    paths = sorted((ROOT / "nbs").glob("*.ipynb"))
    paths = [p for p in paths if not names or any(p.stem == Path(n).stem or p.stem.startswith(f"{n}_") for n in names)]
    chapters, problems = lint(paths)
    print(f"{'chapter':<20}{'cells':>6}{'median':>8}{'longest':>9}{'words/cell':>12}{'exercises':>11}")
    for c in chapters:
        print(c.rhythm())
    for p in problems:
        print(p)
    print(f"{len(chapters)} chapters, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
