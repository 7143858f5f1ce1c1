"""Chapter 22: several processes do what one does, a batch in parts is a whole batch, and a death is an end."""
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import team as jobs
import torch
from torch import nn

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.denoising import Denoising
from detr_lit.detr import DETR
from detr_lit.launch import Shards, Team, idle, join, parts_of, split
from detr_lit.loss import DetrLoss
from detr_lit.train import RECIPES, Alone, Batches, Trainer, make_loader, make_team, train_detr

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, LAUNCH = torch.device("cpu"), Path(__file__).parents[1] / "nbs/launch"


def environment(root):
    calm = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    local = dict(GLOO_SOCKET_IFNAME="lo") if sys.platform == "linux" else {}
    return calm | local | dict(PYTHONPATH=str(root), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def together(root, folder, size, **more):
    "What `tests/team.py` says when so many processes run it."
    command = [sys.executable, str(root / "tests/team.py"), str(folder), str(size)]
    done = subprocess.run(command, env=environment(root) | more, capture_output=True, text=True, timeout=400)
    assert not done.returncode, done.stderr[-5000:]
    return torch.load(folder / "said.pt", weights_only=False)


@pytest.fixture(scope="module")
def two(root, tmp_path_factory): return together(root, tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def shards(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return together(root, folder, 2, ACCELERATE_USE_FSDP="true") | dict(folder=folder)


def same_as_alone(steps, size):
    for name, (report, gradients) in steps.items():
        alone, whole = jobs.one_step(jobs.RECIPES[name.split(",")[0]], jobs.BATCH[size], 1)
        assert report == pytest.approx(alone, rel=1e-5, abs=1e-5), name
        assert gradients.keys() == whole.keys()
        longest = max(g.abs().max() for g in whole.values())
        for k, g in whole.items():
            torch.testing.assert_close(gradients[k], g, rtol=1e-4, atol=1e-6 * longest.item(), msg=f"{name}: {k}")


@pytest.mark.slow
def test_two_processes_give_losses_statistics_and_gradients_of_one(two): same_as_alone(two["steps"], 2)


@pytest.mark.slow
def test_four_processes_give_losses_statistics_and_gradients_of_one(root, tmp_path):
    same_as_alone(together(root, tmp_path, 4)["steps"], 4)


@pytest.mark.slow
def test_a_training_of_two_processes_follows_that_of_one(two, tmp_path):
    weights, history = two["whole_run"]
    model, alone = jobs.whole_run(tmp_path)
    for k, v in model.items(): torch.testing.assert_close(weights[k], v, rtol=1e-3, atol=2e-5)
    for a, b in zip(history, alone):
        assert a.keys() == b.keys()
        assert a | dict(seconds=0) == pytest.approx(b | dict(seconds=0), rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_two_processes_resume_to_the_bit_with_dropout_and_batch_norm(two): assert all(two["resumed"].values())


@pytest.mark.slow
def test_two_processes_judge_as_one(two):
    alone = jobs.judged()
    assert alone["AP50"] > 0.8 and two["judged"] == pytest.approx(alone, rel=0, abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_processes_drop_different_numbers(two):
    a, b = two["dropped"]
    assert not torch.equal(a, b)
    torch.manual_seed(0)
    Trainer(DETR(3, **jobs.MODEL), jobs.RECIPE, CPU)
    assert torch.equal(a, nn.functional.dropout(torch.ones(64)))               # the first goes on as one alone would


@pytest.mark.slow
def test_a_killed_process_ends_all_and_one_goes_on(root, tmp_path):
    began = time.monotonic()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "one_machine.yaml"),
               "--num_processes", "2", "--main_process_port", "0", str(root / "tests/team.py"), str(tmp_path), "0"]
    done = subprocess.run(command, env=environment(root), capture_output=True, text=True, timeout=300)
    assert done.returncode and time.monotonic() - began < 200
    assert "Signal 9 (SIGKILL)" in done.stderr and "rank      : 1" in done.stderr, done.stderr[-3000:]
    folder = tmp_path / "dies/torn"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 2
    _, history = jobs.run(folder, val=None, resume=True)
    _, straight = jobs.run(tmp_path / "straight", val=None)
    assert [r["step"] for r in history] == [1, 2, 3, 4, 5, 6] == [json.loads(line)["step"] for line in open(folder / "log.jsonl")]
    assert history[-1]["total"] == pytest.approx(straight[-1]["total"], rel=1e-3)


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    for name in jobs.RECIPES:
        report, whole = jobs.one_step(jobs.RECIPES[name], 5, 1)
        for k in (2, 5) if name == "group" else (2,):
            parts, gradients = jobs.one_step(jobs.RECIPES[name], 5, k)
            assert parts == pytest.approx(report, rel=1e-5, abs=1e-5)
            longest = max(g.abs().max() for g in whole.values()).item()
            for n, g in whole.items(): torch.testing.assert_close(gradients[n], g, rtol=1e-4, atol=1e-6 * longest)


def test_parts_divide_what_the_loss_divides_by():
    "Told from the targets alone; of more objects than queries only as many as there are queries have one."
    targets = [[dict(labels=torch.ones(m, dtype=torch.long)) for m in part] for part in ((3, 0), (7,), (0, 0))]
    shares = parts_of(targets, 5, 0.2, CPU)
    weight = [3 + 7 * 0.2, 5.0, 10 * 0.2]
    assert [s["loss_class"] for s in shares] == pytest.approx([w / sum(weight) for w in weight])
    assert [s["loss_bbox"] for s in shares] == [s["loss_giou"] for s in shares] == pytest.approx([0.3, 0.7, 0.0])
    assert [s["loss_bbox"] for s in parts_of([targets[2], targets[2]], 5, 0.2, CPU)] == [0, 0]     # nothing anywhere


def test_a_helper_whose_queries_all_have_objects_divides_by_objects():
    model = DETR(3, **jobs.MODEL, query_boxes=True)
    helper, criterion = Denoising(model, groups=2, amount=0.0, flip=0.0), DetrLoss(3)
    targets = [dict(labels=torch.tensor([1, 2]), boxes=torch.rand(2, 4) * 0.2 + 0.3)]
    outputs = model(torch.rand(1, 3, 32, 32), extra=helper.ask(targets))
    outputs = {k: outputs[k][:, 5:] for k in ("pred_logits", "pred_boxes")}
    whole = helper.loss(outputs, targets, criterion)
    criterion.part = dict(loss_class=0.9, loss_bbox=0.25, loss_giou=0.25)
    torch.testing.assert_close(helper.loss(outputs, targets, criterion), whole / 4)


def test_split_keeps_all_in_order():
    batch = collate([jobs.data()[i] for i in range(5)])
    parts = split(batch, 3)
    assert [len(p[2]) for p in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([p[0] for p in parts]), batch[0]) and sum([p[2] for p in parts], []) == batch[2]


def test_shares_of_a_batch_are_the_batch():
    whole = list(Batches(11, 5, 3, 2, 9))
    for size in (2, 4):
        shares = [list(Batches(11, 5, 3, 2, 9, rank, size)) for rank in range(size)]
        assert all(len(s) == len(whole) for s in shares)                     # as many steps for everybody
        for batch, *parts in zip(whole, *shares):
            assert sorted(sum(parts, [])) == sorted(batch) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_idle_parameters_are_found_and_nothing_is_moved():
    model = DETR(3, **jobs.MODEL | dict(norm="batch"), query_boxes=True, gaze="points", pre_norm=True)
    trainer, state = Trainer(model, jobs.RECIPE, CPU), torch.get_rng_state()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert idle(trainer.whole) == [f"model.decoder.layers.{i}.norm2.{k}" for i in (0, 1) for k in ("weight", "bias")]
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert idle(Trainer(DETR(3, **jobs.MODEL), jobs.RECIPE, CPU).whole) == []


def test_a_gpu_s_batch_norms_are_told_to_talk(monkeypatch):
    "What can be seen of a GPU's path without one: norms are converted, the weights' names stay."
    team, model = Team(CPU, 1), DETR(3, **jobs.MODEL | dict(norm="batch"))
    whole = Trainer(model, jobs.RECIPE, CPU).whole
    names, made = list(model.state_dict()), []
    team.size, team.device = 2, torch.device("cuda", 1)
    monkeypatch.setattr("detr_lit.launch.idle", lambda whole: [])
    monkeypatch.setattr("detr_lit.launch.DistributedDataParallel", lambda module, **kw: made.append(kw) or module)
    team.spread(whole, model)
    assert made == [dict(device_ids=[team.device], find_unused_parameters=False)]
    kinds = {type(m) for m in model.modules()}
    assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds and list(model.state_dict()) == names


def test_who_is_alone_needs_no_team(monkeypatch):
    assert type(make_team("cpu")) is Alone and type(make_team("cpu", 2)) is Team
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert type(make_team("cpu")) is Alone
    team = make_team("cpu", 3)
    assert team.gather("x") == ["x"] and (team.rank, team.size, team.accumulate) == (0, 1, 3)
    with pytest.raises(ValueError, match="batch_size is 2; 1 processes x accumulate 3 want 3"):
        make_loader(jobs.data(), 2, 0, 0, 1, team, 0)


def test_who_cuts_the_model(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert type(make_team("cpu")) is Alone and type(make_team("cpu", 2)) is Team                      # nobody to share with
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("detr_lit.launch.join", lambda device: device)
    team = make_team("cpu")
    assert type(team) is Shards
    with pytest.raises(ValueError, match="muon is on; FSDP cuts matrices"):
        Trainer(DETR(3, **jobs.MODEL), replace(jobs.RECIPE, muon=0.02), CPU, team)
    monkeypatch.delattr("torch.distributed.fsdp.fully_shard")
    with pytest.raises(ValueError, match="FSDP wants PyTorch 2.6"): Trainer(DETR(3, **jobs.MODEL), jobs.RECIPE, CPU, team)


@pytest.mark.slow
def test_two_processes_with_half_a_model_each_give_losses_and_gradients_of_one(shards): same_as_alone(shards["steps"], 2)


@pytest.mark.slow
def test_each_holds_half_of_weights_gradients_moments_and_average(shards):
    (a, whole), (b, again) = shards["held"]
    assert a + b == whole == again and .49 < a / whole < .51


@pytest.mark.slow
def test_a_cut_model_trains_is_kept_and_resumes_like_a_whole_one(shards, tmp_path):
    weights, history = shards["whole_run"]
    model, one = jobs.run(tmp_path / "one")
    for k, v in model.state_dict().items(): torch.testing.assert_close(weights[k], v, rtol=1e-3, atol=2e-5, msg=k)
    assert [r["total"] for r in history] == pytest.approx([r["total"] for r in one], rel=1e-4)
    assert [r.get("AP50") for r in history] == pytest.approx([r.get("AP50") for r in one], abs=1e-3)
    assert all(shards["resumed"].values())
    kept = DETR.from_pretrained(shards["folder"] / "whole_run" / "weights").state_dict()
    assert all(torch.equal(kept[k], v) for k, v in weights.items())                  # written whole, by the first
    alone, _ = jobs.run(shards["folder"] / "whole_run", resume=True)                  # its checkpoint is one process's, too
    assert all(torch.equal(v, weights[k]) for k, v in alone.state_dict().items())


@pytest.mark.parametrize("asked", ["DEEPSPEED", "MEGATRON_LM"])
def test_launchers_that_split_models_otherwise_are_refused(monkeypatch, asked):
    monkeypatch.setenv(f"ACCELERATE_USE_{asked}", "true")
    with pytest.raises(ValueError, match=f"asks for {asked}"): join(CPU)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU; there are 2"): join(torch.device("cuda"))


def test_accumulating_trains_like_the_whole_batch():
    gentle = replace(jobs.RECIPE, clip=0.1)                                   # or Adam would blow up rounding errors
    ask = dict(recipe=gentle, data=jobs.data(), progress=False, device="cpu", log_every=1)
    (a, one), (b, parts) = (train_detr(4, 6, accumulate=k, **ask) for k in (1, 3))
    for x, y in zip(a.state_dict().values(), b.state_dict().values()): torch.testing.assert_close(x, y, rtol=1e-3, atol=2e-5)
    assert [r["total"] for r in one] == pytest.approx([r["total"] for r in parts], rel=1e-4)


def test_configurations_are_what_accelerate_reads():
    from accelerate.commands.config import load_config_from_file
    for file in sorted(LAUNCH.glob("*.yaml")):
        config = load_config_from_file(str(file))
        kind = "FSDP" if file.stem == "fsdp" else "MULTI_GPU"
        assert config.distributed_type.value == kind and config.mixed_precision == "no", file
        assert config.num_processes % config.num_machines == 0
        assert config.num_machines == 1 or (config.main_process_ip and config.main_process_port)


def test_scripts_are_shell():
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert len(scripts) >= 2
    for file in scripts: subprocess.run(["bash", "-n", str(file)], check=True)


def test_every_recipe_runs_in_parts():
    data = ToyDetectionDataset(8, image_size=64)
    for name in ("laptop", "fast", "plain", "trees"):
        _, history = train_detr(1, 2, recipe=RECIPES[name], data=data, accumulate=2, progress=False, device="cpu")
        assert history[0]["total"] > 0
