"""Official weights: names, rows, architectures, checksums, COCO; and what fine-tuning keeps."""

import argparse
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from torchvision.ops import box_convert

import detr_lit
from detr_lit import pretrained
from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR
from detr_lit.evaluate import METRICS, evaluate
from detr_lit.pretrained import (
    OFFICIAL,
    architecture,
    as_transformers,
    coco_names,
    evaluate_coco,
    fetch_official,
    from_official,
    load_official,
    official_size,
    read_coco,
    refit,
    swap_no_object,
    to_official,
)


def official_shapes(blocks=(3, 4, 6, 3), bottleneck=True, d=256, ff=2048, enc=6, dec=6, queries=100, rows=92):
    "Names and shapes of the official module, written down from its definition; not made by our code."
    shapes = {}

    def norm(name, c):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (c,)

    def linear(name, out, into):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def attention(name):
        shapes[f"{name}.in_proj_weight"], shapes[f"{name}.in_proj_bias"] = (3 * d, d), (3 * d,)
        linear(f"{name}.out_proj", d, d)

    def layer_norm(name):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (d,), (d,)

    body = "backbone.0.body."
    shapes[body + "conv1.weight"] = (64, 3, 7, 7)
    norm(body + "bn1", 64)
    into = 64
    for stage, n in enumerate(blocks):
        width = 64 * 2**stage
        out = width * (4 if bottleneck else 1)
        for i in range(n):
            at = f"{body}layer{stage + 1}.{i}."
            convs = [(width, into, 1), (width, width, 3), (out, width, 1)] if bottleneck else [(width, into, 3), (out, width, 3)]
            for k, (o, c, size) in enumerate(convs, 1):
                shapes[f"{at}conv{k}.weight"] = (o, c, size, size)
                norm(f"{at}bn{k}", o)
            if i == 0 and into != out:
                shapes[at + "downsample.0.weight"] = (out, into, 1, 1)
                norm(at + "downsample.1", out)
            into = out
    for side, n, attentions, norms in (("encoder", enc, ["self_attn"], 2), ("decoder", dec, ["self_attn", "multihead_attn"], 3)):
        for i in range(n):
            at = f"transformer.{side}.layers.{i}."
            for a in attentions:
                attention(at + a)
            linear(at + "linear1", ff, d)
            linear(at + "linear2", d, ff)
            for k in range(norms):
                layer_norm(f"{at}norm{k + 1}")
    layer_norm("transformer.decoder.norm")
    linear("class_embed", rows, d)
    for k, out in enumerate((d, d, 4)):
        linear(f"bbox_embed.layers.{k}", out, d)
    shapes["query_embed.weight"] = (queries, d)
    shapes["input_proj.weight"], shapes["input_proj.bias"] = (d, into, 1, 1), (d,)
    return shapes


def official(**sizes):
    return {name: torch.rand(shape) + 0.5 for name, shape in official_shapes(**sizes).items()}


SMALL = dict(blocks=(2, 2, 2, 2), bottleneck=False, d=32, ff=48, enc=1, dec=2, queries=5, rows=4)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return official(**SMALL)


# ---------------------------------------------------------------- names and rows
@pytest.mark.parametrize(
    "blocks, name, parameters", [((3, 4, 6, 3), "resnet50", 41_302_368), ((3, 4, 23, 3), "resnet101", 60_242_272)]
)
def test_official_names_and_shapes_load(blocks, name, parameters):
    shapes = official_shapes(blocks)
    if name == "resnet50":
        assert len(shapes) == 458 and sum(n.startswith("backbone") for n in shapes) == 265
    weights = {n: torch.zeros(s) for n, s in shapes.items()}
    weights["class_embed.bias"][91] = 1.0
    model = load_official({"model": weights, "epoch": 3})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters  # as the authors' logs print
    assert not model.training and model.num_queries == 100 and model.num_classes == 91
    assert model.heads.class_head.bias.nonzero().tolist() == [[0]]
    assert model.backbone.body.conv1.weight.requires_grad is False


