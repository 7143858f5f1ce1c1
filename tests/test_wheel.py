"""The wheel holds the package, its type marker and the shipped weights, and nothing else."""

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dist(root, tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "settings.ini", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(root / name, copy)
    for name in ("detr_lit", "tests"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy / "dist"


@pytest.fixture(scope="module")
def version(root) -> str:
    ini = configparser.ConfigParser()
    ini.read(root / "settings.ini", "utf-8")
    return ini["DEFAULT"]["version"]


def test_wheel_holds_the_package_and_nothing_else(root, dist, version):
    (wheel,) = dist.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    ours = {
        f.relative_to(root).as_posix()
        for f in (root / "detr_lit").rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
        and f.name != "README.md"  # the card that `save_pretrained` writes beside weights is not shipped
    }
    assert names == ours
    assert "detr_lit/py.typed" in names
    shipped = ("detr_lit/weights/", "detr_lit/mutants/")
    assert all(n.endswith((".py", "/py.typed")) or n.startswith(shipped) for n in names), names
    assert wheel.name == f"detr_lit-{version}-py3-none-any.whl"
    assert wheel.stat().st_size < 12e6


def test_wheel_metadata(dist, version):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        meta = z.read(f"detr_lit-{version}.dist-info/METADATA").decode()
        entry = z.read(f"detr_lit-{version}.dist-info/entry_points.txt").decode()
    assert (
        f"Version: {version}\n" in meta
        and "License-Expression: Apache-2.0" in meta
        and "Requires-Python: >=3.10" in meta
    )
    assert "detr-lit = detr_lit.cli:app" in entry
    base = [x for x in meta.splitlines() if x.startswith("Requires-Dist") and "extra ==" not in x]
    bounds = [x.partition(";")[0] for x in base]
    assert not any("==" in x or "<" in x for x in bounds), "the library's requirements have lower bounds only"


def test_sdist_has_what_the_wheel_needs(dist, version):
    (sdist,) = dist.glob("*.tar.gz")
    names = tarfile.open(sdist).getnames()
    top = f"detr_lit-{version}"
    assert {f"{top}/pyproject.toml", f"{top}/README.md", f"{top}/LICENSE", f"{top}/detr_lit/__init__.py"} <= set(names)
    assert not [n for n in names if n.startswith((f"{top}/tests", f"{top}/nbs"))]


def test_version_is_the_stated_one(version):
    import detr_lit

    assert detr_lit.__version__ == version
