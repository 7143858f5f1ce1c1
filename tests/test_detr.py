"""The assembled model: contracts, named errors, invariances, gradients, files."""

import inspect
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from detr_lit import detr
from detr_lit.backbone import freeze_stem
from detr_lit.data import collate, pad_images
from detr_lit.detr import (
    DETR,
    ExtraQueries,
    as_batch,
    bundled,
    find_weights,
    grid_boxes,
    place_codes,
    postprocess,
    shrink_mask,
)
from detr_lit.gaze import cell_centres
from detr_lit.loss import DetrLoss
from detr_lit.position import PositionalEncoding2D

SMALL = dict(
    num_queries=6, d_model=32, n_heads=4, n_enc_layers=2, n_dec_layers=3, dim_ff=64, backbone_name="convnet", stride=16,
    norm="batch",
)  # fmt: skip


def small(**changes):
    return DETR(**(SMALL | changes)).eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small()


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 96)


def test_constructor_is_the_syllabus_to_the_letter():
    parameters = list(inspect.signature(DETR.__init__).parameters.values())[1:]
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(
        dict(num_classes=3, num_queries=100, d_model=256, n_heads=8, n_enc_layers=6, n_dec_layers=6, dim_ff=2048,
             backbone_name="resnet18").items()
    )  # fmt: skip
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[8:])


def test_parameters_equal_the_official_module():
    model = DETR(num_classes=91, num_queries=100, backbone_name="resnet50")
    assert sum(p.numel() for p in model.parameters()) == 41_524_768
    freeze_stem(model.backbone.body)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368
    assert not model.encoder.norm.state_dict()  # post-norm: no norm at the end of the encoder


def test_names_of_the_weights_stay():
    "Published weights and the book's artefacts are kept under these names."
    top = {name.partition(".")[0] for name in small().state_dict()}
    assert top == {"backbone", "encoder", "decoder", "query_embed", "heads"}
    names = set(small(query_boxes=True, position="learned").state_dict())
    assert {
        "query_box", "query_embed.weight", "position.row.weight", "backbone.project.weight", "heads.class_head.weight",
        "heads.bbox_head.4.bias", "encoder.layers.0.self_attn.in_proj_weight",
        "decoder.layers.2.cross_attn.in_proj_weight",
        "decoder.layers.0.ffn.0.weight", "decoder.norm.weight",
    } <= names  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {}, dict(query_boxes=True), dict(query_boxes=True, gaze="soft"), dict(query_boxes=True, gaze="points"),
        dict(pre_norm=True), dict(position="learned"),
        dict(n_dec_layers=1),
    ],
)
def test_outputs(changes, images):
    model = small(num_classes=5, **changes)
    out = model(images)
    assert set(out) == {"pred_logits", "pred_boxes", "aux_outputs"}
    assert len(out["aux_outputs"]) == changes.get("n_dec_layers", 3) - 1
    for layer in (out, *out["aux_outputs"]):
        assert layer["pred_logits"].shape == (3, 6, 6) and layer["pred_boxes"].shape == (3, 6, 4)
        assert 0 <= layer["pred_boxes"].min() and layer["pred_boxes"].max() <= 1
    assert all(set(a) == {"pred_logits", "pred_boxes"} for a in out["aux_outputs"])


