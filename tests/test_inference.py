"Detections, windows and attention maps on small random models and on planted ones."
import math

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from detr_lit.detr import DETR, postprocess
from detr_lit.inference import (
    attention_entropy,
    attention_maps,
    draw_detections,
    predict,
    predict_and_visualize,
    predict_windows,
    show_encoder_attention,
    show_heads,
    windows,
)

TINY = dict(num_queries=7, d_model=32, n_heads=4, n_enc_layers=2, n_dec_layers=3, dim_ff=32, stride=16,
            backbone_name="convnet")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DETR(3, **TINY)
    with torch.no_grad():
        model.query_embed.weight.mul_(4)  # so that queries disagree, and some of them say "no object"
        model.heads.class_head.weight.mul_(150); model.heads.class_head.bias.zero_()
        model.heads.class_head.bias -= model.eval()(torch.rand(4, 3, 64, 64))["pred_logits"].mean((0, 1))
    return model.eval()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class Spots(DETR):
    "Query i reports the box around what has brightness (i + 1) / 20, exactly."
    def __init__(self, **kwargs):
        super().__init__(2, **{**TINY, "num_queries": 20}, **kwargs)
        self.sizes: list = []

    def forward(self, images, mask=None, **_):
        if isinstance(images, list): images = torch.stack(images)
        self.sizes.append(tuple(images.shape))
        B, _, H, W = images.shape
        logits, boxes = torch.zeros(B, 20, 3), torch.full((B, 20, 4), .5)
        logits[..., 0] = 9
        for q in range(20):
            spot = (images[:, 0] * 20).round() == q + 1
            rows, columns = spot.any(2).float(), spot.any(1).float()
            seen = rows.any(1)
            x0, x1 = columns.argmax(1) / W, 1 - columns.flip(1).argmax(1) / W
            y0, y1 = rows.argmax(1) / H, 1 - rows.flip(1).argmax(1) / H
            logits[seen, q] = torch.tensor([0., 0, 9])
            boxes[seen, q] = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)[seen]
        return dict(pred_logits=logits, pred_boxes=boxes)


SPOTS = Spots()


def scene(height, width, seed, n=20, largest=24):
    "Up to n spots of different brightness that don't touch, anywhere; -> image, boxes, queries to see them."
    g = torch.Generator().manual_seed(seed)
    image, boxes, queries = torch.zeros(3, height, width), [], []
    for q in range(n):
        h, w = torch.randint(4, min(largest, height, width) + 1, (2,), generator=g).tolist()
        y, x = (int(torch.randint(0, m - s + 1, (1,), generator=g)) for m, s in ((height, h), (width, w)))
        if image[:, max(0, y - 1):y + h + 1, max(0, x - 1):x + w + 1].any(): continue
        image[:, y:y + h, x:x + w] = (q + 1) / 20
        boxes.append([x, y, x + w, y + h]); queries.append(q)
    return image, torch.tensor(boxes).float(), queries


# ---------------------------------------------------------------- predict
def test_rules(model):
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad(): outputs = model(images)
    prob = outputs["pred_logits"].softmax(-1)
    every = postprocess(outputs, torch.tensor([[64, 64]] * 4))
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        for b, d in enumerate(predict(model, images, threshold)):
            wanted = [q for q in range(7) if prob[b, q].argmax() > 0 and prob[b, q, 1:].max() >= threshold]
            assert d["queries"].tolist() == wanted
            for k in d: assert torch.allclose(d[k], every[b][k][wanted])
    assert 0 < sum(len(d["queries"]) for d in predict(model, images, 0.0)) < 28  # argmax alone leaves some out


def test_default_threshold(model):
    images = torch.rand(4, 3, 64, 64)
    for a, b in zip(predict(model, images), predict(model, images, 0.7)): assert torch.equal(a["queries"], b["queries"])


def test_forms_of_images(model):
    images = torch.rand(2, 3, 64, 96)
    batch, rows, one = predict(model, images, 0.), predict(model, list(images), 0.), predict(model, images[1], 0.)
    assert len(batch) == len(rows) == 2 and len(one) == 1
    for a, b in [(batch[0], rows[0]), (batch[1], rows[1]), (batch[1], one[0])]:
        assert set(a) == {"scores", "labels", "boxes", "queries"}
        assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)
    assert predict(model, []) == []


