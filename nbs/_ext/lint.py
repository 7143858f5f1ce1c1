"""Lint the chapters' prose and rhythm, and print the rhythm.

    python nbs/_ext/lint.py [CHAPTER ...]          (06 or 06_matcher; default: every notebook)

- A decimal or percentage in prose is either a setting (then it is `code` or $math$), a number of the paper ({fact}), a
  number of this run ({glue:text}), or the number of a section, table, equation or version. Anything else was typed from
  memory, and fails.
- Cells: 20 lines at most (30 for a class or function, its docstring not counted),
  never more than three in a row without prose, no stored outputs.
- Rhythm, of the cells whose code a page shows (not folded, not hidden): half of those that define nothing for the package
  have 6 lines or fewer, and each cell has 40 to 120 words of prose. A page with fewer than 12 such cells is an essay, and free.
- One title a chapter, no heading level skipped, a {cost} label in numbered chapters, exercise labels unique and
  answered.
"""

from __future__ import annotations

import ast
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


MEDIAN, WORDS, ESSAY = 6, (40, 120), 12


def defined(code: str) -> set[str]:
    "The functions and classes that a cell defines."
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a magic
        return set()
    return {s.name for s in body if isinstance(s, (ast.FunctionDef, ast.ClassDef))}


def used_at_once(cells: list[tuple[bool, str]]) -> tuple[int, int]:
    "Of (exported, code) in order: how many definitions a cell uses before the next one is defined, and how many there are."
    used = there = 0
    waiting: set[str] = set()
    for exported, code in cells:
        if exported and defined(code):
            there, waiting = there + 1, defined(code)
        elif waiting & set(re.findall(r"\w+", code)):
            used, waiting = used + 1, set()
    return used, there


class Chapter:
    def __init__(self, path: Path):
        self.path, self.problems = path, []
        self.lessons: list[int] = []
        self.shown: list[tuple[bool, str]] = []
        self.words, self.exercises, self.solutions = 0, [], []
        self.run = in_a_row = levels = titles = 0
        everything = ""
        for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                found, code = split(cell.source)
                if cell.outputs or cell.execution_count:
                    self.say(i, "has stored outputs (run nbdev_clean, or clear them)")
                if not code or "hide" in found or "default_exp" in found:
                    continue
                in_a_row += 1
                self.run = max(self.run, in_a_row)
                exported = "export" in found or "exporti" in found
                if "hide_input" not in found and "code-fold" not in found:
                    self.shown.append((exported, code))
                    if not exported:
                        self.lessons.append(len([x for x in code.splitlines() if x.strip()]))
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
        self.check_rhythm()

    def say(self, cell, problem: str) -> None:
        self.problems.append(f"nbs/{self.path.name}{f', cell {cell}' if cell is not None else ''}: {problem}")

    def check_rhythm(self) -> None:
        if len(self.shown) < ESSAY:
            return
        if (median := statistics.median(self.lessons)) > MEDIAN:
            self.say(None, f"half of the lesson's cells have more than {MEDIAN} lines (median {median:g})")
        if not WORDS[0] <= round(self.words / len(self.shown)) <= WORDS[1]:
            self.say(None, f"{self.words / len(self.shown):.0f} words for each cell, not {WORDS[0]} to {WORDS[1]}")

    def rhythm(self) -> str:
        used, there = used_at_once(self.shown)
        return (
            f"{self.path.stem:<20}{len(self.shown):>6}{statistics.median(self.lessons or [0]):>8g}"
            f"{max(self.lessons, default=0):>9}{self.words / max(1, len(self.shown)):>12.0f}{self.run:>15}"
            f"{f'{used} of {there}':>18}{len(self.exercises):>11}"
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
    print(
        f"{'chapter':<20}{'cells':>6}{'median':>8}{'longest':>9}{'words/cell':>12}{'without prose':>15}"
        f"{'definitions used':>18}{'questions':>11}"
    )
    for c in chapters:
        print(c.rhythm())
    for p in problems:
        print(p)
    print(f"{len(chapters)} chapters, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