def test_list_tensor_and_mask_agree(model, images):
    listed = [images[0], images[1, :, :48, :80], images[2, :, :, :33]]
    batch, mask = pad_images(listed)
    out, same = model(listed), model(batch, mask)
    assert torch.equal(out["pred_logits"], same["pred_logits"])
    assert torch.equal(model(list(images))["pred_boxes"], model(images)["pred_boxes"])
    no_padding = model(images, torch.zeros(3, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(no_padding["pred_logits"], model(images)["pred_logits"], rtol=1e-4, atol=1e-5)
    collated, its_mask, _ = collate([(im, {}) for im in listed])
    assert torch.equal(model(collated, its_mask)["pred_logits"], out["pred_logits"])


def test_normalised_inside_and_padding_zero_afterwards(model, images):
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[0, 40:], mask[1, :, 50:] = True, True
    seen = []
    hook = model.backbone.register_forward_hook(lambda m, args, y: seen.append(args[0]))
    model(images, mask)
    model(images)
    hook.remove()
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (images - mean) / std
    torch.testing.assert_close(seen[1], expected)
    assert (seen[0][0, :, 40:] == 0).all() and (seen[0][1, :, :, 50:] == 0).all()
    torch.testing.assert_close(seen[0][2], expected[2])


def test_mask_shrinks_by_nearest_pixel():
    mask = torch.ones(2, 65, 100, dtype=torch.bool)
    mask[0, :33, :64], mask[1, :1, :1] = False, False
    tiny = shrink_mask(mask, (5, 7))
    assert all(
        tiny[b, i, j] == mask[b, int(i * 65 / 5), int(j * 100 / 7)]
        for b in range(2)
        for i in range(5)
        for j in range(7)
    )
    assert not tiny[:, 0, 0].any() and tiny.dtype == torch.bool


@pytest.mark.parametrize(
    "changes",
    [
        {}, dict(pre_norm=True), dict(query_boxes=True, temperature=20.0), dict(query_boxes=True, gaze="soft"),
        dict(query_boxes=True, gaze="points"),
        dict(position="learned"),
    ],
)
def test_padded_and_masked_features_change_nothing(changes):
    model, x = small(**changes), torch.randn(2, 32, 4, 5)
    wider = 7 * torch.randn(2, 32, 6, 8)
    wider[:, :, :4, :5] = x
    mask = torch.ones(2, 6, 8, dtype=torch.bool)
    mask[:, :4, :5] = False
    with torch.no_grad():
        outs, padded, unmasked = (model.transform(*args)[0] for args in ((x,), (wider, mask), (wider,)))
    for a, b in zip(outs, padded):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert (outs[-1] - unmasked[-1]).abs().max() > 1e-2


def test_garbage_under_the_mask_changes_nothing(model, images):
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[:, 48:], mask[:, :, 64:] = True, True
    other = torch.where(mask[:, None], torch.rand_like(images) * 50, images)
    assert torch.equal(model(images, mask)["pred_boxes"], model(other, mask)["pred_boxes"])


def test_images_of_a_batch_do_not_know_each_other(model, images):
    out, order = model(images), [2, 0, 1]
    torch.testing.assert_close(model(images[order])["pred_logits"], out["pred_logits"][order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(images[1:2])["pred_boxes"], out["pred_boxes"][1:2], rtol=1e-4, atol=1e-5)


def test_eval_is_deterministic_and_dropout_trains(images):
    model = DETR(**(SMALL | dict(dropout=0.3))).eval()
    assert torch.equal(model(images)["pred_logits"], model(images)["pred_logits"])
    model.train()
    assert not torch.equal(model(images)["pred_logits"], model(images)["pred_logits"])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention(pre_norm, images):
    model = small(pre_norm=pre_norm)
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, 32:] = True
    out, plain = model(images, mask, return_attention=True), model(images, mask)
    torch.testing.assert_close(out["pred_logits"], plain["pred_logits"], rtol=1e-4, atol=1e-5)
    assert out["feature_size"] == (4, 6) and len(out["encoder_attention"]) == 2 and len(out["decoder_attention"]) == 3
    for maps, rows in ((out["encoder_attention"], 24), (out["decoder_attention"], 6)):
        for m in maps:
            assert m.shape == (3, 4, rows, 24)
            torch.testing.assert_close(m.sum(-1), torch.ones(3, 4, rows))
            assert (m[1, :, :, 12:] == 0).all() and (m[0] > 0).all()
    assert not {"encoder_attention", "decoder_attention", "feature_size"} & set(plain)


@pytest.mark.parametrize(
    "changes",
    [
        {}, dict(query_boxes=True, gaze="soft"), dict(query_boxes=True, gaze="points"),
        dict(backbone_name="resnet18", norm="frozen", stride=32),
    ],
)
def test_gradient_reaches_every_parameter(changes, images):
    model = DETR(**(SMALL | dict(dropout=0.0) | changes))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    targets = [dict(labels=torch.tensor([1, 3]), boxes=torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]]))] * 3
    for _ in range(3):  # at first some biases are zero, and what is multiplied with them has no gradient
        optimiser.zero_grad()
        DetrLoss(3)(model(images), targets)["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    strength = {name: p.grad.abs().max().item() for name, p in model.named_parameters()}
    idle = {name for name, s in strength.items() if s <= 1e-8 * max(strength.values())}
    assert idle == {"decoder.layers.0.self_attn.in_proj_weight"}  # its values are one constant: appendix A.3


def test_half_precision_model_and_autocast(images):
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out["pred_logits"].isfinite().all()
    low = small().bfloat16()(images)  # images are cast to the model's type
    assert low["pred_boxes"].dtype == torch.bfloat16
    assert torch.equal(model(images.double())["pred_boxes"], model(images)["pred_boxes"])


@pytest.mark.parametrize("side", [1, 7, 16, 17])
def test_images_smaller_than_the_stride(model, side):
    assert model(torch.rand(1, 3, side, side))["pred_boxes"].isfinite().all()
    out = model([torch.rand(3, side, side), torch.rand(3, 40, 90)], return_attention=True)
    assert out["pred_boxes"].isfinite().all() and out["feature_size"] == (3, 6)


@pytest.mark.parametrize(
    "bad, says",
    [
        (lambda im: (im.mul(255).byte(),), "uint8"),
        (lambda im: (im[0],), r"\[3, 64, 96\]"),
        (lambda im: (im[:, :2],), r"\[3, 2, 64, 96\]"),
        (lambda im: (im.permute(0, 2, 3, 1),), r"\[3, 64, 96, 3\]"),
        (lambda im: (im[:0],), r"\[0, 3, 64, 96\]"),
        (lambda im: (im[:, :, :0],), r"\[3, 3, 0, 96\]"),
        (lambda im: (im, torch.zeros(3, 64, 95, dtype=torch.bool)), r"mask.*\[3, 64, 95\].*\[3, 64, 96\]"),
        (lambda im: (im, torch.zeros(3, 1, 64, 96, dtype=torch.bool)), "mask"),
        (lambda im: (im, torch.zeros(3, 64, 96)), "mask is torch.float32"),
        (lambda im: (list(im), torch.zeros(3, 64, 96, dtype=torch.bool)), "mask"),
    ],
)
def test_bad_input_is_refused_by_name(model, images, bad, says):
    with pytest.raises(ValueError, match=says):
        model(*bad(images))


@pytest.mark.parametrize(
    "bad", [[], [torch.rand(1, 3, 8, 8)], [torch.rand(1, 8, 8)], [torch.zeros(3, 8, 8, dtype=torch.uint8)]]
)
def test_bad_lists_are_refused(bad):
    with pytest.raises(Exception, match="(?i)image"):
        as_batch(bad)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(position="sinus"), "position is 'sinus'"),
        (dict(norm="layer"), "norm is 'layer'"),
        (dict(backbone_name="resnet17"), "resnet17"),
        (dict(gaze="soft"), "gaze='soft' wants query_boxes=True"), (dict(gaze="hard"), "gaze is 'hard'"),
        (dict(num_classes=0), "num_classes is 0"),
        (dict(num_queries=0), "num_queries is 0"),
        (dict(n_dec_layers=0), "n_dec_layers is 0"),
        (dict(d_model=30, n_heads=5), "30"),
        (dict(d_model=32, n_heads=5), "n_heads"),
        (dict(stride=12), "stride is 12"),
        (dict(class_names=["cat", "dog"]), "class_names are 2; num_classes is 3"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, says):
    with pytest.raises(ValueError, match=says):
        small(**changes)


