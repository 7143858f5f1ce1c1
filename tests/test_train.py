"""Step 9: recipes, optimisers, order, checkpoints, runs."""
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kill_and_resume import kill_and_resume

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR
from detr_lit.train import (
    RECIPES,
    Batches,
    Log,
    Muon,
    Recipe,
    Trainer,
    as_json,
    curve,
    describe,
    find_recipe,
    is_best,
    is_first,
    load_checkpoint,
    load_or_train,
    locked,
    main,
    make_optimizers,
    orthogonal,
    patience,
    plot_run,
    precision,
    quick_bf16,
    save_checkpoint,
    train_detr,
)

TINY = dict(num_queries=4, d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=2, dim_ff=32, backbone_name="convnet",
            stride=32, norm="batch", dropout=0.1)
SHORT = Recipe(model=TINY, lr=1e-3, muon=0.01)
CPU = torch.device("cpu")


def small(n=64, **kw):
    return ToyDetectionDataset(n, image_size=64, max_objects=2, **kw)


def quick(steps, batch=2, recipe=SHORT, **kw):
    return train_detr(steps, batch, recipe=recipe, progress=False, **dict(data=small()) | kw)


def test_the_paper_s_settings():
    paper = RECIPES["paper"]
    assert (paper.lr, paper.lr_backbone, paper.weight_decay, paper.clip, paper.noobj_weight) == (1e-4, 1e-5, 1e-4, 0.1, 0.1)
    model = DETR(3, **paper.model)
    assert model.num_queries == 100 and len(model.encoder.layers) == len(model.decoder.layers) == 6
    assert model.encoder.layers[0].dropout.p == 0.1


def test_laptop_is_a_detr():
    model = DETR(3, **RECIPES["laptop"].model)
    assert model.query_embed.weight.requires_grad and model.num_queries == 16


def test_a_recipe_s_class_cost_reaches_the_matcher():
    recipe = replace(SHORT, cost_class=2.5, noobj_weight=0.3)
    criterion = Trainer(DETR(3, **recipe.model), recipe, CPU).criterion
    assert (criterion.matcher.cost_class, criterion.matcher.cost_bbox, criterion.matcher.cost_giou) == (2.5, 5.0, 2.0)
    assert criterion.class_weight[0] == pytest.approx(0.3)


def test_factor():
    recipe = Recipe(warmup=10, schedule="cosine")
    assert recipe.factor(0, 100) == pytest.approx(0.1)
    assert recipe.factor(50, 100) == pytest.approx(0.5)
    assert recipe.factor(99, 100) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 0.99))
    assert Recipe().factor(99, 100) == 1.0


@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_every_parameter_has_one_group_and_the_backbone_its_own(muon):
    recipe = Recipe(model=TINY, lr=3.0, lr_backbone=2.0, muon=muon)
    model = DETR(3, **TINY)
    lr = {id(p): g["initial_lr"] for o in make_optimizers(model, recipe) for g in o.param_groups for p in g["params"]}
    count = sum(len(g["params"]) for o in make_optimizers(model, recipe) for g in o.param_groups)
    assert count == len(lr) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        inside = p.ndim >= 2 and name.startswith(("backbone.body", "encoder", "decoder"))
        assert lr[id(p)] == (muon if muon and inside else 2.0 if name.startswith("backbone.body") else 3.0), name


def test_frozen_parameters_are_left_out():
    model = DETR(3, **TINY)
    model.backbone.project.weight.requires_grad_(False)
    owned = [p for o in make_optimizers(model, SHORT) for g in o.param_groups for p in g["params"]]
    assert all(p is not model.backbone.project.weight for p in owned)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 8), (2, 8, 32)])
def test_orthogonal(shape):
    m = torch.randn(shape)
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    found = orthogonal(m)
    assert torch.linalg.svdvals(found).min() > 0.4 and torch.linalg.svdvals(found).max() < 1.3
    assert ((u @ v) * found).sum((1, 2)).min() / shape[0] > 0         # the same directions
    assert torch.nn.functional.cosine_similarity((u @ v).flatten(1), found.flatten(1)).min() > 0.9


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_iteration_on_gram_matrices_is_that_on_the_whole(steps):
    m = torch.randn(2, 8, 20, dtype=torch.float64)
    x = m / m.norm(dim=(1, 2), keepdim=True)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    torch.testing.assert_close(orthogonal(m.float(), steps), x.float(), atol=1e-4, rtol=1e-4)


