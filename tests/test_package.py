"""The package's front door: names are fetched when used, all of them exist, and nothing is imported before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import detr_lit


def test_every_name_is_there_and_once():
    assert sorted(detr_lit.__all__) == sorted(detr_lit._HOME) and len(set(detr_lit.__all__)) == len(detr_lit.__all__)
    assert all(getattr(detr_lit, name) is not None for name in detr_lit.__all__)
    assert set(detr_lit.__all__) <= set(dir(detr_lit))


def test_type_checkers_are_told_the_same():
    tree = ast.parse(Path(detr_lit.__file__).read_text("utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    assert {a.name: n.module.rpartition(".")[2] for n in block.body for a in n.names} == detr_lit._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'YOLO'"): detr_lit.YOLO


def test_importing_it_imports_nothing():
    found = subprocess.run([sys.executable, "-c", "import sys, detr_lit; print(*sys.modules)"], capture_output=True, text=True)
    heavy = {"torch", "torchvision", "matplotlib", "scipy", "transformers", "huggingface_hub", "detr_lit.detr"}
    assert "detr_lit" in found.stdout.split() and not heavy & set(found.stdout.split()), found.stderr


def test_what_later_chapters_register_is_there_without_importing_them():
    code = ("from detr_lit.train import make_helper, RECIPES; from detr_lit.detr import DETR; "
            "print(type(make_helper(DETR(3, **RECIPES['fast'].model), 'denoising')).__name__)")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "Denoising", found.stderr
