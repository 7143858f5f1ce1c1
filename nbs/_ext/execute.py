"""Execute the book: changed chapters only, two at a time, each from a fresh kernel, into `_build/book/`.

    python nbs/_ext/execute.py [CHAPTER ...] [--force] [--list] [--figures] [--jobs N]

Git holds notebooks without outputs. This step runs them and stages a copy of the book with the outputs in, from which
Jupyter Book makes the site with its own execution off. A chapter runs again when something that it rests on changed:

- its code cells (not its prose), or a line `#| rests_on: PATH ...` of one,
- the modules of detr_lit that it imports, and what these import: `from detr_lit import X` is the module that defines X,
- a file, or a folder under nbs/runs or detr_lit/weights, that this code names in a string,
- Python, nbs/matplotlibrc, how a chapter is run (below), and the installed versions of what the code imports, with
  their requirements.

Outputs and a record (key, seconds, peak memory, date) are kept in `_build/executed/`. The kernels run in nbs/, with shapes
and types checked in the package and in the cells (jaxtyping and beartype).
"""

from __future__ import annotations

import argparse
import ast
import datetime
import hashlib
import importlib.metadata as metadata
import inspect
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from base64 import b64decode
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import nbformat

PACKAGE = "detr_lit"
DIRECTIVE = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$", re.M)
ALWAYS = ("ipykernel", "ipython", "matplotlib", "matplotlib-inline", "jaxtyping", "beartype", "nbclient")
CODE_IN_STRING = re.compile(  # a program or a command line that a cell hands to somebody else
    rf"(^|[\s;])(import|from|-m)\s+{PACKAGE}\b|^{PACKAGE}(\.\w+)*$|(^|[\s;|&]){PACKAGE.replace('_', '-')}(\s|$)"
)
PRELUDE = f"""\
from jaxtyping import install_import_hook as _hook
_hook({PACKAGE!r}, "beartype.beartype")
%load_ext jaxtyping
%jaxtyping.typechecker beartype.beartype
del _hook"""
EPILOGUE = """\
try:
    import resource as _r, sys as _s
    _peak = max(_r.getrusage(w).ru_maxrss for w in (_r.RUSAGE_SELF, _r.RUSAGE_CHILDREN))
    _peak /= 1e6 if _s.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
except ImportError:
    import psutil as _p
    _peak = _p.Process().memory_info().peak_wset / 1e6
print(_peak)"""


# ---------------------------------------------------------------- what a chapter rests on
def code_cells(nb) -> list[str]:
    return [c.source for c in nb.cells if c.cell_type == "code"]


def code_hash(nb) -> str:
    return hashlib.sha256("\x00".join(code_cells(nb)).encode()).hexdigest()


def as_python(source: str) -> ast.Module | None:
    "A cell's syntax tree, magics included; None if it is not Python (`%%bash`...)."
    try:
        return ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError:
            return None


def strings(tree: ast.AST) -> set[str]:
    return {
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and 0 < len(n.value) < 200
    }