def test_boxes_in_own_pixels():
    spots = Spots()
    spots.forward = lambda images, **_: Spots.forward(spots, list(torch.nn.utils.rnn.pad_sequence(  # type: ignore
        [im.permute(1, 2, 0) for im in images], batch_first=True).permute(0, 3, 1, 2)))
    image = torch.zeros(3, 40, 90); image[:, 10:20, 30:75] = .05
    assert predict(spots, [image])[0]["boxes"].round(decimals=3).tolist() == [[30, 10, 75, 20]]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(model, training):
    model.train(training)
    image = torch.rand(3, 64, 64)
    a, b = predict(model, image, 0.)[0], predict(model, image, 0.)[0]
    assert torch.equal(a["boxes"], b["boxes"]) and model.training == training  # no dropout
    attention_maps(model, image); predict_windows(model, image, window=32, image_size=32)
    predict_and_visualize(model, image, 0.)
    assert model.training == training and all(m.training == training for m in model.modules())
    with pytest.raises(ValueError): predict(model, image[:2])
    assert model.training == training


def test_mode_is_restored_after_an_error(model):
    def fail(*_, **__): raise RuntimeError("no")
    model.train().backbone.forward = fail
    with pytest.raises(RuntimeError): predict(model, torch.rand(3, 64, 64))
    assert model.training and torch.is_grad_enabled()


@pytest.mark.parametrize("image, says", [
    (torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8), r"images\[0\] is torch.uint8 \[3, 8, 8\]"),
    (torch.rand(3, 8, 8) * 255, r"images\[0\] runs from"),
    (torch.randn(3, 64, 64) * 2, "not normalised by hand"),
    (torch.rand(1, 8, 8), r"want floats \[3, H, W\]"),
    (torch.rand(8, 8), r"images\[0\] is torch.float32 \[8, 8\]"),
])
def test_refuses(model, image, says):
    with pytest.raises(ValueError, match=says): predict(model, image)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_refuses_thresholds(model, threshold):
    with pytest.raises(ValueError, match="score_threshold"): predict(model, torch.rand(3, 64, 64), threshold)


# ---------------------------------------------------------------- windows
@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 500), side=st.integers(1, 200), overlap=st.floats(0, 0.9))
@example(length=129, side=128, overlap=0.5)
@example(length=128, side=128, overlap=0.5)
@example(length=3, side=1, overlap=0.9)
def test_every_point_has_one_owner(length, side, overlap):
    cover = windows(length, side, overlap)
    points = torch.cat([torch.arange(-3, length + 3, .5), torch.tensor([c for _, c, _ in cover[1:]])])
    first, last = torch.tensor([c[1:] for c in cover]).T
    assert (((points[:, None] >= first) & (points[:, None] < last)).sum(1) == 1).all()
    starts = [s for s, *_ in cover]
    assert starts[0] == 0 and starts == sorted(set(starts)) and (len(cover) == 1 or starts[-1] + side == length)
    for (a, *_), (b, *_) in zip(cover, cover[1:]): assert a + side - b >= min(side - 1, overlap * side) - 1
    for start, first, last in cover:  # a core lies in its window
        assert start <= max(first, 0) < min(last, length) <= start + side


@pytest.mark.parametrize("side, overlap", [(0, .5), (10, 1.0), (10, -.1)])
def test_windows_refuse(side, overlap):
    with pytest.raises(ValueError, match="windows want"): windows(100, side, overlap)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(30, 160), width=st.integers(30, 160), seed=st.integers(0, 999))
@example(height=178, width=60, seed=0)
def test_planted_spots_are_found_once(height, width, seed):
    "Objects no larger than the overlap, wherever they lie: each found once, whole, and nothing else."
    image, boxes, queries = scene(height, width, seed)
    found = predict_windows(SPOTS, image, window=48, image_size=48)
    order = found["queries"].argsort()
    assert found["queries"][order].tolist() == queries
    assert torch.allclose(found["boxes"][order], boxes, atol=1e-3)