def test_each_weight_lands_where_it_belongs(small):
    model = load_official(small, n_heads=4)
    ours = model.state_dict()
    assert len(ours) == len(small)
    for theirs, mine in {
        "backbone.0.body.layer2.0.downsample.1.running_var": "backbone.body.layer2.0.downsample.1.running_var",
        "input_proj.bias": "backbone.project.bias",
        "transformer.encoder.layers.0.linear1.weight": "encoder.layers.0.ffn.0.weight",
        "transformer.encoder.layers.0.linear2.bias": "encoder.layers.0.ffn.3.bias",
        "transformer.decoder.layers.1.multihead_attn.in_proj_weight": "decoder.layers.1.cross_attn.in_proj_weight",
        "transformer.decoder.layers.1.norm3.weight": "decoder.layers.1.norm3.weight",
        "transformer.decoder.norm.bias": "decoder.norm.bias",
        "bbox_embed.layers.0.weight": "heads.bbox_head.0.weight",
        "bbox_embed.layers.1.weight": "heads.bbox_head.2.weight",
        "bbox_embed.layers.2.weight": "heads.bbox_head.4.weight",
        "query_embed.weight": "query_embed.weight",
    }.items():
        assert torch.equal(small[theirs], ours[mine]), theirs
    for part in ("weight", "bias"):
        rows = small[f"class_embed.{part}"]
        assert torch.equal(ours[f"heads.class_head.{part}"], rows[[3, 1, 2, 0]])


def test_there_and_back(small):
    again = to_official(from_official(small))
    assert again.keys() == small.keys() and all(torch.equal(again[n], w) for n, w in small.items())
    rows = torch.arange(3.0)
    assert swap_no_object(rows).tolist() == [2, 1, 0] and rows.tolist() == [0, 1, 2]  # its argument stays
    counted = small | {"backbone.0.body.bn1.num_batches_tracked": torch.tensor(7)}
    assert from_official(counted).keys() == from_official(small).keys()


def test_labels_of_coco_are_its_ids():
    names = coco_names()
    assert len(names) == 91 and names[0] == "person" and names[17 - 1] == "cat" and names[90 - 1] == "toothbrush"
    assert [i + 1 for i, n in enumerate(names) if n == "N/A"] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]


@pytest.mark.parametrize("blocks, bottleneck, name", [((2, 2, 2, 2), False, "resnet18"), ((3, 4, 6, 3), False, "resnet34"),
                                                      ((3, 8, 36, 3), True, "resnet152")])
def test_shapes_tell_the_architecture(blocks, bottleneck, name):
    meta = {n: torch.empty(s, device="meta") for n, s in official_shapes(blocks, bottleneck, 64, 96, 0, 3, 7, 21).items()}
    assert architecture(meta) == dict(num_classes=20, num_queries=7, d_model=64, dim_ff=96, n_enc_layers=0,
                                      n_dec_layers=3, pre_norm=False, backbone_name=name)
    assert architecture(meta | {"transformer.encoder.norm.weight": meta["transformer.decoder.norm.weight"]})["pre_norm"]


def test_dilation_and_heads_are_told():
    torch.manual_seed(0)
    weights = official(d=32, ff=48, enc=1, dec=1, queries=5)
    sizes = {
        dc5: load_official(weights, n_heads=4, **kw)(torch.rand(1, 3, 64, 96), return_attention=True)["feature_size"]
        for dc5, kw in ((False, {}), (True, dict(stride=16, dilation=True)))
    }
    assert sizes == {False: (2, 3), True: (4, 6)}


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: {f"detr.{n}": t for n, t in w.items()}, "not the weights of the official detector: no class_embed"),
        (lambda w: {n: t for n, t in w.items() if "layer3.1" not in n}, r"no ResNet has \(2, 2, 1, 2\) blocks"),
        (lambda w: {n: t for n, t in w.items() if n != "transformer.decoder.norm.bias"}, "norm.bias: nothing in the file"),
        (lambda w: w | {"backbone.1.row_embed.weight": torch.rand(50, 16)}, "row_embed.weight: .50, 16. in the file, nothing"),
        (lambda w: w | {"input_proj.bias": torch.rand(31)}, "project.bias: .31. in the file, .32. in the model"),
        (lambda w: {}, "not the weights of the official detector"),
    ],
)
def test_what_does_not_fit_is_refused(small, change, says):
    with pytest.raises(ValueError, match=says):
        load_official(change(small), n_heads=4)


# ---------------------------------------------------------------- files
@pytest.fixture
def hub(tmp_path, monkeypatch, small):
    "An empty cache, and a server's folder with one checkpoint, saved as the official training saves it."
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    server = tmp_path / "server"
    server.mkdir()
    torch.save(dict(model=small, args=argparse.Namespace(lr=1e-4), epoch=1), server / "x")
    file = f"detr-small-{hashlib.sha256((server / 'x').read_bytes()).hexdigest()[:8]}.pth"
    (server / "x").rename(server / file)
    return server, file


