"""The models of the live detectors: the weights `toy` (chapter 10) and `trees` (chapter 16), each as one ONNX file, made when
the site is built.

Run as `python nbs/_ext/detector.py NAME FILE`. An export takes a while, so `_build/detector` keeps the files under names that
say what they were made of; equal weights, code and exporters give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"toy": "detr_lit/weights/toy", "trees": "nbs/runs/trees/weights"}
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def bare(file: Path) -> bytes:
    "An ONNX file without its exporter's notes, which fill a tenth of it and differ from run to run."
    import onnx

    model = onnx.load(file)
    model.graph.ClearField("value_info")
    for part in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("name")
    return model.SerializeToString(deterministic=True)


def export(name: str, file: Path) -> None:
    "The weights of this name; `toy` with its attention as outputs."
    from detr_lit.detr import DETR
    from detr_lit.export import export_onnx

    export_onnx(DETR.from_pretrained(name).eval(), file, attention=name == "toy")
    file.write_bytes(bare(file))


def key(root: Path, name: str) -> str:
    "What the file is made of, as one number."
    of = hashlib.sha256(" ".join(f"{p} {version(p)}" for p in ("torch", "onnx", "onnxscript")).encode())
    for file in (*sorted((root / WEIGHTS[name]).glob("*.*s*")), *sorted((root / "detr_lit").glob("*.py")), Path(__file__)):
        if file.name != "README.md":
            of.update(file.name.encode() + b"\0" + file.read_bytes())
    return of.hexdigest()[:16]


def model_file(root: Path, name: str) -> Path | None:
    "A model's file, made if need be; None in a tree without the weights."
    if not (root / WEIGHTS[name] / "model.safetensors").exists():
        return None
    folder = root / "_build" / "detector"
    file = folder / f"{name}-{key(root, name)}.onnx"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{name}-*"):
            old.unlink()
        part = file.with_suffix(".part")
        env = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, __file__, name, str(part)], cwd=root, env=env, check=True)
        part.rename(file)
    return file


def download(root: Path, name: str) -> float:
    "What a reader loads, in millions of bytes: the runtime, and the model of this name if it was made."
    files = [root / "nbs/assets/ort" / file for file in RUNTIME] + [*(root / "_build/detector").glob(f"{name}-*.onnx")]
    return sum(f.stat().st_size for f in files if f.exists()) / 1e6


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    export(sys.argv[1], Path(sys.argv[2]))
