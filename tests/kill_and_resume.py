"""Kill a training again and again, resume it each time, and compare it in the end with one that nobody disturbed.

    python tests/kill_and_resume.py [KILLS] [--write]        (default: 20; --write keeps the log in nbs/runs)

Every second kill is a SIGKILL from outside at a random moment; the others hit the process in the midst of writing a
checkpoint, after a random share of its bytes. Checkpoints are written every second step. After each kill the checkpoint
must be readable, and no more than the steps since may be lost; in the end weights, averaged weights, optimisers, random
numbers and history (the seconds aside) must be equal, bit for bit, to those of a run that saved once, at its end. Exit
code 1 if not.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
EVERY = 2                                                   # steps between checkpoints


def train(folder: Path, steps: int, every: int = EVERY, die_at: int = 0, share: float = 0.0) -> None:
    "The training, in a process of its own: notes each step in `steps.txt`, and dies while writing step `die_at`."
    from detr_lit import Recipe, ToyDetectionDataset, train_detr
    from detr_lit import train as module

    real, notes = torch.save, os.open(folder / "steps.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def save(state: dict, path: Path) -> None:
        if state["step"] != die_at: return real(state, path)
        real(state, whole := io.BytesIO())
        Path(path).write_bytes(whole.getvalue()[: int(share * whole.tell())])
        os.kill(os.getpid(), signal.SIGKILL)

    class Noting(module.Trainer):
        def step(self, batch: tuple, factor: float = 1.0) -> Any:
            os.write(notes, b".")
            return super().step(batch, factor)

    torch.save, module.Trainer = save, Noting
    model = dict(num_queries=8, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=64, backbone_name="convnet",
                 stride=8, norm="batch", dropout=0.1)                                # stride 8: few weights, small files
    train_detr(steps, 2, recipe=Recipe(model=model, lr=1e-3, muon=0.01, average=0.9), out=folder, resume=True,
               data=ToyDetectionDataset(64, image_size=64), save_every=every, log_every=1, progress=False, device="cpu")


def start(folder: Path, *args: int | float) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, "--train", str(folder), *map(str, args)], env=env)


def killed(folder: Path, steps: int, at: int, writing: bool, rng: random.Random) -> dict[str, Any]:
    "One kill, about step `at`: what was lost, and whether the checkpoint can be read."
    notes, file = folder / "steps.txt", folder / "checkpoint.pt"
    begun = torch.load(file, weights_only=True)["step"] if file.exists() else 0
    notes.write_bytes(b"")
    child = start(folder, steps, EVERY, at + at % EVERY, rng.random()) if writing else start(folder, steps, EVERY)
    while not writing and child.poll() is None and begun + notes.stat().st_size < at: time.sleep(1e-3)
    if not writing:
        time.sleep(0.02 * rng.random())
        child.kill()
    died = child.wait(300) == -signal.SIGKILL
    step = begun + notes.stat().st_size
    try: found = torch.load(file, weights_only=True)["step"] if file.exists() else 0
    except Exception: found = None
    fits = found is not None and step - 1 - EVERY <= found <= step
    return dict(step=step, writing=writing, killed=died, checkpoint=found, fine=died and fits)


def differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    "The names of what differs between two checkpoints."
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for k in a: yield from differences(a[k], b[k], f"{name}.{k}") if k != "seconds" else ()
    elif isinstance(a, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)): yield from differences(x, y, f"{name}[{i}]")
    elif not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b): yield name


def kill_and_resume(kills: int, seed: int = 0, say: Callable[[str], None] = print) -> dict[str, Any]:
    "-> the log: `kills`, one row each, and `different`, what a training that nobody disturbed has otherwise."
    rng, steps, log = random.Random(seed), 12 * kills + 8, list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as tmp:
        torn, calm = Path(tmp, "torn"), Path(tmp, "calm")
        torn.mkdir(), calm.mkdir()
        for i in range(kills):
            log.append(row := killed(torn, steps, 12 * i + rng.randint(3, 8), i % 2 == 1, rng))
            say(f"kill {i + 1:2} in step {row['step']:3}{', writing' if row['writing'] else '':9}: checkpoint of step "
                f"{row['checkpoint']}, {'can' if row['checkpoint'] is not None else 'CAN NOT'} be read")
            if not row["fine"]: break
        else:
            for folder, every in ((torn, EVERY), (calm, steps)):
                if start(folder, steps, every).wait(900): raise SystemExit(f"the training in {folder.name} failed")
            a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (torn, calm))
            return dict(steps=steps, seed=seed, torch=torch.__version__, kills=log, different=list(differences(a, b)))
    return dict(steps=steps, seed=seed, torch=torch.__version__, kills=log, different=["broken off"])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", nargs="?", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    log = kill_and_resume(args.kills, say=lambda line: print(line, flush=True))
    print(f"{len(log['kills'])} kills; in the end " + (f"{len(log['different'])} differences, first {log['different'][0]}"
          if log["different"] else "equal to the undisturbed training, bit for bit"))
    if args.write: (ROOT / "nbs/runs/kill_and_resume.json").write_text(json.dumps(log, indent=1) + "\n")
    return int(bool(log["different"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]: train(Path(sys.argv[2]), *map(int, sys.argv[3:6]), *map(float, sys.argv[6:]))
    else: sys.exit(main())
