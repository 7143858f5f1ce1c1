"""Every chapter of the book runs from a fresh kernel, with shapes and types checked in its cells and in the package."""

from pathlib import Path

import execute
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.chapters
@pytest.mark.parametrize("name", [p.stem for p in execute.notebooks(ROOT)])
def test_chapter_runs(name, executed):
    if name in executed:
        pytest.fail(executed[name], pytrace=False)


@pytest.mark.chapters
def test_nothing_stale(root, executed):
    "After the run every chapter's record fits what it rests on now."
    said: list[str] = []
    execute.execute(root, listing=True, say=said.append)
    assert not [s for s in said if s.split()[1] == "run" and s.split()[0] not in executed]


def test_toc_and_notebooks_are_the_same_set(root):
    "No chapter is forgotten, none is missing."
    listed = {Path(f).name for f in execute.chapters_in_toc(root)}
    here = {p.stem for p in (root / "nbs").glob("*.ipynb")} | {p.stem for p in (root / "nbs").glob("*.md")}
    assert listed == here
