"""Sabotage the package one line at a time, and require that a check goes red.

    python tests/mutants.py [CHAPTER] [NAME]          (06 or 06_matcher; default: all)

Each `detr_lit/mutants/CHAPTER.toml` holds

    [[mutant]]
    name = "sign of GIoU"                            # unique in the file
    module = "matcher"                               # detr_lit/matcher.py
    find = "cost_giou * (1 - giou)"                  # occurs exactly once there
    put = "cost_giou * giou"
    tests = ["tests/test_matcher.py::test_optimum"]  # pytest node ids, one of which must fail; and / or
    chapter = "06_matcher"                           # this chapter's cells, sabotaged likewise, of which one must fail
    hint = "Matched pairs drift apart."              # what a reader would see

With neither `tests` nor `chapter`, the cells of the module's own chapter must fail. Everything happens in copies; the
checks are first seen green without sabotage. A mutant that survives is a bug of the checks: exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SKIP = shutil.ignore_patterns("__pycache__", "_build", ".*", "assets")


@dataclass
class Mutant:
    file: str
    name: str
    module: str
    find: str
    put: str
    hint: str
    tests: list[str] = field(default_factory=list)
    chapter: str = ""

    @property
    def title(self) -> str:
        return f"{self.file}: {self.name}"


def load(root: Path = ROOT) -> list[Mutant]:
    return [
        Mutant(file.stem, **m)
        for file in sorted((root / "detr_lit/mutants").glob("*.toml"))
        for m in tomllib.loads(file.read_text("utf-8")).get("mutant", [])
    ]


def source(mutant: Mutant, root: Path) -> Path:
    return root / "detr_lit" / f"{mutant.module}.py"


def own_chapter(mutant: Mutant, root: Path) -> str:
    "The chapter that nbdev says the module comes from."
    m = re.search(r"File to edit: \S*?(\w+)\.ipynb", source(mutant, root).read_text("utf-8"))
    return m[1] if m else ""


def flaws(mutants: list[Mutant], root: Path = ROOT) -> list[str]:
    "What is wrong with the mutants themselves, without running anything."
    found, seen = [], set()
    for m in mutants:
        if m.title in seen:
            found.append(f"{m.title}: the name is there twice")
        seen.add(m.title)
        n = source(m, root).read_text("utf-8").count(m.find) if source(m, root).exists() else -1
        if n != 1:
            flaw = "no such module" if n < 0 else f"`find` occurs {n} times, not once, in"
            found.append(f"{m.title}: {flaw} detr_lit/{m.module}.py")
        if m.find == m.put or not m.hint.strip():
            found.append(f"{m.title}: {'changes nothing' if m.find == m.put else 'has no hint'}")
        for t in m.tests:
            file, _, name = t.partition("::")
            name = name.split("::")[-1].split("[")[0]
            if not (root / file).exists() or (name and f"def {name}(" not in (root / file).read_text("utf-8")):
                found.append(f"{m.title}: no such test: {t}")
        chapter = m.chapter or ("" if m.tests else own_chapter(m, root))
        if not m.tests and not chapter or chapter and not (root / f"nbs/{chapter}.ipynb").exists():
            found.append(f"{m.title}: no such chapter: {chapter or '(none)'}")
    return found


def copy_of(root: Path, to: Path) -> Path:
    for folder in ("detr_lit", "tests", "nbs"):
        shutil.copytree(root / folder, to / folder, ignore=SKIP)
    for f in ("pyproject.toml", "settings.ini", "_toc.yml", "LICENSE"):
        if (root / f).exists():
            shutil.copy(root / f, to)
    return to


def sabotage(mutant: Mutant, copy: Path) -> None:
    "In the module, and in the cells of a chapter that define the same line."
    import nbformat

    file = source(mutant, copy)
    file.write_text(file.read_text("utf-8").replace(mutant.find, mutant.put), "utf-8")
    if chapter := mutant.chapter or ("" if mutant.tests else own_chapter(mutant, copy)):
        path = copy / f"nbs/{chapter}.ipynb"
        nb = nbformat.read(path, 4)
        for cell in nb.cells:
            if cell.cell_type == "code" and re.match(r"#\s*\|\s*exports?\b", cell.source):
                cell.source = cell.source.replace(mutant.find, mutant.put)
        nbformat.write(nb, path)


def pytest_says(copy: Path, tests: list[str], timeout: int) -> str:
    "'' if all pass, else the first failure in a line."
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests]
    try:
        run = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"no end after {timeout} s"
    if run.returncode in (4, 5):
        raise SystemExit(f"pytest found no test in {tests}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.M)
    return "" if run.returncode == 0 else failed[1].split("/")[-1] if failed else f"pytest exit {run.returncode}"


def chapter_says(copy: Path, chapter: str, timeout: int) -> str:
    "'' if the chapter runs, else the cell that fails."
    code = (
        "import sys; sys.path.insert(0, 'nbs/_ext')\nimport execute\nfrom pathlib import Path\n"
        f"try: execute.run_chapter(Path('nbs/{chapter}.ipynb'), Path.cwd(), 1, {timeout})\n"
        "except execute.Failure as e: print('RED', str(e).splitlines()[0]); sys.exit(3)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if run.returncode not in (0, 3):
        raise SystemExit(run.stdout + run.stderr)
    return re.sub(r" \(id \S+\)", "", run.stdout.partition("RED ")[2].strip())


def verdict(mutant: Mutant, copy: Path, timeout: int = 600) -> str:
    "What went red, or ''."
    if mutant.tests and (red := pytest_says(copy, mutant.tests, timeout)):
        return red
    chapter = mutant.chapter or ("" if mutant.tests else own_chapter(mutant, copy))
    return chapter_says(copy, chapter, timeout) if chapter else ""


def jobs_without_sabotage(mutants: list[Mutant], root: Path) -> list[Callable[[], str]]:
    "The checks as they stand, each in a copy of its own: what is red now proves nothing later."

    def in_a_copy(check: Callable[[Path], str]) -> str:
        with tempfile.TemporaryDirectory() as tmp:
            return check(copy_of(root, Path(tmp, "repo")))

    tests = sorted({t for m in mutants for t in m.tests})
    chapters = sorted({c for m in mutants if (c := m.chapter or ("" if m.tests else own_chapter(m, root)))})
    checks = [partial(pytest_says, tests=tests, timeout=1800)] if tests else []
    checks += [partial(chapter_says, chapter=c, timeout=600) for c in chapters]
    return [partial(in_a_copy, check) for check in checks]


def table(results: list[tuple[Mutant, str, float]]) -> list[str]:
    "A line a module: mutants, killed, seconds."
    lines = [f"   {'module':<18} {'mutants':>8} {'killed':>8} {'seconds':>8}"]
    modules = dict.fromkeys(m.module for m, _, _ in results)
    for name, mine in [(n, [r for r in results if r[0].module == n]) for n in modules] + [("all", results)]:
        killed, seconds = sum(bool(red) for _, red, _ in mine), sum(s for _, _, s in mine)
        lines.append(f"   {name:<18} {len(mine):>8} {killed:>8} {seconds:>8.0f}")
    return lines


def run(mutants: list[Mutant], root: Path = ROOT, say=print, jobs: int = 2) -> int:
    if bad := flaws(mutants, root):
        say("\n".join(bad))
        return 1

    def one(m: Mutant) -> tuple[Mutant, str, float]:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as tmp:
            copy = copy_of(root, Path(tmp, "repo"))
            sabotage(m, copy)
            return m, verdict(m, copy), time.perf_counter() - start

    results = []
    with ThreadPoolExecutor(jobs) as pool:
        before = [pool.submit(job) for job in jobs_without_sabotage(mutants, root)]
        after = [pool.submit(one, m) for m in mutants]
        if red := [r for job in before if (r := job.result())]:
            pool.shutdown(cancel_futures=True)
            say("red without any sabotage: " + ", ".join(red))
            return 1
        for job in after:
            m, red, seconds = job.result()
            results.append((m, red, seconds))
            say(f"   {m.file:<18} {m.name:<34} {'killed by ' + red if red else 'SURVIVED':<64} {seconds:5.1f} s")
            if not red:
                say(f"   {'':<18} a reader would see: {m.hint}")
    say("\n".join(["", *table(results)]))
    return any(not red for _, red, _ in results)


def main(argv: list[str]) -> int:
    chapter, name = (argv + ["", ""])[:2]
    mutants = [
        m
        for m in load()
        if (not chapter or m.file == chapter or m.file.startswith(f"{chapter}_")) and (not name or m.name == name)
    ]
    if not mutants:
        print(f"no mutants in detr_lit/mutants/{chapter or ''}*")
        return 1
    return run(mutants, say=lambda s: print(s, flush=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