def test_class_names():
    assert small(num_classes=2).class_names == ["class 1", "class 2"]
    assert small(num_classes=2, class_names=["cat", "dog"]).class_names == ["cat", "dog"]


def test_the_same_seed_gives_the_same_model():
    a, b = ((torch.manual_seed(1), small())[1].state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_transformer_matrices_are_xavier():
    model = small(d_model=128, dim_ff=512)
    for name, p in [*model.encoder.named_parameters(), *model.decoder.named_parameters()]:
        if p.dim() > 1:
            bound = math.sqrt(6 / (p.shape[0] + p.shape[1]))
            assert p.abs().max() <= bound and p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert model.query_embed.weight.std().item() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("n", [1, 2, 6, 9, 25, 100])
def test_grid_boxes(n):
    boxes = grid_boxes(n).sigmoid()
    assert boxes.shape == (n, 4) and len({tuple(round(v, 4) for v in b[:2].tolist()) for b in boxes}) == n
    torch.testing.assert_close(boxes[:, 2:], torch.full((n, 2), 0.25))
    assert (boxes[:, :2] > 0).all() and (boxes[:, :2] < 1).all()


@pytest.mark.parametrize("position", ["sine", "learned"])
def test_query_boxes_start_on_the_grid(position, images):
    model = small(num_queries=9, query_boxes=True, position=position, temperature=20.0)
    out = model(images)
    for layer in (out, *out["aux_outputs"]):
        torch.testing.assert_close(layer["pred_boxes"], grid_boxes(9).sigmoid().expand(3, -1, -1))


def test_place_codes_are_nearest_to_their_own_cell():
    code = PositionalEncoding2D(32, 20.0)(torch.zeros(1, 32, 12, 12))[0].flatten(1)
    best = (place_codes(grid_boxes(9), PositionalEncoding2D(32, 20.0)) @ code).argmax(1)
    cells = torch.stack([best % 12, best // 12], -1).float() + 0.5
    assert (cells / 12 - grid_boxes(9)[:, :2].sigmoid()).abs().max() < 0.1


def test_boxed_queries_by_hand(images):
    "Each layer looks from the box's place and corrects it; only the last step of the chain carries a gradient."
    model = small(num_queries=5, query_boxes=True, temperature=20.0)
    torch.nn.init.normal_(model.heads.bbox_head[-1].weight, std=0.2)
    x, _ = model.features(images)
    tokens, pos = (t.flatten(2).transpose(1, 2) for t in (x, model.position(x)))
    memory, box, tgt = (
        model.encoder(tokens, pos),
        model.query_box.expand(len(images), -1, -1),
        torch.zeros(len(images), 5, 32),
    )
    out = model(images)
    for layer, found in zip(model.decoder.layers, [*out["aux_outputs"], out]):
        tgt = layer(tgt, memory, pos, model.query_embed.weight + place_codes(box, model.place_code))
        logits, boxes = model.heads(model.decoder.norm(tgt), box)
        torch.testing.assert_close(found["pred_boxes"], boxes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["pred_logits"], logits, rtol=1e-4, atol=1e-5)
        box = boxes.detach().logit()
    first = torch.autograd.grad(out["aux_outputs"][0]["pred_boxes"].sum(), model.query_box, retain_graph=True)[0]
    assert (first != 0).all()
    last = [torch.autograd.grad(b.sum(), model.query_box, retain_graph=True)[0] for b in (out["pred_boxes"], boxes)]
    torch.testing.assert_close(*last, rtol=1e-3, atol=1e-6)


def test_gaze_draws_attention_to_the_box(images):
    "Untrained, a query of a DETR with gaze reads near its own box, each head on another side of it."
    model = small(num_queries=9, query_boxes=True, gaze="soft", temperature=20.0)
    out = model(images, return_attention=True)
    cells = cell_centres(torch.zeros(3, 1, *out["feature_size"])).flatten(1, 2)
    middle = out["decoder_attention"][0] @ cells[:, None]  # images, heads, queries, (x, y)
    here = grid_boxes(9).sigmoid()[:, :2]
    assert (middle.mean(1) - here).abs().max() < 0.06
    assert middle[:, 0, :, 0].mean() > middle[:, 2, :, 0].mean() + 0.02  # right of left
    assert middle[:, 1, :, 1].mean() > middle[:, 3, :, 1].mean() + 0.02  # below above


@pytest.mark.parametrize("how", ["soft", "points"])
def test_each_layer_asks_by_what_the_last_one_said_its_query_and_its_place(images, how):
    model = small(query_boxes=True, gaze=how)
    torch.nn.init.normal_(model.heads.bbox_head[-1].weight, std=0.2)
    seen, said = [], [torch.zeros(3, 6, 32)]
    for gaze in model.gaze:
        gaze.register_forward_pre_hook(lambda m, args: seen.append(args[:2]))
    model.decoder.norm.register_forward_hook(lambda m, args, y: said.append(y))
    out = model(images)
    boxes = [grid_boxes(6).sigmoid().expand(3, -1, -1), *(layer["pred_boxes"] for layer in out["aux_outputs"])]
    assert len(seen) == 3
    for (ask, box), before, found in zip(seen, said, boxes):
        torch.testing.assert_close(box, found, atol=1e-4, rtol=0)
        wanted = before + model.query_embed.weight + place_codes(box.logit(), PositionalEncoding2D(32))
        torch.testing.assert_close(ask, wanted, atol=1e-3, rtol=0)


def test_points_read_what_their_boxes_hold_and_nothing_else():
    "What changes far from its box does not change a query's answer, after one decoder layer and without an encoder."
    model = small(num_queries=4, query_boxes=True, gaze="points", n_enc_layers=0, n_dec_layers=1)
    x = torch.randn(1, 32, 8, 8)
    far = x.clone()
    far[:, :, :, 5:] += 1.0  # the right third; the boxes of queries 0 and 2 end at 3 / 8
    with torch.no_grad():
        (a,), (b,) = model.transform(x)[0], model.transform(far)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]]) and (a[:, [1, 3]] - b[:, [1, 3]]).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["soft", "points"])