def test_from_pretrained_downloads_checks_and_loads(hub, monkeypatch, small):
    server, file = hub
    monkeypatch.setattr(pretrained, "OFFICIAL", {"detr_resnet50": (file, dict(n_heads=4))})
    monkeypatch.setattr(pretrained, "fetch_official", lambda f: fetch_official(f, server.as_uri() + "/"))
    for name in ("detr_resnet50", "facebook/detr-resnet-50"):
        model = DETR.from_pretrained(name, class_names=["b", "c", "a"])
        assert torch.equal(model.query_embed.weight, small["query_embed.weight"])
    assert model.class_names == ["b", "c", "a"]
    (server / file).unlink()
    assert DETR.from_pretrained("detr_resnet50").num_queries == 5  # from the cache


def test_a_wrong_checksum_is_refused(hub, tmp_path):
    server, file = hub
    (server / file).rename(server / "detr-small-00000000.pth")
    with pytest.raises(RuntimeError, match="can't be downloaded .invalid hash"):
        fetch_official("detr-small-00000000.pth", server.as_uri() + "/")
    assert not (tmp_path / "hub/checkpoints/detr-small-00000000.pth").exists()
    (server / "detr-small-00000000.pth").rename(server / file)
    cached = fetch_official(file, server.as_uri() + "/")
    cached.write_bytes(cached.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is damaged"):
        fetch_official(file, server.as_uri() + "/")


def test_no_network_says_where_to_put_the_file(hub):
    server, _ = hub
    with pytest.raises(RuntimeError, match="can't be downloaded.*save it as .*checkpoints/detr-r50-00000000.pth"):
        fetch_official("detr-r50-00000000.pth", server.as_uri() + "/")


def test_the_four_names():
    assert len(OFFICIAL) == 4 and set(DETR.sources) >= {*OFFICIAL, "facebook/detr-resnet-50", "facebook/detr-resnet-101-dc5"}
    assert detr_lit.load_official is load_official


def test_a_damaged_file_is_named(tmp_path, small):
    torch.save(dict(model=small), tmp_path / "half.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "half.pth").read_bytes()[:-5000])
    with pytest.raises(ValueError, match="half.pth is damaged, or no checkpoint"):
        load_official(tmp_path / "half.pth")


def test_a_pickle_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save(dict(model=Evil()), tmp_path / "evil.pth")
    with pytest.raises(Exception, match="Weights only load failed|weights_only"):
        load_official(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- the twin, fine-tuning, publishing
@pytest.mark.parametrize(
    "changes",
    [
        dict(query_boxes=True), dict(pre_norm=True), dict(position="learned"), dict(norm="batch"), dict(temperature=20.0),
        dict(stride=16), dict(backbone_name="convnet"),
    ],
)  # fmt: skip
def test_no_twin_for_what_transformers_lacks(changes):
    with pytest.raises(ValueError, match="transformers has no such DETR"):
        as_transformers(DETR(3, 4, 32, 4, 1, 1, 48, **changes))


TOY = dict(num_classes=3, num_queries=6, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=48,
           backbone_name="convnet", norm="batch", stride=16)  # fmt: skip


@pytest.mark.parametrize("changes", [{}, dict(query_boxes=True, gaze="soft"), dict(query_boxes=True, gaze="points")])
def test_refit_keeps_all_but_the_class_head(changes, caplog):
    torch.manual_seed(1)
    model = DETR(**TOY, **changes)
    model.backbone.project.bias.requires_grad_(False)
    state = {n: w.clone() for n, w in model.state_dict().items()}
    with caplog.at_level(logging.WARNING, "detr_lit"):
        new = refit(model, class_names=["cat", "dog"], num_queries=9)
    assert "the class head is new for 2 classes; 6 of 6 queries are kept, 3 are new" in caplog.text
    assert new.class_names == ["cat", "dog"] and new.num_queries == 9
    for name, w in new.state_dict().items():
        if name.startswith("heads.class_head"):
            assert w.shape[0] == 3
        elif name.startswith("query_"):
            assert torch.equal(w[:6], state[name]) and w[6:].isfinite().all() and len(w) == 9
        else:
            assert torch.equal(w, state[name]), name
    assert not new.backbone.project.bias.requires_grad and new.backbone.project.weight.requires_grad
    assert all(torch.equal(w, state[n]) for n, w in model.state_dict().items())  # the model itself stays
    new.query_embed.weight.data.zero_()
    assert model.query_embed.weight.abs().max() > 0  # nothing is shared


def test_refit_of_queries_alone_keeps_the_classes(caplog):
    model = DETR(**TOY, class_names=["a", "b", "c"])
    new = refit(model, num_queries=4)
    assert "the class head is kept for 3 classes; 4 of 6 queries are kept, 0 are new" in caplog.text
    assert new.class_names == ["a", "b", "c"] and torch.equal(new.heads.class_head.weight, model.heads.class_head.weight)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        refit(model).eval()(image)["pred_boxes"]
        assert torch.equal(refit(model).eval()(image)["pred_boxes"], model.eval()(image)["pred_boxes"])


def test_card_and_push(tmp_path, monkeypatch):
    "Everything but the network: what would be uploaded holds weights, configuration and a card with the numbers."
    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kw: type("Repo", (), dict(repo_id=repo_id)))

    def upload(self, repo_id, folder_path, **kw):
        sent["name"] = repo_id
        sent.update({f.name: f.read_bytes() for f in Path(folder_path).iterdir()})

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = DETR(**TOY, class_names=["ring", "cross", "star"])
    model.push_to_hub("me/shapes", model_card_kwargs=dict(metrics=dict(AP=0.123, AP50=0.456), data="my shapes"))
    assert sent["name"] == "me/shapes" and {"README.md", "config.json", "model.safetensors"} <= set(sent)
    card = sent["README.md"].decode()
    assert "ring, cross, star" in card and "| AP50 | 0.456 |" in card and "value: 0.123" in card and "my shapes" in card
    (tmp_path / "w.safetensors").write_bytes(sent["model.safetensors"])
    assert load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()
    assert json.loads(sent["config.json"])["class_names"] == ["ring", "cross", "star"]


# ---------------------------------------------------------------- COCO
@pytest.mark.parametrize(
    "size, wanted",
    [
        ((480, 640), (800, 1066)), ((640, 480), (1066, 800)), ((427, 640), (800, 1199)), ((400, 1600), (333, 1332)),
        ((1600, 400), (1332, 333)), ((800, 800), (800, 800)),
    ],
)  # fmt: skip
def test_official_size(size, wanted):
    assert official_size(*size) == wanted


def test_read_coco(coco):
    pairs = read_coco(coco)
    assert [p.name for p, _ in pairs] == [f"{i}.png" for i in range(8)]
    image, target = ToyDetectionDataset(8, split="val")[0]
    truth = pairs[0][1]
    torch.testing.assert_close(truth["boxes"].float(), box_convert(target["boxes"], "cxcywh", "xyxy") * 128)
    assert truth["labels"].tolist() == target["labels"].tolist()
    assert pairs[2][1]["boxes"].shape == (0, 4) and pairs[2][1]["labels"].dtype == torch.int64
    assert pairs[5][1]["iscrowd"].tolist()[:2] == [1, 0][: len(pairs[5][1]["iscrowd"])]
    with pytest.raises(FileNotFoundError, match="instances_train2017.json is not there"):
        read_coco(coco, "train2017")
    file = coco / "annotations/instances_val2017.json"
    rows = json.loads(file.read_text())
    rows["annotations"][0]["image_id"] = 999
    file.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="annotation 1 has no image 999"):
        read_coco(coco)


def test_evaluate_coco_is_pycocotools(coco):
    "The same images through the model by hand, scored by the reference implementation from the very file."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model = DETR.from_pretrained("toy")
    numbers = evaluate_coco(model, coco, short=128, progress=False)
    truth = COCO(str(coco / "annotations/instances_val2017.json"))
    truth.dataset["categories"] = [dict(id=i, name=str(i)) for i in (1, 2, 3)]
    truth.createIndex()
    found = []
    for path, i in zip(sorted((coco / "val2017").iterdir()), [100 - 7 * i for i in range(8)]):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
        with torch.no_grad():
            out = model(image[None])
        scores, labels = out["pred_logits"][0].softmax(-1)[:, 1:].max(-1)
        for s, k, b in zip(scores, labels, box_convert(out["pred_boxes"][0] * 128, "cxcywh", "xywh").tolist()):
            found.append(dict(image_id=i, category_id=int(k) + 1, bbox=b, score=float(s)))
    judge = COCOeval(truth, truth.loadRes(found), "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    for name, v in zip(METRICS, judge.stats):
        if v >= 0:
            assert abs(numbers[name] - v) < 1e-5, name
    assert numbers["AP50"] > 0.7


def test_evaluate_coco_resizes_and_scales_back(coco):
    "Twice as large inside, and boxes still in the photograph's own pixels."
    model = DETR.from_pretrained("toy")
    seen = []
    model.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape[-2:])))
    numbers = evaluate_coco(model, coco, short=160, longest=200, progress=False)
    assert set(seen) == {(160, 160)} and numbers["AP50"] > 0.3
    plain = evaluate(model, [ToyDetectionDataset(8, split="val")[i] for i in (0, 1, 3, 4, 6, 7)])
    assert plain["AP50"] > 0.7


def test_evaluate_coco_refuses_labels_that_the_model_has_not(coco):
    with pytest.raises(ValueError, match="has category 3; the model's labels end at 2"):
        evaluate_coco(DETR(**(TOY | dict(num_classes=2))), coco, progress=False)