class Package:
    "Which modules and which outside packages a piece of code uses, read from its imports."

    def __init__(self, root: Path, name: str = PACKAGE):
        self.root, self.name, self.folder = root, name, root / name
        self.files = {f.stem: f for f in sorted(self.folder.glob("*.py")) if f.stem not in {"__init__", "_modidx"}}

        self.trees = {m: ast.parse(f.read_text("utf-8")) for m, f in self.files.items()}
        self.strings = {m: strings(tree) for m, tree in self.trees.items()}
        self.imported = {m: self.imports(tree) for m, tree in self.trees.items()}

    def defined_in(self, name: str) -> set[str]:
        "The modules that define `name` at their top level."
        found = set()
        for module in self.files:
            for s in self.trees[module].body:
                targets = s.targets if isinstance(s, ast.Assign) else [s.target] if isinstance(s, ast.AnnAssign) else []
                if getattr(s, "name", None) == name or any(
                    n.id == name for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)
                ):
                    found.add(module)
        return found

    def resolve(self, dotted: str, names: list[str]) -> set[str]:
        "`from detr_lit.a import b`, `from detr_lit import X` -> modules; all of them when in doubt."
        rest = dotted[len(self.name) + 1 :].split(".")[0]
        if rest:
            return {rest} if rest in self.files else set(self.files)
        found = set()
        for name in names:
            here = {name} if name in self.files else set() if name == "__version__" else self.defined_in(name)
            if not here and name != "__version__":
                return set(self.files)
            found |= here
        return found if names else set(self.files)

    def imports(self, tree: ast.AST) -> tuple[set[str], set[str]]:
        "(our modules, outside packages) that a tree names in imports, anywhere in it."
        ours, outside = set(), set()
        for n in ast.walk(tree):
            if isinstance(n, ast.Import):
                for a in n.names:
                    top = a.name.split(".")[0]
                    if top == self.name:
                        ours |= self.resolve(a.name, [])
                    else:
                        outside.add(top)
            elif isinstance(n, ast.ImportFrom):
                dotted = f"{self.name}.{n.module}" if n.level and n.module else self.name if n.level else n.module or ""
                if dotted.split(".")[0] == self.name:
                    ours |= self.resolve(dotted, [a.name for a in n.names])
                else:
                    outside.add(dotted.split(".")[0])
        return ours, outside

    def closure(self, modules: set[str]) -> tuple[set[str], set[str]]:
        "The modules, all that they import of ours, and the outside packages that these import."
        seen, outside, todo = set(), set(), list(modules)
        while todo:
            module = todo.pop()
            if module in seen:
                continue
            seen.add(module)
            ours, out = self.imported[module]
            outside |= out
            todo += ours
        return seen, outside

    def init_code(self) -> str:
        "What `__init__` does beyond importing, names and version; all chapters that import the package rest on it."
        file = self.folder / "__init__.py"
        if not file.exists():
            return ""
        body = []
        for s in ast.parse(file.read_text("utf-8")).body:
            if isinstance(s, (ast.Import, ast.ImportFrom)):
                continue
            if isinstance(s, (ast.Assign, ast.AnnAssign, ast.Expr)):
                try:
                    ast.literal_eval(s.value)
                    continue
                except (ValueError, TypeError):
                    pass
            body.append(ast.dump(s))
        return "\n".join(body)


def checksum(path: Path) -> str:
    "sha256 of a file, or of a folder's files and their names."
    h = hashlib.sha256()
    for f in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        h.update(f.relative_to(path.parent).as_posix().encode())
        h.update(f.read_bytes())
    return h.hexdigest()


def named_data(root: Path, words: set[str], also: set[str]) -> dict[str, str]:
    """{path: checksum} of the data that strings name: files of the repository, folders in nbs/runs or detr_lit/weights.

    `also` holds paths from `#| rests_on:` lines, relative to the root; they may not exist (yet)."""
    homes = [root / "nbs" / "runs", root / PACKAGE / "weights"]
    found: dict[str, str] = {p: checksum(root / p) if (root / p).exists() else "missing" for p in also}
    for word in words:
        if word.strip("./ ") == "" or "\n" in word or word.startswith(("/", "~")):
            continue
        for base in (root / "nbs", root, root / PACKAGE, *homes):
            try:
                if not (base / word).exists():
                    continue
                path = (base / word).resolve()
                data = path.is_file() or (
                    path.is_dir() and any(h in path.parents for h in map(Path.resolve, homes))
                )
            except (OSError, ValueError):
                continue
            skip = {".git", ".venv", "_build", "__pycache__"}
            if (
                data
                and root.resolve() in path.parents
                and not skip & set(path.relative_to(root.resolve()).parts)
                and path.suffix not in {".py", ".ipynb", ".md"}
            ):
                found[path.relative_to(root.resolve()).as_posix()] = checksum(path)
    return found


@cache
def distributions() -> dict[str, list[str]]:
    return {k: list(v) for k, v in metadata.packages_distributions().items()}


@cache
def required(dist: str) -> tuple[str, ...]:
    try:
        lines = metadata.requires(dist) or []
    except metadata.PackageNotFoundError:
        return ()
    return tuple(re.match(r"[\w.-]+", r)[0].lower().replace("_", "-") for r in lines if "extra ==" not in r)