def test_gaze_works_in_half_precision(images, how):
    model = small(query_boxes=True, gaze=how).train()
    exact = model(images)["pred_boxes"]
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, torch.zeros(3, 64, 96, dtype=torch.bool))
    assert (out["pred_boxes"] - exact).abs().max() < 0.02
    assert small(query_boxes=True, gaze=how).bfloat16()(images)["pred_boxes"].isfinite().all()
    out["pred_logits"].float().pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_no_object_prior(images):
    prob = small(no_object_prior=0.9, query_boxes=True)(images)["pred_logits"].softmax(-1)[..., 0]
    assert 0.7 < prob.mean() < 0.97


def test_postprocess():
    out = dict(
        pred_logits=torch.tensor([[[9.0, 0, 1], [0, 3, 0]]] * 2),
        pred_boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0, 0, 0, 0]]] * 2),
    )
    first, second = postprocess(out, torch.tensor([[100, 200], [10, 20]]))
    assert first["labels"].tolist() == [2, 1] and first["queries"].tolist() == [
        0,
        1,
    ]  # no object never wins, nothing is dropped
    torch.testing.assert_close(first["scores"], out["pred_logits"][0].softmax(-1)[[0, 1], [2, 1]])
    torch.testing.assert_close(first["boxes"][0], torch.tensor([80.0, 30, 120, 70]))
    torch.testing.assert_close(second["boxes"][0], torch.tensor([8.0, 3, 12, 7]))
    assert set(first) == {"scores", "labels", "boxes", "queries"} and first["labels"].dtype == torch.int64
    half = postprocess({k: v.bfloat16() for k, v in out.items()}, torch.tensor([[100, 200], [10, 20]]))
    assert half[0]["scores"].dtype == half[0]["boxes"].dtype == torch.float32
    with pytest.raises(ValueError, match="sizes has 1 rows; outputs are for 2 images"):
        postprocess(out, torch.tensor([[100, 200]]))