def test_muon_moves_convolutions_and_skips_the_rest():
    conv, idle = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.Parameter(torch.ones(2, 2))
    optimizer, before = Muon([*conv.parameters(), idle], lr=0.1), conv.weight.detach().clone()
    conv(torch.randn(1, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    moved = (before - conv.weight).flatten(1)
    assert torch.linalg.svdvals(moved / 0.1).max() < 1.3 and moved.abs().sum() > 0
    assert torch.equal(idle, torch.ones(2, 2))


def test_muon_goes_downhill():
    w = torch.nn.Parameter(torch.randn(6, 4))
    target, optimizer = torch.randn(6, 4), Muon([w], lr=0.05)
    first = (w - target).square().sum().item()
    for _ in range(100):
        optimizer.zero_grad()
        (w - target).square().sum().backward()
        optimizer.step()
    assert (w - target).square().sum().item() < first / 5


def test_batches_start_anywhere_and_cover_everything():
    whole = list(Batches(7, 3, 1, 0, 14))
    assert list(Batches(7, 3, 1, 9, 14)) == whole[9:]
    flat = sum(whole, [])
    assert all(sorted(flat[i:i + 7]) == list(range(7)) for i in range(0, 42, 7))
    assert flat[:7] != flat[7:14] and whole != list(Batches(7, 3, 2, 0, 14))


def test_precision_changes_products_and_not_the_result_type_of_the_loss():
    trainer = Trainer(DETR(3, **TINY), SHORT, CPU)
    with precision(CPU, True):
        out = trainer.model(torch.rand(2, 3, 64, 64))
    assert out["pred_logits"].dtype == (torch.bfloat16 if quick_bf16(CPU) else torch.float32)
    losses, _, _ = Trainer(DETR(3, **TINY), Recipe(bf16=True), CPU).step(collate([small()[0], small()[1]]))
    assert losses["total"].dtype == torch.float32


def test_history_has_losses_statistics_and_ap():
    model, history = quick(4, val=small(4, split="val"), log_every=2)
    assert [r["step"] for r in history] == [2, 4] and not model.training
    keys = {"loss_class", "loss_bbox", "loss_giou", "loss_class_0", "total", "grad_norm", "no_object"}
    assert keys | {"cardinality_error"} <= set(history[0])
    assert "AP50" in history[1] and "AP50" not in history[0]
    assert model.class_names == list(small().class_names) and model.window == [64, 64]
    assert curve(history, "AP50") == ([4], [history[1]["AP50"]])


def test_loss_falls_on_one_batch():
    batch = collate([small()[i] for i in range(2)])
    trainer = Trainer(DETR(3, **TINY | dict(dropout=0.0)), Recipe(lr=1e-3, lr_backbone=1e-3, clip=1.0), CPU)
    losses = [trainer.step(batch)[0]["total"].item() for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_is_clipped():
    trainer = Trainer(DETR(3, **TINY), Recipe(clip=1e-3), CPU)
    assert trainer.step(collate([small()[0]]))[0]["grad_norm"] > 1e-3
    assert torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm() <= 1.01e-3


def test_the_result_is_a_moving_average():
    trainer, batch = Trainer(DETR(3, **TINY), replace(SHORT, average=0.8), CPU), collate([small()[0], small()[1]])
    wanted = {k: v.double() for k, v in trainer.model.state_dict().items()}
    for _ in range(3):
        trainer.step(batch)
        now = trainer.model.state_dict()
        wanted = {k: 0.8 * v + 0.2 * now[k] if now[k].is_floating_point() else now[k] for k, v in wanted.items()}
    for k, v in trainer.result.state_dict().items():
        torch.testing.assert_close(v, wanted[k].to(v.dtype), rtol=1e-4, atol=1e-6)
    assert not torch.equal(trainer.result.query_embed.weight, trainer.model.query_embed.weight)
    plain = Trainer(DETR(3, **TINY), SHORT, CPU)
    assert plain.result is plain.model


def test_gradients_do_not_pile_up():
    still = Recipe(lr=0.0, lr_backbone=0.0, weight_decay=0.0, clip=1e9)
    trainer, batch = Trainer(DETR(3, **TINY | dict(dropout=0.0)), still, CPU), collate([small()[0], small()[1]])
    first, second = (trainer.step(batch)[0]["grad_norm"].item() for _ in range(2))
    assert first == pytest.approx(second, rel=1e-3)


def test_same_seed_same_weights_other_seed_others():
    a, b, c = (quick(2, seed=s)[0].state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["query_embed.weight"], c["query_embed.weight"])


@pytest.mark.parametrize("workers, recipe", [(0, SHORT), (1, SHORT), (0, replace(SHORT, average=0.5))])
def test_resumed_is_bit_equal(tmp_path, workers, recipe):
    straight, _ = quick(6, recipe=recipe, num_workers=workers)

    class Enough(Exception): pass

    def evaluate_and_die(*_): raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr("detr_lit.train.evaluate", evaluate_and_die)
        quick(6, recipe=recipe, out=tmp_path, save_every=2, eval_every=5, val=small(2), num_workers=workers)
    resumed, history = quick(6, recipe=recipe, out=tmp_path, resume=True, num_workers=workers)
    assert history[0]["step"] == 6
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()))


def test_another_training_s_checkpoint_is_refused(tmp_path):
    quick(2, out=tmp_path)
    with pytest.raises(ValueError, match="another training: seed is 0, wanted 1"):
        quick(2, out=tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match="another training: recipe.lr is 0.001, wanted 0.002"):
        quick(2, out=tmp_path, resume=True, recipe=Recipe(model=TINY, lr=2e-3))


def test_weights_of_a_finished_run_load(tmp_path):
    model, _ = quick(2, out=tmp_path)
    again = DETR.from_pretrained(tmp_path / "weights")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(image)["pred_boxes"], again(image)["pred_boxes"], rtol=1e-4, atol=1e-5)
    assert again.class_names == model.class_names and not again.training


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, this={}, step=1)

    def half(state, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt): save_checkpoint(file, this={}, step=2)
    assert load_checkpoint(file, {}, CPU)["step"] == 1


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_weights(say):
    log = kill_and_resume(4, seed=1, say=say)
    assert log["different"] == [] and all(row["killed"] and row["fine"] for row in log["kills"])