def installed(dist: str) -> str | None:
    "Its version; None if it is not there, or only inside setuptools, which shows what it carries once it was imported."
    try:
        found = metadata.distribution(dist)
    except metadata.PackageNotFoundError:
        return None
    return None if "_vendor" in Path(str(found.locate_file(""))).parts else found.version


def versions(outside: set[str]) -> dict[str, str]:
    "{distribution: version} of the imported packages and all that they require."
    todo = [*ALWAYS, *(d for top in outside for d in distributions().get(top, []))]
    found: dict[str, str] = {}
    while todo:
        dist = todo.pop().lower().replace("_", "-")
        if dist in found or dist == PACKAGE.replace("_", "-"):
            continue
        if version := installed(dist):
            found[dist] = version
            todo += required(dist)
    return dict(sorted(found.items()))


def rests_on(nb, package: Package) -> dict:
    "Everything that a chapter's outputs depend on, by kind."
    root, ours, outside, words, also = package.root, set(), set(), set(), set()
    for source in code_cells(nb):
        directives = dict(DIRECTIVE.findall(source))
        also |= set(directives.get("rests_on", "").split())
        if directives.get("eval") == "false":
            continue
        tree = as_python(source)
        if tree is None or any(CODE_IN_STRING.search(word) for word in strings(tree)):
            ours |= set(package.files)  # a shell line, or code in a string: all of it, to be safe
        if tree is not None:
            here, out = package.imports(tree)
            ours, outside, words = ours | here, outside | out, words | strings(tree)
    modules, out = package.closure(ours)
    for m in modules:
        words |= package.strings[m]
    rc = root / "nbs" / "matplotlibrc"
    return {
        "code": code_hash(nb),
        "modules": {m: checksum(package.files[m]) for m in sorted(modules)},
        "init": hashlib.sha256(package.init_code().encode()).hexdigest() if modules else "",
        "data": dict(sorted(named_data(root, words, also).items())),
        "versions": versions(outside | out),
        "python": platform.python_version(),
        "style": checksum(rc) if rc.exists() else "",
        "executor": hashlib.sha256((PRELUDE + EPILOGUE + inspect.getsource(run_chapter)).encode()).hexdigest(),
    }


def differs(old: dict, new: dict) -> list[str]:
    "Why a chapter runs again, in words."
    why = []
    for k, v in new.items():
        if old.get(k) == v:
            continue
        if isinstance(v, dict):
            was = old.get(k) or {}
            why += [f"{k}: {x}" for x in sorted(set(v) | set(was)) if was.get(x) != v.get(x)]
        else:
            why.append(k)
    return why


# ---------------------------------------------------------------- running one chapter
class Failure(Exception):
    pass


def without_ports(client, folder: str) -> None:
    "Talk to the kernel by files in a folder: two kernels that start at once may choose the same port, and one dies of it."
    client.create_kernel_manager()
    if hasattr(socket, "AF_UNIX"):
        client.km.transport, client.km.ip = "ipc", f"{folder}/kernel"
        client.km.connection_file = f"{folder}/kernel.json"


def run_chapter(source: Path, root: Path, threads: int, timeout: int) -> tuple[str, dict]:
    "Execute a notebook in a fresh kernel -> (it with outputs, as JSON; record), or Failure with cell and traceback."
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    nb = nbformat.read(source, as_version=4)
    skipped = {}
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if dict(DIRECTIVE.findall(cell.source)).get("eval") == "false":
                skipped[i], cell.source = cell.source, ""
    new = nbformat.v4.new_code_cell
    nb.cells = [new(PRELUDE), *nb.cells, new(EPILOGUE)]
    os.environ.update(
        PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        PYTHONHASHSEED="0",
        PYTHONWARNINGS="ignore:IProgress not found",  # tqdm in a notebook without widgets
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        MATPLOTLIBRC=str(root / "nbs"),
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        IN_BOOK="1",
    )
    if threads:
        os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
        record_timing=False,
        resources={"metadata": {"path": str(root / "nbs")}},
    )
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            without_ports(client, folder)
            client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        bad = next(
            (
                i
                for i, c in enumerate(nb.cells)
                if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs)
            ),
            None,
        )
        if bad is None:  # a dead or silent kernel: the first cell that should have run and did not
            bad = next(
                (i for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source and c.execution_count is None),
                0,
            )
        where = {0: "before the first cell"}.get(bad, f"cell {bad} (id {nb.cells[bad].get('id', '?')})")
        code = "\n".join("    | " + line for line in nb.cells[bad].source.splitlines())
        trace = "\n".join("\n".join(o.traceback) for o in nb.cells[bad].outputs if o.output_type == "error") or str(e)
        trace = re.sub(r"\x1b\[[0-9;]*m", "", trace)
        raise Failure(f"{source.name}: {where}\n{code}\n{trace}") from None
    seconds = time.perf_counter() - start
    peak = float("".join(o.text for o in nb.cells[-1].outputs if o.output_type == "stream" and o.name == "stdout") or 0)
    nb.cells = nb.cells[1:-1]
    for i, text in skipped.items():
        nb.cells[i].source = text
    record = {
        "seconds": round(seconds, 2),
        "peak_mb": round(peak, 1),
        "threads": threads or os.cpu_count(),
        "python": platform.python_version(),
    }
    return nbformat.writes(nb), record


