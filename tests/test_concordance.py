"""The concordance agrees with the book; and on a small book with one thing wrong, its check says which."""

import copy
from pathlib import Path

import concordance
import nbdev_cells
import nbformat
import pytest

GOOD = {
    "paper": {"sections": ["3", "3.1"], "equations": 2, "tables": 1, "figures": 0, "listings": 0, "appendices": ["A.1"]},
    "item": {
        "Section 3": {"what": "the model", "not_built": "it is long.", "see": ["01_one # Wide"]},
        "Section 3.1": {
            "what": "the loss",
            "built": [{"at": "01_one # Wide", "symbols": ["one.area"], "tests": ["test_one.py::test_area"]}],
        },
        "Eq. 1": {
            "what": "area",
            "built": [{"at": "01_one # One `cell`", "symbols": ["one.Box.double"], "tests": ["test_one.py::TestBox::test_it"]}],
        },
        "Eq. 2": {"what": "no area", "not_built": "it has none."},
        "Table 1": {
            "what": "areas",
            "built": [{"at": "01_one # Wide", "symbols": ["one.area"], "tests": ["test_one.py::test_area"]}],
            "not_built": "volumes.",
        },
        "Appendix A.1": {"what": "more", "not_built": "it is short."},
    },
}
CELLS = [
    ("markdown", "# One `cell`\n\nAs in section 3.1, equation 1 and Table 1.\n\n```python\n# Fenced\n```"),
    ("code", "x = 1\n# A comment"),
    ("markdown", "## Wide\n\n{cite:t}`zhu2021deformable`, section 4.1; {cite:t}`carion2020`, appendices A.1 and A.3."),
]
MODULE = "__all__ = ['area', 'Box']\ndef area(): pass\ndef hidden(): pass\nclass Box:\n    def double(self): pass\n"
TESTS = "def test_area(): pass\nclass TestBox:\n    def test_it(self): pass\n"


@pytest.fixture
def small(tmp_path):
    "A book of one chapter, one module and one test file -> (a good concordance, arguments for `faults`)."
    for folder in ("nbs", "tiny", "tests"):
        (tmp_path / folder).mkdir()
    new = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    nb = nbformat.v4.new_notebook(cells=[new[kind](text) for kind, text in CELLS])
    nbformat.write(nb, tmp_path / "nbs/01_one.ipynb")
    (tmp_path / "tiny/one.py").write_text(MODULE)
    (tmp_path / "tests/test_one.py").write_text(TESTS)
    return copy.deepcopy(GOOD), (tmp_path / "nbs", tmp_path / "tiny", tmp_path / "tests")


def test_the_book_agrees_with_the_papers_list(root):
    data = nbdev_cells.tomllib.loads((root / "nbs/concordance.toml").read_text("utf-8"))
    assert concordance.faults(data, root / "nbs", root / "detr_lit", root / "tests") == []


def test_the_papers_list(root):
    "As the paper (arXiv 2005.12872v3) numbers itself."
    paper = nbdev_cells.tomllib.loads((root / "nbs/concordance.toml").read_text("utf-8"))["paper"]
    wanted = concordance.numbered(paper)
    ends = ("Section 1", "Section 2.3", "Section 4.4", "Section 6", "Eq. 11", "Table 5", "Fig. 12", "Appendix A.6")
    assert len(wanted) == len(set(wanted)) == 15 + 11 + 5 + 12 + 1 + 6 and set(ends) <= set(wanted)


def test_a_small_book_without_fault(small):
    data, where = small
    assert concordance.faults(data, *where) == []
    states = {item: concordance.state(about) for item, about in data["item"].items()}
    assert states["Eq. 1"] == "built" and states["Table 1"] == "in part" and states["Eq. 2"] == "excused"


ROW = ("item", "Section 3.1", "built", 0)