def test_a_model_can_go_on_and_must_know_the_classes():
    model, _ = quick(2)
    before = model.heads.class_head.weight.clone()
    again, _ = quick(2, model=model)
    assert again is model and not torch.equal(before, model.heads.class_head.weight)
    stranger = DETR(2, class_names=["cat", "dog"], **TINY)
    with pytest.raises(ValueError, match="the model knows .'cat', 'dog'.*see `refit`"): quick(2, model=stranger)


def test_diverging_is_named():
    with pytest.raises((FloatingPointError, ValueError), match="is not finite|wanted finite numbers"):
        quick(20, recipe=Recipe(model=TINY, lr=1e30))


def test_unknown_recipe():
    with pytest.raises(ValueError, match="'fast', 'laptop', 'paper', 'plain', 'trees'"): find_recipe("desktop")


def test_runs_load_only_what_was_asked_for_and_is_whole(tmp_path):
    ask = dict(recipe=SHORT, batch_size=2, data=small, val=lambda: small(2, split="val"), progress=False,
               weights=tmp_path / "weights")
    first = load_or_train(tmp_path / "run", 2, **ask)
    assert not first["loaded"] and first["history"][-1]["step"] == 2
    second = load_or_train(tmp_path / "run", 2, **ask | dict(data=None, val=None))
    assert second["loaded"] and second["history"] == as_json(first["history"])
    assert not load_or_train(tmp_path / "run", 3, **ask)["loaded"]              # another configuration
    assert load_or_train(tmp_path / "run", 3, **ask)["loaded"]
    (tmp_path / "weights" / "model.safetensors").unlink()
    assert not load_or_train(tmp_path / "run", 3, **ask)["loaded"]              # no longer whole
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["config"]["recipe"]["model"]["num_queries"] == 4 and stored["versions"]["torch"] == torch.__version__
    numbers = sum(p.numel() for p in DETR(3, **TINY).parameters())
    assert os.path.getsize(tmp_path / "weights" / "model.safetensors") < 2.2 * numbers + 2e4      # two bytes each