# ---------------------------------------------------------------- files
def test_round_trip(tmp_path, images, capsys):
    model = small(num_classes=2, class_names=["cat", "dog"], window=[208, 128], query_boxes=True, no_object_prior=0.9)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {f.name for f in tmp_path.iterdir()}
    back = DETR.from_pretrained(tmp_path)
    assert (
        not back.training and back.class_names == ["cat", "dog"] and back.window == [208, 128] and back.num_classes == 2
    )
    assert torch.equal(back(images)["pred_boxes"], model(images)["pred_boxes"])
    again = DETR.from_pretrained(str(tmp_path), temperature=77.0)
    assert again.position.temperature == 77.0
    assert capsys.readouterr().out == ""  # a program that prints JSON must be able to load a model


def test_half_precision_file_gives_a_float32_model(tmp_path, images):
    model = small()
    wanted = model(images)["pred_boxes"]
    model.half().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["query_embed.weight"].dtype == torch.float16
    back = DETR.from_pretrained(tmp_path)
    assert all(v.dtype == torch.float32 for v in back.state_dict().values() if v.is_floating_point())
    torch.testing.assert_close(back(images)["pred_boxes"], wanted, rtol=0, atol=0.01)


def test_weights_of_another_architecture_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"heads.class_head.bias: \[4\] in the file, \[6\] in the model"):
        DETR.from_pretrained(tmp_path, num_classes=5)
    with pytest.raises(ValueError, match="in the file, nothing in the model"):
        DETR.from_pretrained(tmp_path, n_enc_layers=1)
    with pytest.raises(ValueError, match=r"query_box: nothing in the file, \[6, 4\] in the model"):
        DETR.from_pretrained(tmp_path, query_boxes=True)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "query_embed.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 of its weights differ.*query_embed"):
        DETR.from_pretrained(tmp_path)