@pytest.mark.parametrize(
    "path, value, says",
    [
        (("item", "Eq. 2"), None, "Eq. 2 is neither built nor excused"),
        (("item", "Eq. 2", "not_built"), None, "Eq. 2 is neither built nor excused"),
        (("item", "Eq. 2", "not_built"), " ", "Eq. 2 is excused without a reason"),
        (("item", "Eq. 2", "what"), "", "Eq. 2 has no description"),
        (("paper", "equations"), 3, "Eq. 3 is neither built nor excused"),
        (("paper", "equations"), 1, "Eq. 2 is not in the paper's list"),
        ((*ROW, "at"), "02_two # Wide", "there is no chapter 02_two"),
        ((*ROW, "at"), "01_one # Narrow", "01_one has no heading 'Narrow'"),
        ((*ROW, "at"), "01_one # Fenced", "01_one has no heading 'Fenced'"),
        ((*ROW, "at"), "01_one # A comment", "01_one has no heading 'A comment'"),
        (("item", "Section 3", "see", 0), "01_one # Narrow", "01_one has no heading 'Narrow'"),
        ((*ROW, "symbols", 0), "two.area", "tiny.two.area does not exist"),
        ((*ROW, "symbols", 0), "one.gone", "tiny.one.gone does not exist"),
        ((*ROW, "symbols", 0), "one.Box.gone", "tiny.one.Box.gone does not exist"),
        ((*ROW, "symbols", 0), "one.hidden", "tiny.one.hidden is not exported"),
        ((*ROW, "symbols"), [], "names no symbols"),
        ((*ROW, "tests", 0), "test_one.py::test_gone", "there is no test test_one.py::test_gone"),
        ((*ROW, "tests", 0), "test_two.py::test_area", "there is no test test_two.py::test_area"),
        ((*ROW, "tests"), [], "names no tests"),
    ],
)
def test_a_wrong_line_is_seen(small, path, value, says):
    data, where = small
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    found = concordance.faults(data, *where)
    assert len(found) == 1 and says in found[0], found


def test_a_chapter_that_never_mentions_the_item_is_seen(small):
    data, where = small
    file: Path = where[0] / "01_one.ipynb"
    file.write_text(file.read_text("utf-8").replace("equation 1", "equation 12"), "utf-8")
    assert concordance.faults(data, *where) == ["Eq. 1: 01_one never mentions it"]


@pytest.mark.parametrize(
    "change, says",
    [
        (("nbs", "01_one.ipynb", "## Wide", "## Broad"), "01_one has no heading 'Wide'"),
        (("tiny", "one.py", "'area', ", ""), "tiny.one.area is not exported"),
        (("tests", "test_one.py", "test_it", "test_that"), "there is no test test_one.py::TestBox::test_it"),
    ],
)
def test_a_change_in_the_book_is_seen(small, change, says):
    data, where = small
    folder, name, old, new = change
    file = where[0].parent / folder / name
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
    assert any(says in fault for fault in concordance.faults(data, *where))


@pytest.mark.parametrize(
    "text, found",
    [
        ("section 3.1, equation 2", {"Section 3", "Section 3.1", "Eq. 2"}),
        ("(appendix A.2, equations 9 and 10)", {"Appendix A.2", "Eq. 9", "Eq. 10"}),
        ("sections 3.2 and 3.3, and appendix A.3", {"Section 3", "Section 3.2", "Section 3.3", "Appendix A.3"}),
        ("figures 3, 4, 6 and 7; Fig. 10; Table 1", {"Fig. 3", "Fig. 4", "Fig. 6", "Fig. 7", "Fig. 10", "Table 1"}),
        ("section A.4", {"Appendix A.4"}),
        ("{cite:t}`zhu2021deformable`, section 4.1", set()),
        ("{cite:p}`carion2020`, section\n4.1", {"Section 4", "Section 4.1"}),
        ("step 3, chapter 4, intersections 5", set()),
    ],
)
def test_what_counts_as_a_mention(tmp_path, text, found):
    (tmp_path / "a.md").write_text(text)
    assert concordance.cited(tmp_path / "a.md") == found