def test_resized_windows():
    "Shrunk by two and back."
    image, boxes, queries = scene(96, 160, 0, n=1, largest=20)
    image, boxes = image.repeat_interleave(2, 1).repeat_interleave(2, 2), boxes * 2
    spots = Spots()
    found = predict_windows(spots, image, window=96, image_size=48)
    assert {s[-2:] for s in spots.sizes} == {(48, 48)}
    best = box_iou(found["boxes"], boxes).max(0).values
    assert (best > .7).all()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_of_windows(batch_size):
    image, boxes, queries = scene(100, 180, 1)
    spots = Spots()
    found = predict_windows(spots, image, window=48, image_size=48, batch_size=batch_size)
    assert sorted(found["queries"].tolist()) == queries and max(s[0] for s in spots.sizes) <= batch_size


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 20)])
def test_no_larger_than_the_window(model, size):
    image = torch.rand(3, *size)
    a, b = predict(model, image, 0.)[0], predict_windows(model, image, 0., window=64, image_size=64)
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a) and len(a["queries"])


def test_model_with_window():
    image, boxes, queries = scene(90, 150, 2)
    spots = Spots(window=[48, 48])
    a, b = predict(spots, image)[0], predict_windows(spots, image, window=48, image_size=48)
    assert torch.equal(a["boxes"], b["boxes"]) and sorted(a["queries"].tolist()) == queries


def test_model_with_window_mixed_list():
    "Large ones by windows, small ones as they are, in the order given."
    large, _, queries = scene(90, 150, 3)
    small = torch.zeros(3, 32, 32); small[:, 4:9, 5:20] = 7 / 20
    found = predict(Spots(window=[48, 48]), [small, large, small])
    assert [sorted(d["queries"].tolist()) for d in found] == [[6], queries, [6]]


def test_model_with_window_resizes():
    spots = Spots(window=[96, 48])
    for size in [(96, 96), (48, 40), (80, 96)]: predict(spots, torch.zeros(3, *size))
    assert [s[-2:] for s in spots.sizes] == [(48, 48), (48, 40), (40, 48)]


def test_nothing_found():
    found = predict_windows(Spots(), torch.zeros(3, 100, 100), window=48, image_size=48)
    assert {k: tuple(v.shape) for k, v in found.items()} == dict(scores=(0,), labels=(0,), boxes=(0, 4), queries=(0,))


# ---------------------------------------------------------------- attention
@pytest.mark.parametrize("size, cells", [((64, 64), (4, 4)), ((96, 192), (6, 12)), ((50, 70), (4, 5))])
def test_maps(model, size, cells):
    maps = attention_maps(model, torch.rand(3, *size))
    assert maps["decoder"].shape == (3, 4, 7, *cells) and maps["encoder"].shape == (2, 4, *cells, *cells)
    for m in maps.values(): assert (m >= 0).all() and torch.allclose(m.sum((-1, -2)), torch.ones(()), atol=1e-5)


def test_maps_are_the_models_own(model):
    image = torch.rand(3, 64, 96)
    with torch.no_grad(): out = model(image[None], return_attention=True)
    maps = attention_maps(model, image)
    for layer in range(3): assert torch.allclose(maps["decoder"][layer].flatten(-2), out["decoder_attention"][layer][0])
    q = maps["encoder"][1, 2].reshape(24, 24)
    assert torch.allclose(q, out["encoder_attention"][1][0, 2], atol=1e-6)


def test_padding_is_never_read(model):
    image, mask = torch.zeros(3, 96, 128), torch.ones(96, 128, dtype=torch.bool)
    image[:, :64, :80], mask[:64, :80] = torch.rand(3, 64, 80), False
    maps = attention_maps(model, image, mask)
    for m in maps.values(): assert m[..., 4:, :].eq(0).all() and m[..., 5:].eq(0).all()


def test_no_encoder():
    maps = attention_maps(DETR(3, **{**TINY, "n_enc_layers": 0}), torch.rand(3, 64, 64))
    assert len(maps["encoder"]) == 0 and maps["decoder"].shape == (3, 4, 7, 4, 4)


def test_entropy():
    one = torch.zeros(5, 6); one[2, 3] = 1
    assert attention_entropy(one) == 0
    assert attention_entropy(torch.full((2, 5, 6), 1 / 30)) == pytest.approx([1, 1])
    half = torch.zeros(4, 4); half[:2] = 1 / 8
    assert attention_entropy(half).item() == pytest.approx(math.log(8) / math.log(16))


