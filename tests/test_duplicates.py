"""Chapter 12: decoder layers without self-attention, suppression, and who claims which object."""
import pytest
import torch
from torchvision.ops import box_iou

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR, postprocess
from detr_lit.duplicates import (
    DuplicateReport,
    claims_on,
    deafened,
    duplicate_numbers,
    every_layer,
    in_pixels,
    said,
    suppress,
)
from detr_lit.evaluate import collect
from detr_lit.train import Recipe, train_detr

TINY = dict(num_queries=6, d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=3, dim_ff=32, backbone_name="convnet",
            stride=16, norm="batch", dropout=0.0)


def model(**changes):
    torch.manual_seed(0)
    made = DETR(3, **TINY | changes)
    for p in made.decoder.parameters(): p.data += 0.3 * torch.randn_like(p)
    return made.eval()


def small(n=6, **kw): return ToyDetectionDataset(n, image_size=64, max_objects=4, split="val", **kw)


def boxes(*rows): return torch.tensor(rows, dtype=torch.float32)


TRUTH = dict(boxes=boxes([0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]), labels=torch.tensor([1, 1, 2]))
FOUND = dict(boxes=boxes([0, 0, 10, 10], [0, 1, 10, 11], [20, 0, 30, 9], [0, 20, 10, 30], [0, 1, 10, 10], [40, 40, 50, 50]),
             scores=torch.tensor([.6, .9, .8, .7, .5, .4]), labels=torch.tensor([1, 1, 1, 1, 2, 1]))


def test_suppression_by_loops():
    order, stay = FOUND["scores"].argsort(descending=True).tolist(), []
    for i in order:
        near = box_iou(FOUND["boxes"][i:i + 1], FOUND["boxes"][stay])[0] > 0.5 if stay else torch.zeros(0)
        if not any(n and FOUND["labels"][j] == FOUND["labels"][i] for n, j in zip(near, stay)): stay.append(i)
    after, = suppress([FOUND])
    assert torch.equal(after["boxes"], FOUND["boxes"][stay]) and 0 not in stay and 4 in stay      # another class stays
    assert len(suppress([FOUND], 1.0)[0]["scores"]) == 6
    nothing = {k: v[:0] for k, v in FOUND.items()}
    assert len(suppress([nothing])[0]["scores"]) == 0


def test_claims_by_hand():
    assert claims_on([FOUND], [TRUTH])[0].tolist() == [2, 1, 0]       # the third has a box on it, of another class
    assert claims_on([FOUND], [TRUTH], 0.95)[0].tolist() == [1, 0, 0]
    nothing = {k: v[:0] for k, v in TRUTH.items()}
    assert claims_on([FOUND], [nothing])[0].tolist() == []
    assert claims_on([{k: v[:0] for k, v in FOUND.items()}], [TRUTH])[0].tolist() == [0, 0, 0]


def test_a_detection_claims_one_object_only():
    truth = dict(boxes=boxes([0, 0, 10, 10], [0, 2, 10, 12]), labels=torch.tensor([1, 1]))
    found = dict(boxes=boxes([0, 1.5, 10, 11.5]), scores=torch.tensor([.9]), labels=torch.tensor([1]))
    assert claims_on([found], [truth])[0].tolist() == [0, 1]


def test_every_layer_is_what_the_model_says():
    m = model()
    layers, targets, sizes = every_layer(m, small(), batch_size=4)
    images, _, wanted = collate([small()[i] for i in range(6)])
    with torch.no_grad(): outputs = m(images)
    for got, one in zip(layers, [*outputs["aux_outputs"], outputs], strict=True):
        for k, v in got.items(): torch.testing.assert_close(v, one[k], atol=1e-5, rtol=1e-4)
    detections, truths = collect(m, small())
    for a, b in zip(in_pixels(targets, sizes), truths, strict=True): torch.testing.assert_close(a["boxes"], b["boxes"])
    torch.testing.assert_close(postprocess(layers[-1], sizes)[2]["scores"], detections[2]["scores"])
    assert not m.train().eval().training and len(wanted) == len(targets)


def test_only_objects_are_said():
    logits = torch.tensor([[[3., 0, 0, 0], [0, 3, 0, 0]]])
    got, = said(dict(pred_logits=logits, pred_boxes=torch.full((1, 2, 4), .5)), torch.tensor([[64, 64]]))
    assert got["queries"].tolist() == [1] and got["labels"].tolist() == [1]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_skipping_leaves_the_sublayer_out_and_the_weights_in(pre_norm):
    whole, deaf = model(pre_norm=pre_norm), model(pre_norm=pre_norm, skip_self_attention=(0, 1, 2))
    assert whole.state_dict().keys() == deaf.state_dict().keys()
    deaf.load_state_dict(whole.state_dict())
    layer, args = deaf.decoder.layers[1], [torch.randn(2, n, 16) for n in (6, 9, 9, 6)]
    x, memory, pos, queries = args
    def norm(n, t): return n(t)
    def look(t): return layer.cross_attn(t + queries, memory + pos, memory)[0]
    y = x + look(layer.norm2(x)) if pre_norm else layer.norm2(x + look(x))
    y = y + layer.ffn(layer.norm3(y)) if pre_norm else layer.norm3(y + layer.ffn(y))
    torch.testing.assert_close(layer(*args), y, atol=1e-5, rtol=1e-4)