def test_defaults_are_the_syllabus_s():
    import inspect
    p = inspect.signature(train_detr).parameters
    assert list(p)[:2] == ["num_steps", "batch_size"] and (p["num_steps"].default, p["batch_size"].default) == (1000, 16)
    assert all(v.kind is v.KEYWORD_ONLY for k, v in p.items() if k not in ("num_steps", "batch_size"))


# The folder of a training


def files(folder): return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.suffix != ".md")


def test_a_folder_holds_checkpoint_log_best_and_weights(tmp_path):
    _, history = quick(4, out=tmp_path, val=small(4, split="val"), eval_every=2, log_every=1)
    weights = ["config.json", "model.safetensors"]
    kept = [f"{d}/{f}" for d in ("best", "weights") for f in weights]
    assert files(tmp_path) == sorted(["checkpoint.pt", "lock", "log.jsonl", *kept])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in history]
    assert rows == plain and any(v is None for v in rows[1].values())                  # AP of small boxes: JSON has no nan
    assert DETR.from_pretrained(tmp_path / "best").class_names == list(small().class_names)


def test_best_is_the_highest_and_nan_is_none():
    rows = [dict(AP=v) if v is not None else {} for v in (math.nan, 0.2, None, 0.1, 0.3, 0.3)]
    assert [is_best(rows[:n]) for n in range(1, 7)] == [False, True, False, False, True, False]


def test_best_keeps_the_weights_of_its_step(tmp_path, monkeypatch):
    aps, kept = iter([0.1, 0.5, 0.3]), []

    def judged(model, data):
        kept.append(model.query_embed.weight.clone())
        return dict(AP=next(aps), AP50=0.0)

    monkeypatch.setattr("detr_lit.train.evaluate", judged)
    quick(6, out=tmp_path, val=small(2), eval_every=2)
    best, last = (DETR.from_pretrained(tmp_path / name).query_embed.weight for name in ("best", "weights"))
    assert torch.equal(best, kept[1]) and torch.equal(last, kept[2])


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path):
    class Enough(Exception): pass

    def enough(step, model): raise Enough

    with pytest.raises(Enough): quick(6, out=tmp_path, save_every=2, log_every=1, val=small(2), eval_every=4, measure=enough)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3                  # row 3 lies behind checkpoint 2
    quick(6, out=tmp_path, save_every=2, log_every=1, resume=True)
    assert [json.loads(line)["step"] for line in open(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    saved, now = [], [0.0]
    monkeypatch.setattr("detr_lit.train.save_checkpoint", lambda path, **state: saved.append(state["step"]))
    monkeypatch.setattr("detr_lit.train.time.monotonic", lambda: now.__setitem__(0, now[0] + 20) or now[0])
    quick(10, out=tmp_path, save_every=100, save_minutes=1)
    assert saved and saved != [10] and saved[-1] == 10 and min(b - a for a, b in zip(saved, saved[1:])) > 1
    quick(10, out=tmp_path / "other", save_every=100)
    assert saved[-1] == 10 and saved.count(10) == 2                                     # without, only the last


def test_a_folder_in_use_is_refused_until_its_training_dies(tmp_path):
    code = ("import sys, time; from pathlib import Path; from detr_lit.train import locked\n"
            "with locked(Path(sys.argv[1])): print('mine', flush=True); time.sleep(300)")
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(RuntimeError, match=f"in use by process {other.pid} on .*; wait for its end"): quick(1, out=tmp_path)
    finally: other.kill()
    other.wait()
    quick(1, out=tmp_path)                                                              # a stale lock blocks nobody
    assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()


def test_where_files_can_not_be_locked_it_says_so(tmp_path, monkeypatch):
    import fcntl

    def fails(*_): raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.warns(UserWarning, match="can't be locked"), locked(tmp_path): pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path):
    quick(2, out=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"checkpoint.pt can't be written \(.*; the one before it is whole"):
        save_checkpoint(tmp_path / "checkpoint.pt", this={}, step=9, model=dict(w=torch.ones(10**5)))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before and not (tmp_path / "checkpoint.part").is_symlink()


def test_where_nothing_can_be_written_it_stops_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="out is .*file.*, where nothing can be written"): quick(1, out=tmp_path / "file")
    if os.geteuid() == 0: return                                                        # root may write anywhere
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="nothing can be written"): quick(1, out=tmp_path)
    finally: tmp_path.chmod(0o700)


