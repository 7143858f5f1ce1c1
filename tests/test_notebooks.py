"""The notebooks in git: the package is their export, nbdev_clean would change nothing, and they hold no outputs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def tool(name: str) -> str:
    here = Path(sys.executable).parent / name
    return str(here) if here.exists() else name


def copy_of(root: Path, to: Path) -> Path:
    "What nbdev needs of the tree, so that nothing in the tree itself is touched."
    shutil.copy(root / "settings.ini", to)
    for folder, pattern in (("nbs", "*.ipynb"), ("detr_lit", "*.py")):
        (to / folder).mkdir()
        for f in (root / folder).glob(pattern):
            shutil.copy(f, to / folder)
    return to


def out_of_sync(copy: Path) -> list[str]:
    "Modules that differ from what nbdev_export makes of the notebooks (missing and forgotten ones too)."
    before = {f.name: f.read_text("utf-8") for f in (copy / "detr_lit").glob("*.py")}
    for f in (copy / "detr_lit").glob("*.py"):
        if f.name != "__init__.py":
            f.unlink()
    subprocess.run([tool("nbdev_export")], cwd=copy, check=True, capture_output=True)
    after = {f.name: f.read_text("utf-8") for f in (copy / "detr_lit").glob("*.py")}
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def unclean(copy: Path) -> list[str]:
    "Notebooks that nbdev_clean would change."
    before = {f.name: f.read_bytes() for f in (copy / "nbs").glob("*.ipynb")}
    subprocess.run([tool("nbdev_clean")], cwd=copy, check=True, capture_output=True)
    return sorted(n for n, old in before.items() if (copy / "nbs" / n).read_bytes() != old)


def with_outputs(copy: Path) -> list[str]:
    cells = {f.name: json.loads(f.read_text("utf-8"))["cells"] for f in (copy / "nbs").glob("*.ipynb")}
    return sorted(n for n, cs in cells.items() if any(c.get("outputs") or c.get("execution_count") for c in cs))


@pytest.fixture
def copy(root, tmp_path):
    return copy_of(root, tmp_path)


def edit(notebook: Path, change) -> None:
    nb = json.loads(notebook.read_text("utf-8"))
    change(nb["cells"])
    notebook.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def exporting(cells):
    return next(c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).startswith("#| export"))


@pytest.fixture
def chapter(copy) -> Path:
    "A notebook that exports, to break."
    return next(f for f in sorted((copy / "nbs").glob("*.ipynb")) if "#| export\\n" in f.read_text("utf-8"))


def test_package_is_the_export(copy):
    assert not (bad := out_of_sync(copy)), f"run nbdev_export: {bad}"


def test_notebooks_are_clean(copy):
    assert not (bad := unclean(copy)), f"run nbdev_clean: {bad}"


def test_no_outputs_in_git(copy):
    assert not (bad := with_outputs(copy)), f"clear the outputs: {bad}"


# Each check must be able to fail.
def test_a_changed_notebook_with_an_old_module_is_seen(copy, chapter):
    edit(chapter, lambda cells: exporting(cells)["source"].append("\nforgotten = 1"))
    assert len(out_of_sync(copy)) >= 1


def test_a_hand_edited_module_is_seen(copy):
    module = next(f for f in sorted((copy / "detr_lit").glob("*.py")) if f.name[0] != "_")
    module.write_text(module.read_text("utf-8") + "\nby_hand = 1\n", "utf-8")
    assert module.name in out_of_sync(copy)


def test_a_module_without_a_notebook_is_seen(copy):
    (copy / "detr_lit" / "orphan.py").write_text("x = 1\n")
    assert "orphan.py" in out_of_sync(copy)


def test_an_unclean_notebook_is_seen(copy, chapter):
    edit(chapter, lambda cells: exporting(cells)["metadata"].update(collapsed=True))
    assert chapter.name in unclean(copy)


def test_a_stored_output_is_seen(copy, chapter):
    out = {"name": "stdout", "output_type": "stream", "text": ["42\n"]}
    edit(chapter, lambda cells: exporting(cells).update(outputs=[out]))
    assert with_outputs(copy) == [chapter.name]


def test_nothing_names_this_machine(root):
    "No absolute paths of a developer's machine in what we wrote."
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True
    ).stdout.split()
    words = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/")
    bad = [
        f
        for f in files
        if (root / f).suffix in {".md", ".py", ".ipynb", ".toml", ".yml", ".ini", ".cff", ".json"}
        and (root / f).exists()
        and any(w in (root / f).read_text("utf-8") for w in words)
    ]
    assert not bad