def test_damaged_and_missing_files(tmp_path):
    small().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        DETR.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        DETR.from_pretrained(tmp_path)


def test_loading_never_downloads_the_backbones_first_weights(tmp_path, monkeypatch):
    small(backbone_name="resnet18", norm="frozen", stride=32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | dict(backbone_weights="IMAGENET1K_V1")))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download"))
    DETR.from_pretrained(tmp_path)


def test_names(tmp_path, monkeypatch):
    package = tmp_path / "detr_lit"
    monkeypatch.setattr(detr.resources, "files", lambda name: package)
    for name in ("toy", "trees", "tyo"):
        with pytest.raises(FileNotFoundError, match=f"'{name}'.*toy, trees"):
            DETR.from_pretrained(name)
    with pytest.raises(FileNotFoundError):
        DETR.from_pretrained("runs/of/mine")
    with pytest.raises(FileNotFoundError):
        DETR.from_pretrained(tmp_path / "nothing")
    assert find_weights("owner/name") == "owner/name"
    small().save_pretrained(package / "weights" / "toy")
    small(num_classes=1).save_pretrained(tmp_path / "nbs" / "runs" / "trees" / "weights")
    assert bundled("toy") == package / "weights" / "toy"
    assert DETR.from_pretrained("toy").num_classes == 3 and DETR.from_pretrained("trees").num_classes == 1
    with pytest.raises(FileNotFoundError, match="toy, trees can be found"):
        bundled("other")


def test_places_in_values_in_plain_steps(images):
    "The slots start as their queries, and memory holds its positions; keys have them once more."
    torch.manual_seed(0)
    net = small(places_in_values=True)
    x, _ = net.features(images)
    tokens, pos = (t.flatten(2).transpose(1, 2) for t in (x, net.position(x)))
    queries = net.query_embed.weight.expand(3, -1, -1)
    outs = net.decoder(queries, net.encoder(tokens, pos) + pos, pos, queries)
    for layer, out in zip([*net(images)["aux_outputs"], net(images)], outs):
        torch.testing.assert_close(layer["pred_logits"], net.heads(out)[0])
    plain = small()
    plain.load_state_dict(net.state_dict())
    assert (plain(images)["pred_logits"] - net(images)["pred_logits"]).abs().max() > 1e-3


def test_query_grid_starts_at_the_codes_of_cells():
    net = small(num_queries=4, query_grid=True, temperature=20.0)
    cells = PositionalEncoding2D(32, 20.0)(torch.zeros(1, 32, 4, 4))[0]
    corner = cells[:, [0, 0, 2, 2], [0, 2, 0, 2]].T        # the codes count from 1 / 4: cell 0 is at a quarter
    assert torch.allclose(net.query_embed.weight, corner, atol=1e-5) and net.query_embed.weight.requires_grad


def test_extra_queries_are_answered_behind_the_models_own(images):
    torch.manual_seed(0)
    net = small(query_boxes=True)
    deaf = torch.zeros(8, 8, dtype=torch.bool)
    extra = ExtraQueries(torch.randn(3, 2, 32), torch.randn(3, 2, 4), deaf)
    out = net(images, extra=extra)
    assert out["pred_boxes"].shape == (3, 8, 4) and out["aux_outputs"][0]["pred_logits"].shape == (3, 8, 4)
    torch.testing.assert_close(out["aux_outputs"][0]["pred_boxes"][:, 6:], extra.boxes.sigmoid())   # a fresh head moves nothing
    with pytest.raises(ValueError, match="extra.boxes is None"): net(images, extra=extra._replace(boxes=None))