def work(job):
    try:
        return job[0], *run_chapter(*job), None
    except Failure as e:
        return job[0], None, None, str(e)


# ---------------------------------------------------------------- the book
def chapters_in_toc(root: Path) -> list[str]:
    "Files of _toc.yml, in order: 'nbs/00_data', ..."
    import yaml

    def walk(node):
        if isinstance(node, dict):
            for k, v in node.items():
                if k in {"file", "root"}:
                    yield v
                else:
                    yield from walk(v)
        elif isinstance(node, list):
            for v in node:
                yield from walk(v)

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))))


def notebooks(root: Path) -> list[Path]:
    return [p for f in chapters_in_toc(root) if (p := root / f"{f}.ipynb").exists()]


def write_if_changed(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def merged(source: Path, executed: Path) -> bytes:
    "The chapter as it is now, with the outputs of its last run (the code is the same, the prose may be newer)."
    nb, done = nbformat.read(source, as_version=4), nbformat.read(executed, as_version=4)
    old = [c for c in done.cells if c.cell_type == "code"]
    new = [c for c in nb.cells if c.cell_type == "code"]
    if [c.source for c in old] != [c.source for c in new]:
        raise SystemExit(f"{source.name} was edited while the book was executed: once more, please")
    for a, b in zip(new, old):
        a.outputs, a.execution_count = b.outputs, b.execution_count
    return nbformat.writes(nb).encode()


def stage(root: Path, build: Path) -> Path:
    "Copy all that the site is made of to _build/book, notebooks with their outputs, and drop what is there no more."
    book, keep = build / "book", set()

    def put(relative: str, data: bytes):
        keep.add(Path(relative))
        write_if_changed(book / relative, data)

    for name in ("_toc.yml", "_config.yml", "CITATION.cff", "settings.ini"):
        if (root / name).exists():
            put(name, (root / name).read_bytes())
    for folder in ("nbs/_ext", "nbs/assets", "nbs/launch", "detr_lit/mutants"):
        for f in (root / folder).rglob("*"):
            if f.is_file() and "__pycache__" not in f.parts:
                put(f.relative_to(root).as_posix(), f.read_bytes())
    for f in [
        *(root / "nbs").glob("*.bib"),
        *(root / "nbs").glob("*.toml"),
        *(root / "nbs").glob("*.svg"),
        *(root / "nbs").glob("*.png"),
    ]:
        put(f.relative_to(root).as_posix(), f.read_bytes())
    for file in chapters_in_toc(root):
        for path in (root / f"{file}.ipynb", root / f"{file}.md"):
            if not path.exists():
                continue
            executed = build / "executed" / path.name
            if path.suffix == ".ipynb" and executed.exists():
                put(f"{file}.ipynb", merged(path, executed))
                cost = json.loads(executed.with_suffix(".json").read_text("utf-8"))
                cost.pop("rests_on", None)
                put(f"executed/{path.stem}.json", json.dumps(cost, indent=1).encode())
            else:
                put(path.relative_to(root).as_posix(), path.read_bytes())
    for f in sorted(book.rglob("*"), reverse=True):
        if f.is_file() and f.relative_to(book) not in keep:
            f.unlink()
        elif f.is_dir() and not any(f.iterdir()):
            f.rmdir()
    return book


def execute(root: Path, only=(), force=False, jobs=2, timeout=1800, listing=False, say=print) -> dict[str, str]:
    "Bring `_build/executed` up to date -> {chapter: error} of those that failed."
    build = Path(root, "_build")
    store, package = build / "executed", Package(root)
    store.mkdir(parents=True, exist_ok=True)
    if only:
        names = [Path(o).stem for o in only]
        paths = [p for n in names if (p := root / "nbs" / f"{n}.ipynb").exists()]
        if missing := set(names) - {p.stem for p in paths}:
            raise SystemExit(f"no such chapter: {', '.join(sorted(missing))}")
    else:
        paths = notebooks(root)
    todo, needs, took = [], {}, {}
    for path in paths:
        record, output = store / f"{path.stem}.json", store / path.name
        needs[path] = rests_on(nbformat.read(path, as_version=4), package)
        known = json.loads(record.read_text("utf-8")) if record.exists() else {}
        took[path] = known.get("seconds", 60)
        old = known.get("rests_on") if output.exists() else None
        why = ["asked for"] if force else ["never run"] if old is None else differs(old, needs[path])
        if why:
            todo.append(path)
        if listing or why:
            reasons = f"  ({', '.join(why[:4])}{', ...' if len(why) > 4 else ''})" if why else ""
            say(f"  {path.stem:<22} {'run' if why else 'kept'}{reasons}")
    if listing or not todo:
        if not listing:
            say(f"  {len(paths)} chapters, none changed")
        return {}
    for path in todo:  # nothing stale stays behind if the run is interrupted
        for f in (store / path.name, store / f"{path.stem}.json"):
            f.unlink(missing_ok=True)
    jobs = max(1, min(jobs, len(todo)))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failed: dict[str, str] = {}
    work_list = [(p, root, threads, timeout) for p in sorted(todo, key=took.get, reverse=True)]  # the longest first
    pool = ProcessPoolExecutor(jobs) if jobs > 1 else None
    try:
        for path, done, record, error in pool.map(work, work_list) if pool else map(work, work_list):
            if error:
                failed[path.stem] = error
                say(f"  {path.stem:<22} FAILED\n{error}")
                continue
            write_if_changed(store / path.name, done.encode())
            needs[path]["code"] = code_hash(nbformat.reads(done, as_version=4))  # of the cells that did run
            (store / f"{path.stem}.json").write_text(
                json.dumps({**record, "date": f"{datetime.date.today()}", "rests_on": needs[path]}, indent=1), encoding="utf-8"
            )
            say(f"  {path.stem:<22} {record['seconds']:6.1f} s {record['peak_mb']:7.0f} MB")
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return failed


def save_figures(root: Path, stems) -> None:
    for stem in stems:
        file, folder, n = root / "_build/executed" / f"{stem}.ipynb", root / "_build/figures" / stem, 0
        if not file.exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        for cell in nbformat.read(file, as_version=4).cells:
            for out in cell.get("outputs", []):
                if data := out.get("data", {}).get("image/png"):
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{n:02}.png").write_bytes(b64decode(data))
                    n += 1
        print(f"  {n} figures in {folder}")


def main(argv=None) -> int:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument(
        "chapters", nargs="*", help="names such as 06_matcher (default: all of _toc.yml, then stage the book)"
    )
    ap.add_argument("--force", action="store_true", help="run even what is up to date")
    ap.add_argument("--list", action="store_true", help="say what would run, and why")
    ap.add_argument("--figures", action="store_true", help="also write the figures to _build/figures/")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--timeout", type=int, default=1800, help="seconds for one cell")
    ap.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    a = ap.parse_args(argv)
    root, start = a.root.resolve(), time.perf_counter()
    failed = execute(root, a.chapters, a.force, a.jobs, a.timeout, a.list, say=lambda s: print(s, flush=True))
    if a.figures:
        save_figures(root, [Path(c).stem for c in a.chapters] or [p.stem for p in notebooks(root)])
    if failed:
        print(f"{len(failed)} of the chapters failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if not a.chapters and not a.list:
        stage(root, root / "_build")
        print(f"  staged in _build/book ({time.perf_counter() - start:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