def test_other_data_are_refused_with_the_difference(tmp_path):
    quick(2, out=tmp_path)
    with pytest.raises(ValueError, match=r"data.samples is 64, wanted 32"): quick(2, out=tmp_path, resume=True, data=small(32))
    with pytest.raises(ValueError, match=r"data.classes is \['rectangle', 'ellipse', 'triangle'\], wanted"):
        quick(2, out=tmp_path, resume=True, data=small(num_classes=2))
    old = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del old["this"]["data"]                                                             # as earlier versions wrote it
    torch.save(old, tmp_path / "checkpoint.pt")
    quick(2, out=tmp_path, resume=True)


def test_a_data_set_may_bring_a_fingerprint():
    class Folder(ToyDetectionDataset): fingerprint = "abc"

    assert describe(Folder(8))["fingerprint"] == "abc" and "fingerprint" not in describe(small())


def test_tensorboard_if_asked(tmp_path):
    pytest.importorskip("tensorboard")
    quick(2, out=tmp_path, log_every=1, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    quick(1, out=tmp_path / "without")
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_tensorboard_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("detr_lit.train.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'detr-lit\[tensorboard\]'"): Log(tmp_path, [], tensorboard=True)


def test_plot_of_a_run(tmp_path):
    quick(4, out=tmp_path, val=small(2, split="val"), eval_every=2, log_every=1)
    left, right = plot_run(tmp_path).axes
    assert [len(line.get_xdata()) for line in left.lines] == [4, 4, 4]
    assert [list(line.get_xdata()) for line in right.lines] == [[2, 4]] * 2
    assert plot_run(Path(__file__).parents[1] / "nbs/runs/toy-laptop-0").axes[1].lines[1].get_ydata()[-1] > 0.9


def test_the_command_of_the_module_is_train(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "--help"])
    with pytest.raises(SystemExit) as end: main()
    assert not end.value.code and "--recipe" in capsys.readouterr().out


def test_who_is_first(monkeypatch):
    assert is_first()
    monkeypatch.setenv("RANK", "1")
    assert not is_first()


class Pressed(ToyDetectionDataset):
    "Ctrl-C while the samples of the third step are made."
    def __getitem__(self, i):
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 6: signal.raise_signal(signal.SIGINT)
        return super().__getitem__(i)


@pytest.fixture
def interrupt():
    "Ctrl-C as a terminal has it, wherever the tests run; put back afterwards."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_is_ignored_stays_ignored(interrupt):
    signal.signal(signal.SIGINT, signal.SIG_IGN)                            # as by a shell for what runs in its background
    with patience() as asked: signal.raise_signal(signal.SIGINT)
    assert asked == [] and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_ends_the_step_and_is_saved(tmp_path, interrupt):
    def pressed(): return Pressed(64, image_size=64, max_objects=2)
    before, file = signal.getsignal(signal.SIGINT), tmp_path / "checkpoint.pt"
    straight, _ = quick(5)
    with pytest.raises(KeyboardInterrupt): quick(5, data=pressed(), out=tmp_path)
    state = torch.load(file, weights_only=True)
    assert state["step"] == 3 and signal.getsignal(signal.SIGINT) is before
    state["this"]["data"]["kind"] = "ToyDetectionDataset"                   # the same samples, by a class of another name
    torch.save(state, file)
    resumed, _ = quick(5, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()))
    with pytest.raises(KeyboardInterrupt): quick(5, data=pressed())         # nowhere to save: at once
    with patience() as asked:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)
    assert asked == [signal.SIGINT]