def test_a_deaf_slot_does_not_see_the_others():
    deaf, image = model(skip_self_attention=[0, 1, 2]), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = deaf(image)["pred_logits"][0, 1:].clone()
        deaf.query_embed.weight[0] += 1
        torch.testing.assert_close(deaf(image)["pred_logits"][0, 1:], before)
        whole = model()
        before = whole(image)["pred_logits"][0, 1:].clone()
        whole.query_embed.weight[0] += 1
        assert not torch.allclose(whole(image)["pred_logits"][0, 1:], before, atol=1e-4)


def test_weights_reload_with_the_option_and_without(tmp_path):
    deaf, image = model(skip_self_attention=(1, 2)), torch.rand(1, 3, 64, 64)
    deaf.save_pretrained(tmp_path)
    again, hearing = DETR.from_pretrained(tmp_path), DETR.from_pretrained(tmp_path, skip_self_attention=())
    assert [layer.self_attention for layer in again.decoder.layers] == [True, False, False]
    with torch.no_grad():
        torch.testing.assert_close(again(image)["pred_logits"], deaf(image)["pred_logits"])
        assert not torch.allclose(hearing(image)["pred_logits"], deaf(image)["pred_logits"], atol=1e-4)


def test_deafened_for_a_while():
    m, image = model(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = m(image)["pred_logits"]
        with deafened(m, 1): less = m(image)["pred_logits"]
        assert not torch.allclose(whole, less, atol=1e-4) and torch.equal(m(image)["pred_logits"], whole)
    with pytest.raises(RuntimeError), deafened(m, 0): raise RuntimeError
    assert all(layer.self_attention for layer in m.decoder.layers)


def test_numbers_of_a_perfect_layer_and_of_one_that_says_all_twice():
    targets = [small()[i][1] for i in range(4)]
    sizes = torch.full((4, 2), 64)
    n = max(len(t["labels"]) for t in targets)
    logits, placed = torch.zeros(4, 2 * n, 4), torch.full((4, 2 * n, 4), .01)
    logits[..., 0] = 9
    for i, t in enumerate(targets):
        m = len(t["labels"])
        for start, sure in ((0, 9), (n, 8)):
            placed[i, start:start + m] = t["boxes"]
            logits[i, start:start + m, 0] = 0
            logits[i, torch.arange(start, start + m), t["labels"]] = sure
    numbers = duplicate_numbers(dict(pred_logits=logits, pred_boxes=placed), in_pixels(targets, sizes), sizes)
    assert numbers["found"] == numbers["doubles"] == 1.0 and numbers["AP_nms"] >= numbers["AP"]
    once = {k: v[:, :n] for k, v in dict(pred_logits=logits, pred_boxes=placed).items()}
    numbers = duplicate_numbers(once, in_pixels(targets, sizes), sizes)
    assert numbers["AP50"] == pytest.approx(1) and numbers["doubles"] == 0 and numbers["found"] == 1


def test_report_in_a_training_and_a_training_without_self_attention():
    exam = small(8)
    recipe = Recipe(model=TINY | dict(skip_self_attention=(0, 2)), lr=1e-3)
    trained, history = train_detr(2, 4, recipe=recipe, data=small(8), val=exam, progress=False, measure=DuplicateReport(exam))
    row = history[-1]
    assert row["layer2_AP50"] == pytest.approx(row["AP50"], abs=1e-6) and "cut1_AP50" in row and "cut0_AP50" not in row
    claims = torch.cat(claims_on(said(every_layer(trained, exam)[0][-1], torch.full((8, 2), 64)), collect(trained, exam)[1]))
    assert row["layer2_found"] == pytest.approx((claims > 0).float().mean().item())
    assert {f"crowd{2 * ((len(exam[i][1]['labels']) + 1) // 2)}_AP" for i in range(8)} <= set(row)
    with deafened(trained, 1): without = duplicate_numbers(every_layer(trained, exam)[0][-1],
                                                           collect(trained, exam)[1], torch.full((8, 2), 64))
    assert without["doubles"] == pytest.approx(row["cut1_doubles"])
