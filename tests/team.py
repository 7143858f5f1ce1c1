"""What several processes do in `test_launch.py`: python tests/team.py FOLDER SIZE; with SIZE 0, as a launcher has told them.

The processes are forks of one that has imported everything, and meet through a file in FOLDER.
"""
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR
from detr_lit.launch import Team
from detr_lit.train import Recipe, Trainer, make_loader, make_team, train_detr

CPU = torch.device("cpu")
MODEL = dict(num_queries=5, d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=2, dim_ff=32, backbone_name="convnet",
             stride=16, norm="group", dropout=0.0)
RECIPE = Recipe(model=MODEL, lr=1e-3, lr_backbone=1e-3, clip=1e9, noobj_weight=0.2)
RECIPES = dict(group=RECIPE, frozen=replace(RECIPE, model=MODEL | dict(norm="frozen")), last=replace(RECIPE, aux_loss=False),
               helper=replace(RECIPE, helper=dict(kind="groups", groups=2)))
BATCH = {2: 5, 4: 9}                                        # uneven shares


class Sparse(ToyDetectionDataset):
    "Toy pictures; two of three hold nothing that anybody looks for."
    def __getitem__(self, i):
        image, target = super().__getitem__(i)
        return image, target if i % 3 == 0 else {k: v[:0] for k, v in target.items()}


def data(n=30): return Sparse(n, image_size=32, max_objects=4)


def one_step(recipe, batch_size, accumulate):
    "-> (report, gradients) of the first batch."
    torch.manual_seed(0)
    team = make_team("cpu", accumulate)
    trainer = Trainer(DETR(3, **recipe.model), recipe, team.device, team)
    seen = trainer.step(next(make_loader(data(), batch_size, 0, 0, 1, team, 0)))
    gradients = {k.removeprefix("module."): p.grad for k, p in trainer.whole.named_parameters() if p.grad is not None}
    return team.report(trainer.criterion, *seen), team.gathered(gradients)


def steps(size):
    "One step of every recipe, whole and in parts: {name: (report, gradients)}."
    cases = [(name, k) for name in RECIPES for k in (1, 2) if size == 2 or name == "group"]
    return {f"{name}, {k} parts": one_step(RECIPES[name], BATCH[size], k) for name, k in cases}


class Stop(Exception): pass


def stop(done, model):
    if done == 3: raise Stop
    return {}


def run(folder, recipe=RECIPE, **more):
    plan = dict(recipe=replace(recipe, average=0.5, clip=0.1), progress=False, device="cpu", log_every=1, save_every=2,
                data=data(), val=ToyDetectionDataset(55, image_size=32, split="val"), eval_every=3, out=folder)
    return train_detr(6, 5, **plan | more)


def whole_run(folder):
    model, history = run(folder)
    return {k: v.clone() for k, v in model.state_dict().items()}, history


def resumed(folder):
    "Whether a training with dropout and batch norm, broken off after step 2, ends as one that was not."
    drop = replace(RECIPE, model=MODEL | dict(dropout=0.3, norm="batch"))
    straight = run(folder / "straight", drop)[0].state_dict()
    try: run(folder / "torn", drop, measure=stop)
    except Stop: pass
    again = run(folder / "torn", drop, resume=True)[0].state_dict()
    return {k: torch.equal(v, again[k]) for k, v in straight.items()}


def dropped(folder):
    "What dropout leaves of a row of ones in each process, after a model was made."
    torch.manual_seed(0)
    team = make_team("cpu", 2)
    Trainer(DETR(3, **MODEL), RECIPE, CPU, team)
    return team.gather(torch.nn.functional.dropout(torch.ones(64)))


def held():
    "How many numbers of weights, gradients and moments this process holds after a step, and how many there are."
    team = make_team("cpu")
    trainer = Trainer(DETR(3, **MODEL), replace(RECIPE, average=0.5), team.device, team)
    trainer.step(next(make_loader(data(), 4, 0, 0, 1, team, 0)))
    here = [p for p in trainer.model.parameters() if p.grad is not None]
    tensors = [t for p in here for t in (p, p.grad, trainer.optimizers[0].state[p]["exp_avg"])] + [*trainer.result.parameters()]
    return sum(t.to_local().numel() for t in tensors), sum(t.numel() for t in tensors)


def judged(folder=None):
    "A trained model's numbers on three batches of pictures."
    return make_team("cpu", 2).scores(DETR.from_pretrained("toy"), ToyDetectionDataset(55, split="val"))


def dies(folder):
    "A training whose second process is killed in step 4."
    calls, gradient = [], Team.gradient

    def counted(self, *args):
        calls.append(1)
        if self.rank == 1 and len(calls) == 4: os.kill(os.getpid(), signal.SIGKILL)
        return gradient(self, *args)

    Team.gradient = counted
    return run(folder / "torn", val=None)[1]


JOBS = {2: dict(steps=lambda f: steps(2), whole_run=whole_run, resumed=resumed, dropped=dropped, judged=judged),
        4: dict(steps=lambda f: steps(4)), 0: dict(dies=dies)}
if os.environ.get("ACCELERATE_USE_FSDP"):
    JOBS[2] = dict(steps=lambda f: steps(2), whole_run=whole_run, resumed=resumed, held=lambda f: make_team("cpu").gather(held()))


def work(folder, size, rank=0):
    torch.set_num_threads(1)
    if size:
        os.environ |= dict(WORLD_SIZE=str(size), RANK=str(rank))
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size,
                                timeout=timedelta(minutes=5))
    said = {name: job(folder / name) for name, job in JOBS[size].items()}
    if rank == 0: torch.save(said, folder / "said.pt")
    if dist.is_initialized(): dist.destroy_process_group()


def main(folder, size):
    if not size: return work(folder, 0)
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(folder, size, rank)) for rank in range(size)]
    for w in workers: w.start()
    for w in workers: w.join()
    sys.exit(any(w.exitcode for w in workers))


if __name__ == "__main__": main(Path(sys.argv[1]), int(sys.argv[2]))