# ---------------------------------------------------------------- figures
@pytest.mark.parametrize("size", [(64, 64), (48, 160), (160, 48), (50, 70)])
def test_visualize(model, size):
    image = torch.rand(3, *size)
    found, figure = predict_and_visualize(model, image, 0.)
    assert all(torch.allclose(found[k], v, atol=1e-3) for k, v in predict(model, image, 0.)[0].items())
    assert len(figure.axes) == 1 + len(found["queries"])
    titles = {ax.get_title() for ax in figure.axes[1:]}
    rows = zip(*(found[k].tolist() for k in ("queries", "labels", "scores")))
    assert titles == {f"query {q}: class {c}, {score:.2f}" for q, c, score in rows}
    assert {t.get_text() for t in figure.axes[0].texts} == {str(q) for q in found["queries"].tolist()}  # a number at each box
    figure.canvas.draw()


def test_visualize_surest_first_and_limit(model):
    found, figure = predict_and_visualize(model, torch.rand(3, 64, 64), 0., max_queries=2)
    assert len(found["queries"]) > 2 and len(figure.axes) == 3
    assert figure.axes[1].get_title().startswith(f"query {found['queries'][found['scores'].argmax()]}:")


def test_visualize_draws_the_last_layer(model):
    image = torch.rand(3, 64, 64)
    found, figure = predict_and_visualize(model, image, 0.)
    last = attention_maps(model, image)["decoder"][-1].mean(0)
    for ax in figure.axes[1:]:
        query = int(ax.get_title().split()[1][:-1])
        assert query in found["queries"]
        drawn = torch.as_tensor(ax.images[1].get_array())
        assert torch.allclose(drawn, last[query] / last[query].max(), atol=1e-4)


def test_visualize_nothing(model):
    with torch.no_grad(): model.heads.class_head.bias[0] = 1e4
    found, figure = predict_and_visualize(model, torch.rand(3, 64, 64))
    assert len(found["queries"]) == 0 and len(figure.axes) == 1
    figure.canvas.draw()


def test_visualize_padded(model):
    image, mask = torch.zeros(3, 96, 128), torch.ones(96, 128, dtype=torch.bool)
    image[:, :64, :80], mask[:64, :80] = torch.rand(3, 64, 80), False
    found, _ = predict_and_visualize(model, image, 0., mask=mask)
    with torch.no_grad(): outputs = model(image[None], mask[None])
    every = postprocess(outputs, torch.tensor([[64, 80]]))[0]
    assert len(found["queries"]) and torch.allclose(found["boxes"], every["boxes"][found["queries"]], atol=1e-3)


def test_visualize_windows():
    torch.manual_seed(0)
    model = DETR(3, **TINY, window=[96, 48])
    image = torch.rand(3, 96, 80)
    found, _ = predict_and_visualize(model, image, 0.)
    assert torch.allclose(found["boxes"], predict(model, image, 0.)[0]["boxes"], atol=1e-3)
    large = torch.rand(3, 200, 80)
    found, figure = predict_and_visualize(model, large, 0., max_queries=3)
    assert torch.allclose(found["boxes"], predict(model, large, 0.)[0]["boxes"]) and "corners" not in found
    for ax in figure.axes[1:]: assert ax.images[0].get_extent()[1:3] == [80, 96]  # each shows its window


def test_draws_class_and_score(model):
    boxes = [[5., 10, 30, 20], [0, 0, 64, 32]]
    found = dict(scores=torch.tensor([.9, .8]), labels=torch.tensor([1, 3]), boxes=torch.tensor(boxes),
                 queries=torch.tensor([0, 4]))
    _, ax = plt.subplots()
    draw_detections(ax, torch.rand(3, 32, 64), found, ["a", "b", "c"])
    assert {t.get_text() for t in ax.texts} == {"a 0.90", "c 0.80"}
    assert [p.get_bbox().extents.tolist() for p in ax.patches] == [pytest.approx(b, abs=1e-4) for b in boxes]
    _, ax = plt.subplots()
    draw_detections(ax, torch.rand(3, 32, 64), {k: v.repeat_interleave(30, 0) for k, v in found.items()})
    assert len(ax.patches) == 60 and not ax.texts


def test_heads_and_encoder(model):
    figure = show_heads(model, torch.rand(3, 48, 96), 2)
    assert len(figure.axes) == 12
    figure = show_encoder_attention(model, torch.rand(3, 48, 96), [(0, 0), (95, 47)])
    assert len(figure.axes) == 3
    figure.canvas.draw()
    with pytest.raises(ValueError, match=r"point 2 is \(96, 3\)"):
        show_encoder_attention(model, torch.rand(3, 48, 96), [(1, 1), (96, 3)])
